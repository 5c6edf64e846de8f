module github.com/lockstep-ci/lockstep/services/runner

go 1.26.0

require (
	github.com/google/go-cmp v0.7.0
	golang.org/x/sys v0.49.0
	pgregory.net/rapid v1.3.0
)

replace github.com/lockstep-ci/lockstep/pkg/jobs => ../../pkg/jobs

replace github.com/lockstep-ci/lockstep/migrations => ../../migrations
