// Initializer answers what a commit wants to run: it fetches the commit, plans its workflows and packs its source.
package main

import (
	"context"
	"fmt"

	"go.uber.org/zap"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/service"
	"github.com/lockstep-ci/lockstep/services/initializer/internal/git"
	"github.com/lockstep-ci/lockstep/services/initializer/internal/initialize"
)

func main() { service.Main("initializer", &config{}, run) }

func run(ctx context.Context) error {
	var cfg config
	if err := service.Load(&cfg); err != nil {
		return fmt.Errorf("load config: %w", err)
	}
	log, err := service.NewLogger(cfg.LogLevel)
	if err != nil {
		return fmt.Errorf("build logger: %w", err)
	}
	db, err := jobs.Open(ctx, cfg.DatabaseURL, jobs.Options{App: "initializer", ListenURL: cfg.ListenDatabaseURL, Log: log})
	if err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	defer db.Close()
	if err := service.ServeOps(ctx, cfg.OpsAddr, db, log); err != nil {
		return fmt.Errorf("serve health and metrics: %w", err)
	}
	client, err := git.Open(cfg.git())
	if err != nil {
		return fmt.Errorf("open git: %w", err)
	}
	defer func() {
		if err := client.Close(); err != nil {
			log.Warn("could not remove the folder of fetched commits", zap.Error(err))
		}
	}()

	return db.Work(ctx, jobs.Stage{
		Name:  "initializer",
		Takes: cfg.Takes, Holds: jobs.StatusInitializing, Gives: jobs.StatusInitialized,
		Slots: cfg.Concurrency, Lease: cfg.Lease, Beat: cfg.Beat, Poll: cfg.Poll, Grace: cfg.Grace, RetryAfter: cfg.RetryAfter,
		Do: initialize.New(db.Pool(), client, cfg.RunnerLabels).Initialize,
	})
}
