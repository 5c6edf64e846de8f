module github.com/lockstep-ci/lockstep/pkg/jobs

go 1.26.0

require github.com/lockstep-ci/lockstep/migrations v0.0.0

require github.com/google/go-cmp v0.7.0

replace github.com/lockstep-ci/lockstep/migrations => ../../migrations
