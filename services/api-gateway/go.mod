module github.com/lockstep-ci/lockstep/services/api-gateway

go 1.26.0

require github.com/lockstep-ci/lockstep/pkg/jobs v0.0.0

require github.com/lockstep-ci/lockstep/migrations v0.0.0

replace github.com/lockstep-ci/lockstep/pkg/jobs => ../../pkg/jobs

replace github.com/lockstep-ci/lockstep/migrations => ../../migrations

require (
	github.com/coder/websocket v1.8.15
	github.com/google/go-cmp v0.7.0
	github.com/google/go-github/v60 v60.0.0
	github.com/jackc/pgx/v5 v5.12.0
	go.uber.org/zap v1.28.0
)
