// Runner takes planned jobs, runs their steps in processes of this machine, and tells how they went.
package main

import (
	"context"
	"fmt"
	"os"

	"go.uber.org/zap"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/service"
	"github.com/lockstep-ci/lockstep/services/runner/internal/executor"
	"github.com/lockstep-ci/lockstep/services/runner/internal/process"
	"github.com/lockstep-ci/lockstep/services/runner/internal/run"
	"github.com/lockstep-ci/lockstep/services/runner/internal/supervise"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "supervise" { // the runner starts itself so, once for each job
		os.Exit(supervise.Main(os.Args[2:]))
	}
	service.Main("runner", &config{}, serve)
}

func serve(ctx context.Context) error {
	var cfg config
	if err := service.Load(&cfg); err != nil {
		return fmt.Errorf("load config: %w", err)
	}
	places, err := process.New(process.Options{Dir: cfg.workDir(), FirstUID: cfg.StepUID, Silence: 2 * cfg.Lease})
	if err != nil {
		return fmt.Errorf("load config: WORK_DIR: %w", err)
	}
	log, err := service.NewLogger(cfg.LogLevel)
	if err != nil {
		return fmt.Errorf("build logger: %w", err)
	}
	db, err := jobs.Open(ctx, cfg.DatabaseURL, jobs.Options{App: "runner", ListenURL: cfg.ListenDatabaseURL, Log: log})
	if err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	defer db.Close()
	if err := service.ServeOps(ctx, cfg.OpsAddr, db, log); err != nil {
		return fmt.Errorf("serve health and metrics: %w", err)
	}

	log.Info("running steps without a sandbox", zap.String("work_dir", cfg.workDir()))
	return db.Work(ctx, jobs.Stage{
		Name: "runner", Takes: jobs.Status(cfg.Takes), Holds: jobs.StatusRunning, Gives: jobs.StatusSuccess,
		Slots: cfg.Concurrency, Lease: cfg.Lease, Beat: cfg.Beat, Poll: cfg.Poll, Grace: cfg.Grace, RetryAfter: cfg.RetryAfter,
		Do: run.New(db, places, run.Config{
			Inherited: executor.Inherited(cfg.PassEnv), CancelGrace: cfg.CancelGrace, LogLimit: cfg.LogLimit,
		}, log).Run,
	})
}
