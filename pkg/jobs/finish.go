package jobs

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// commitError is an error of Result.Commit, or a write that the rules refuse: the job's own failure, not the database's.
type commitError struct{ err error }

func (e *commitError) Error() string { return e.err.Error() }
func (e *commitError) Unwrap() error { return e.err }

// finishing is a claim that waits for its end to be written.
type finishing struct {
	job    *Job
	result Result
	answer chan error // size 1
}

// maxFinish bounds the rows of one finish.
const maxFinish = 500

// finish ends one claim and waits until that is on disk. ErrClaimLost: it was not ours any more, nothing changed.
func (w *worker) finish(ctx context.Context, job *Job, result Result) error {
	if result.Commit != nil {
		return w.db.finishWith(ctx, job, result)
	}
	one := &finishing{job: job, result: result, answer: make(chan error, 1)}
	w.finishes.add(one)
	return <-one.answer // within the deadline of finishAll
}

// writeFinishes ends the claims of a batch and answers them.
func (db *DB) writeFinishes(ctx context.Context, batch []*finishing) error {
	lost, err := db.finishAll(ctx, batch)
	if err != nil {
		return err
	}
	for _, one := range batch {
		if lost[one.job.Token] {
			one.fail(ErrClaimLost)
		} else {
			one.answer <- nil
		}
	}
	return nil
}

func (one *finishing) fail(err error) {
	one.answer <- fmt.Errorf("finish job %d attempt %d: %w", one.job.ID, one.job.Attempt, err)
}

// finishAll ends claims in one transaction and returns those that were not ours any more.
func (db *DB) finishAll(ctx context.Context, batch []*finishing) (lost map[pgtype.UUID]bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	jobs := make([]int64, len(batch))
	for i, one := range batch {
		jobs[i] = one.job.ID
	}
	lost = map[pgtype.UUID]bool{}
	err = db.endClaims(ctx, jobs, func(tx *pgx.Batch) {
		tx.Queue(query("finish"), finishArgs(batch)).Query(func(rows pgx.Rows) error {
			return scanLost(rows, lost)
		})
	})
	return lost, err
}

func finishArgs(batch []*finishing) pgx.NamedArgs {
	var (
		jobs     = make([]int64, len(batch))
		tokens   = make([]pgtype.UUID, len(batch))
		statuses = make([]string, len(batch))
		reasons  = make([]string, len(batch))
	)
	for i, one := range batch {
		jobs[i], tokens[i], statuses[i], reasons[i] = one.job.ID, one.job.Token, string(one.result.Status), clean(one.result.Reason)
	}
	return pgx.NamedArgs{"jobs": jobs, "tokens": tokens, "statuses": statuses, "reasons": reasons}
}

func scanLost(rows pgx.Rows, lost map[pgtype.UUID]bool) error {
	var token pgtype.UUID
	var ours bool
	_, err := pgx.ForEachRow(rows, []any{&token, &ours}, func() error {
		if !ours {
			lost[token] = true
		}
		return nil
	})
	return err
}

// endClaims runs statements that end claims of these jobs in one transaction and one round trip, behind the locks of
// their runs.
func (db *DB) endClaims(ctx context.Context, jobs []int64, queue func(*pgx.Batch)) error {
	batch := &pgx.Batch{} // without a BEGIN, a batch is one transaction
	batch.Queue(query("lock_runs"), pgx.NamedArgs{"jobs": jobs})
	queue(batch)
	return db.pool.SendBatch(ctx, batch).Close()
}

// finishWith ends one claim together with what the result wants committed.
func (db *DB) finishWith(ctx context.Context, job *Job, result Result) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	one := []*finishing{{job: job, result: result}}
	lost := map[pgtype.UUID]bool{}
	err := pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, query("lock_runs"), pgx.NamedArgs{"jobs": []int64{job.ID}}); err != nil {
			return err
		}
		var cancelled bool
		err := tx.QueryRow(ctx, query("fence"), pgx.NamedArgs{"job": job.ID, "token": job.Token}).Scan(&cancelled)
		switch {
		case errors.Is(err, pgx.ErrNoRows): // lost, or finished by an earlier try: the statement below tells
		case err != nil:
			return err
		case cancelled:
			one[0].result = Result{Status: StatusCancelled, Reason: "cancelled on request"}
		default:
			if err := result.Commit(ctx, tx); err != nil {
				if tx.Conn().IsClosed() || ctx.Err() != nil || Unavailable(err) {
					return err // the database's failure: try again
				}
				return &commitError{err}
			}
		}
		rows, err := tx.Query(ctx, query("finish"), finishArgs(one))
		if err != nil {
			return err
		}
		return scanLost(rows, lost)
	})
	if err != nil {
		return fmt.Errorf("finish job %d attempt %d: %w", job.ID, job.Attempt, err)
	}
	if lost[job.Token] {
		return fmt.Errorf("finish job %d attempt %d: %w", job.ID, job.Attempt, ErrClaimLost)
	}
	return nil
}

const (
	defaultRetryAfter = 5 * time.Second
	maxRetryAfter     = 5 * time.Minute
)

// fail ends a claim because of an infrastructure failure. The job is tried again after a backoff: retryAfter, doubled for
// each earlier failure up to maxRetryAfter, less up to a fifth. From 5 s on that is at least a minute until the fifth.
func (db *DB) fail(ctx context.Context, job *Job, retryAfter time.Duration, cause string) error {
	wait := min(retryAfter<<min(job.Failures, 20), maxRetryAfter)
	wait -= rand.N(wait/5 + 1)
	return db.endOne(ctx, "fail", job, pgx.NamedArgs{"backoff": wait, "cause": clean(cause)})
}

// release gives a job back, as if it had not been claimed.
func (db *DB) release(ctx context.Context, job *Job) error {
	return db.endOne(ctx, "release", job, pgx.NamedArgs{})
}

func (db *DB) endOne(ctx context.Context, name string, job *Job, args pgx.NamedArgs) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	args["job"], args["token"] = job.ID, job.Token
	var rows int64
	err := db.endClaims(ctx, []int64{job.ID}, func(batch *pgx.Batch) {
		batch.Queue(query(name), args).Exec(func(tag pgconn.CommandTag) error {
			rows = tag.RowsAffected()
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("%s job %d attempt %d: %w", name, job.ID, job.Attempt, err)
	}
	if rows == 0 {
		return fmt.Errorf("%s job %d attempt %d: %w", name, job.ID, job.Attempt, ErrClaimLost)
	}
	return nil
}
