// Github-notifier tells GitHub how jobs went: one commit status for each job, always the newest.
package main

import (
	"context"
	"fmt"

	"go.uber.org/zap"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/service"
	"github.com/lockstep-ci/lockstep/services/github-notifier/internal/notifier"
)

func main() { service.Main("github-notifier", &config{}, run) }

func run(ctx context.Context) error {
	var cfg config
	if err := service.Load(&cfg); err != nil {
		return fmt.Errorf("load config: %w", err)
	}
	github, err := notifier.NewGitHub(cfg.GitHubAPIURL, cfg.GitHubToken)
	if err != nil {
		return fmt.Errorf("load config: GITHUB_API_URL: %w", err)
	}
	log, err := service.NewLogger(cfg.LogLevel)
	if err != nil {
		return fmt.Errorf("build logger: %w", err)
	}
	db, err := jobs.Open(ctx, cfg.DatabaseURL, jobs.Options{App: "github-notifier", ListenURL: cfg.ListenDatabaseURL, Log: log})
	if err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	defer db.Close()
	if err := service.ServeOps(ctx, cfg.OpsAddr, db, log); err != nil {
		return fmt.Errorf("serve health and metrics: %w", err)
	}

	if cfg.GitHubToken == "" {
		log.Warn("GITHUB_TOKEN is not set: reports end as skipped")
	}
	log.Info("telling GitHub", zap.String("api", cfg.GitHubAPIURL))
	return notifier.New(db, github, notifier.Config{
		Concurrency: cfg.Concurrency, Poll: cfg.Poll, PublicURL: cfg.PublicURL,
	}, log).Run(ctx)
}
