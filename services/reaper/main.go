// Reaper gives the jobs of dead workers to living ones, ends what hangs, and admits what has waited long enough.
package main

import (
	"context"
	"fmt"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/service"
)

func main() { service.Main("reaper", &config{}, run) }

func run(ctx context.Context) error {
	var cfg config
	if err := service.Load(&cfg); err != nil {
		return fmt.Errorf("load config: %w", err)
	}
	log, err := service.NewLogger(cfg.LogLevel)
	if err != nil {
		return fmt.Errorf("build logger: %w", err)
	}
	db, err := jobs.Open(ctx, cfg.DatabaseURL, jobs.Options{App: "reaper", ListenURL: cfg.ListenDatabaseURL, Log: log})
	if err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	defer db.Close()
	if err := service.ServeOps(ctx, cfg.OpsAddr, db, log); err != nil {
		return fmt.Errorf("serve health and metrics: %w", err)
	}

	return db.Reap(ctx, jobs.Reaping{UnownedAfter: cfg.UnownedAfter, MaxFailures: cfg.MaxFailures, MaxCrashes: cfg.MaxCrashes})
}
