// Package queue shows what waits for a worker, and the workers.
package queue

import (
	"context"
	_ "embed"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/protobuf/types/known/timestamppb"

	lockstepv1 "github.com/lockstep-ci/lockstep/services/api-gateway/gen/lockstep/v1"
)

var (
	//go:embed queries/waiting.sql
	waitingSQL string
	//go:embed queries/workers.sql
	workersSQL string
)

// Waiting returns the jobs that wait for a worker, at most limit of each state, those that are claimed first before the others.
func Waiting(ctx context.Context, pool *pgxpool.Pool, limit int32) ([]*lockstepv1.QueuedJob, error) {
	rows, err := pool.Query(ctx, waitingSQL, pgx.NamedArgs{"limit": limit})
	if err != nil {
		return nil, fmt.Errorf("read the queue: %w", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*lockstepv1.QueuedJob, error) {
		j, since := &lockstepv1.QueuedJob{Position: new(int32)}, time.Time{}
		err := row.Scan(&j.Id, &j.RunId, &j.Repository, &j.Name, &j.Status, j.Position, &since)
		j.WaitingSince = timestamppb.New(since)
		return j, err
	})
	if err != nil {
		return nil, fmt.Errorf("read the queue: %w", err)
	}
	return found, nil
}

// Workers returns the workers that live.
func Workers(ctx context.Context, pool *pgxpool.Pool) ([]*lockstepv1.Worker, error) {
	rows, err := pool.Query(ctx, workersSQL)
	if err != nil {
		return nil, fmt.Errorf("read the workers: %w", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*lockstepv1.Worker, error) {
		w, started, beat := &lockstepv1.Worker{}, time.Time{}, time.Time{}
		err := row.Scan(&w.Id, &w.Stage, &w.Name, &w.Slots, &w.Busy, &started, &beat)
		w.StartedAt, w.BeatAt = timestamppb.New(started), timestamppb.New(beat)
		return w, err
	})
	if err != nil {
		return nil, fmt.Errorf("read the workers: %w", err)
	}
	return found, nil
}
