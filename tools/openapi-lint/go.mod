module github.com/lockstep-ci/lockstep/tools/openapi-lint

go 1.26.0

tool github.com/lockstep-ci/lockstep/tools/openapi-lint

require github.com/speakeasy-api/openapi v1.25.6

require (
	github.com/kr/text v0.2.0 // indirect
	github.com/santhosh-tekuri/jsonschema/v6 v6.0.3 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/text v0.43.0 // indirect
	gopkg.in/yaml.v3 v3.0.1 // indirect
)
