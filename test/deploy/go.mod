module github.com/lockstep-ci/lockstep/test/deploy

go 1.26.0
