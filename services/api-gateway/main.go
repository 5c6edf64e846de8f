// Command api-gateway is the way in: webhooks and the API make runs; pages, API and WebSocket show them.
package main

import (
	"context"
	"fmt"
	"net"

	"go.uber.org/zap"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/service"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/gateway"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/redeliver"
)

const name = "api-gateway"

func main() { service.Main(name, &config{}, run) }

func run(ctx context.Context) error {
	var cfg config
	if err := service.Load(&cfg); err != nil {
		return err
	}
	log, err := service.NewLogger(cfg.LogLevel)
	if err != nil {
		return err
	}
	again, err := cfg.options()
	if err != nil {
		return err
	}
	users, err := cfg.users()
	if err != nil {
		return fmt.Errorf("GITHUB_OAUTH_USERS: %w", err)
	}
	db, err := jobs.Open(ctx, cfg.DatabaseURL, jobs.Options{App: name, ListenURL: cfg.ListenDatabaseURL, Log: log})
	if err != nil {
		return err
	}
	defer db.Close()
	if err := service.ServeOps(ctx, cfg.OpsAddr, db, log); err != nil {
		return err
	}

	finder, err := redeliver.New(db, again, log)
	if err != nil {
		return err
	}
	go finder.Run(ctx) // what it does not end, the next one does

	listener, err := net.Listen("tcp", cfg.HTTPAddr)
	if err != nil {
		return fmt.Errorf("HTTP_ADDR: %w", err)
	}
	publicURL := cfg.publicURL(listener.Addr())
	log.Info("serving", zap.String("addr", listener.Addr().String()), zap.String("public_url", publicURL))
	return gateway.New(db, gateway.Options{
		AdminToken:     cfg.AdminToken,
		WebhookSecrets: cfg.WebhookSecret,
		AppID:          int64(cfg.AppID),
		PublicURL:      publicURL,
		AnonymousRead:  cfg.AnonymousRead,
		Limits:         cfg.limits(),
		GitHub:         cfg.app(),
		GitHubUsers:    users,
	}, log).Serve(ctx, listener)
}
