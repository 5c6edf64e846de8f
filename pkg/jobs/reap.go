package jobs

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"go.uber.org/zap"
)

// Reaping says how the reaper judges.
type Reaping struct {
	Every        time.Duration // between two looks; 500 ms when 0. A dead worker is noticed within its lease and two looks.
	UnownedAfter time.Duration // how long a job may be held by hand (from psql, without a worker)
	MaxFailures  int           // infrastructure failures of one stage before the job ends as StatusError; at least 1
}

// housekeepEvery is the time between two rounds of slow chores.
const housekeepEvery = time.Hour

// Reap watches the workers until ctx ends: it marks those whose beat has stood still for their lease and gives their jobs
// to others, ends jobs past their deadline, admits what has waited long enough. Any number of reapers may run at once:
// each write repeats what it rests on.
//
// A reaper counts only silence that it watched itself, by its own clock, and begins anew after each error of the
// database: a restart of PostgreSQL, during which nobody could beat, kills nobody.
func (db *DB) Reap(ctx context.Context, reaping Reaping) error {
	if reaping.Every == 0 {
		reaping.Every = 500 * time.Millisecond
	}
	if reaping.MaxFailures < 1 || reaping.UnownedAfter <= 0 {
		return fmt.Errorf("reap: max failures %d and unowned after %s: at least 1 and more than 0", reaping.MaxFailures, reaping.UnownedAfter)
	}
	r := &reaper{db: db, Reaping: reaping, log: db.log}
	ticker := time.NewTicker(reaping.Every)
	defer ticker.Stop()
	for {
		if err := r.look(ctx); err != nil && ctx.Err() == nil {
			r.log.Warn("could not look after the queue; watching anew", zap.Error(err))
			r.seen = nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

type reaper struct {
	Reaping
	db         *DB
	log        *zap.Logger
	seen       map[int64]sighting // living workers by id
	housekeeps time.Time          // when the chores were last done
}

// sighting is a beat, and since when we have been looking at it.
type sighting struct {
	beat  time.Time // the database's: only compared with itself
	since time.Time // ours, monotonic
}

func (r *reaper) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := r.markSilent(ctx); err != nil {
		return fmt.Errorf("watch workers: %w", err)
	}
	if err := r.reapLost(ctx); err != nil {
		return fmt.Errorf("reap jobs: %w", err)
	}
	if err := r.sweepBlocked(ctx); err != nil {
		return fmt.Errorf("sweep blocked jobs: %w", err)
	}
	if time.Since(r.housekeeps) >= housekeepEvery {
		for _, chore := range []string{"housekeep", "forget_workers"} {
			if _, err := r.db.pool.Exec(ctx, query(chore)); err != nil {
				return fmt.Errorf("%s: %w", chore, err)
			}
		}
		r.housekeeps = time.Now()
	}
	return nil
}

// markSilent marks workers whose beat has not changed for a lease while we were looking.
func (r *reaper) markSilent(ctx context.Context) error {
	rows, err := r.db.pool.Query(ctx, query("watch_workers"))
	if err != nil {
		return err
	}
	type living struct {
		ID          int64
		Name, Stage string
		Lease       time.Duration
		BeatAt      time.Time
	}
	workers, err := pgx.CollectRows(rows, pgx.RowToStructByPos[living])
	if err != nil {
		return err
	}
	now := time.Now()
	seen := make(map[int64]sighting, len(workers))
	for _, w := range workers {
		last, known := r.seen[w.ID]
		if !known || !last.beat.Equal(w.BeatAt) {
			last = sighting{beat: w.BeatAt, since: now}
		}
		if now.Sub(last.since) < w.Lease {
			seen[w.ID] = last
			continue
		}
		tag, err := r.db.pool.Exec(ctx, query("mark_dead"), pgx.NamedArgs{"worker": w.ID, "beat_at": w.BeatAt})
		if err != nil {
			return fmt.Errorf("mark worker %d: %w", w.ID, err)
		}
		if tag.RowsAffected() == 1 {
			r.log.Warn("worker is dead: no beat for its lease", zap.Int64("worker_id", w.ID), zap.String("worker", w.Name),
				zap.String("stage", w.Stage), zap.Duration("lease", w.Lease))
		}
	}
	r.seen = seen
	return nil
}

// reapLost ends claims of dead workers, past their deadline, or held by hand for too long.
func (r *reaper) reapLost(ctx context.Context) error {
	args := pgx.NamedArgs{"unowned_after": r.UnownedAfter, "max_failures": r.MaxFailures}
	rows, err := r.db.pool.Query(ctx, query("lost_jobs"), args)
	if err != nil {
		return err
	}
	var (
		jobs            []int64
		tokens          []pgtype.UUID
		causes, workers []string

		job           int64
		token         pgtype.UUID
		cause, worker string
	)
	_, err = pgx.ForEachRow(rows, []any{&job, &token, &cause, &worker}, func() error {
		jobs, tokens, causes, workers = append(jobs, job), append(tokens, token), append(causes, cause), append(workers, worker)
		return nil
	})
	if err != nil || len(jobs) == 0 {
		return err
	}
	args["jobs"], args["tokens"], args["causes"], args["workers"] = jobs, tokens, causes, workers
	return r.db.endClaims(ctx, jobs, func(batch *pgx.Batch) {
		batch.Queue(query("reap"), args).Query(func(rows pgx.Rows) error {
			var job int64
			var cause string
			var status Status
			var attempt int
			_, err := pgx.ForEachRow(rows, []any{&job, &cause, &status, &attempt}, func() error {
				r.db.metrics.reaped.WithLabelValues(cause).Inc()
				r.log.Warn("reaped", zap.Int64("job_id", job), zap.Int("attempt", attempt), zap.String("cause", cause), zap.String("status", string(status)))
				return nil
			})
			return err
		})
	})
}

// sweepBlocked moves what nobody else will: backoffs that are over, and jobs that have failed too often.
func (r *reaper) sweepBlocked(ctx context.Context) error {
	args := pgx.NamedArgs{"max_failures": r.MaxFailures}
	rows, err := r.db.pool.Query(ctx, query("blocked_jobs"), args)
	if err != nil {
		return err
	}
	var (
		runs, exhausted []int64

		job, run int64
		ended    bool
	)
	_, err = pgx.ForEachRow(rows, []any{&job, &run, &ended}, func() error {
		if ended {
			exhausted = append(exhausted, job)
		} else {
			runs = append(runs, run)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(exhausted) > 0 {
		args["jobs"] = exhausted
		if err := r.db.endClaims(ctx, exhausted, func(batch *pgx.Batch) { batch.Queue(query("exhaust"), args) }); err != nil {
			return fmt.Errorf("end jobs that failed too often: %w", err)
		}
		r.log.Warn("ended jobs that failed too often", zap.Int64s("job_ids", exhausted))
	}
	if len(runs) > 0 {
		_, err := r.db.pool.Exec(ctx, query("admit"), pgx.NamedArgs{"runs": runs})
		if err != nil {
			return fmt.Errorf("admit jobs: %w", err)
		}
	}
	return nil
}
