package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// riverArgs is a job of River's.
type riverArgs struct {
	Number int `json:"number"`
}

// Kind names the kind of job, as River wants it.
func (riverArgs) Kind() string { return "bench" }

// riverDatabase makes a database with River's tables.
func (s *server) riverDatabase(ctx context.Context) (*database, error) {
	d, err := s.empty(ctx)
	if err != nil {
		return nil, err
	}
	migrator, err := rivermigrate.New(riverpgxv5.New(d.pool), &rivermigrate.Config{Logger: slog.New(slog.DiscardHandler)})
	if err == nil {
		_, err = migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make River's tables: %w", err), d.drop())
	}
	return d, nil
}

// riverClient is a client of River whose workers call do. Zero times are River's defaults.
func riverClient(d *database, workers int, cooldown, poll time.Duration, do func(job int64)) (*river.Client[pgx.Tx], error) {
	registry := river.NewWorkers()
	err := river.AddWorkerSafely(registry, river.WorkFunc(func(_ context.Context, job *river.Job[riverArgs]) error {
		do(job.ID)
		return nil
	}))
	if err != nil {
		return nil, fmt.Errorf("register River's worker: %w", err)
	}
	client, err := river.NewClient(riverpgxv5.New(d.pool), &river.Config{
		FetchCooldown: cooldown, FetchPollInterval: poll,
		Logger:  slog.New(slog.DiscardHandler),
		Queues:  map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: workers}},
		Workers: registry,
	})
	if err != nil {
		return nil, fmt.Errorf("make River's client: %w", err)
	}
	return client, nil
}

// riverStop ends a client and waits for it.
func riverStop(ctx context.Context, client *river.Client[pgx.Tx]) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	if err := client.Stop(ctx); err != nil {
		return fmt.Errorf("stop River: %w", err)
	}
	return nil
}
