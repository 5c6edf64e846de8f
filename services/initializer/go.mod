module github.com/lockstep-ci/lockstep/services/initializer

go 1.26.0

require github.com/lockstep-ci/lockstep/pkg/jobs v0.0.0

require github.com/lockstep-ci/lockstep/migrations v0.0.0

replace github.com/lockstep-ci/lockstep/pkg/jobs => ../../pkg/jobs

replace github.com/lockstep-ci/lockstep/migrations => ../../migrations
