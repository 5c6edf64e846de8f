package jobs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// NewRun is what somebody asks for. Repository and Event are required; other empty fields are unknown.
type NewRun struct {
	Repository  string // https://host/owner/name (a trailing .git is dropped), or a file URL
	Event       string // push, pull_request, workflow_dispatch or manual
	Ref         string // a branch, tag or full ref; empty: the default branch
	HeadSHA     string // 40 lower-case hex digits; empty: resolve Ref
	BaseRef     string // of a pull request: the branch it wants to go to, refs/heads/…
	BaseSHA     string // what path filters compare with: 40 lower-case hex digits
	PullRequest int    // its number; 0: none
	Author      string // for people
	SenderID    int64  // GitHub's number of the account that asked; 0: not GitHub
	Title       string // for people
	Trusted     bool   // false: hostile to the repository's secrets, as a fork's pull request is

	// Principal and IdempotencyKey name the request: the same pair again is the same run. A key needs a principal. Without
	// a key, whoever hears no answer cannot know whether to ask again.
	Principal      string // who asks, for the audit log, and whose key it is: "github", "token:7" …; empty: this process's login
	IdempotencyKey string // the id of a webhook's delivery, a UUID of the client's …
	RequestHash    []byte // of the request: the same key on another request is ErrKeyReused
}

// Enqueued is the answer to a NewRun.
type Enqueued struct {
	RunID    int64 // in ci_runs
	Existing bool  // the idempotency key was used before: this is its run
}

// Enqueue accepts a run: when it returns, the run is on disk and will reach a final state. It returns ErrKeyReused
// when the idempotency key belongs to another request, and wraps a [pgconn.PgError] of class 23 that names the constraint
// when there can be no such run, as of a repository that is no URL. After any other error, and when ctx ends first, the run
// may be there or not: ask again with the same key. Callers that wait at the same time share one statement and one commit.
func (db *DB) Enqueue(ctx context.Context, run NewRun) (Enqueued, error) {
	one := &enqueuing{run: run, answer: make(chan enqueueAnswer, 1)}
	db.enqueues.add(one)
	select {
	case answer := <-one.answer:
		return answer.enqueued, answer.err
	case <-ctx.Done():
		return Enqueued{}, fmt.Errorf("enqueue run of %s: %w", run.Repository, ctx.Err())
	case <-db.closed:
		return Enqueued{}, fmt.Errorf("enqueue run of %s: the queue is closed", run.Repository)
	}
}

// EnqueueTx is Enqueue in the caller's transaction: the run is accepted if and when it commits. Use it where a row of yours
// and the run belong together, and Enqueue everywhere else. Whoever asks with the same key meanwhile waits for that commit.
func EnqueueTx(ctx context.Context, tx pgx.Tx, run NewRun) (Enqueued, error) {
	answers, err := enqueue(ctx, tx, []NewRun{run})
	if err != nil {
		return Enqueued{}, fmt.Errorf("enqueue run of %s: %w", run.Repository, err)
	}
	return answers[0].enqueued, answers[0].err
}

// Rerun starts the same commit once more as a run of its own, with the same event and trust. Principal, key and hash are
// those of [NewRun]; so is senderID. It returns ErrNotFound when there is no such run, and the errors of Enqueue.
func (db *DB) Rerun(ctx context.Context, runID int64, principal, idempotencyKey string, requestHash []byte, senderID int64) (Enqueued, error) {
	var id int64
	err := db.pool.QueryRow(ctx, query("rerun"), pgx.NamedArgs{
		"run": runID, "principal": principal, "idempotency_key": idempotencyKey, "request_hash": requestHash, "sender_id": senderID,
	}).Scan(&id)
	enqueued := Enqueued{RunID: id}
	if errors.Is(err, pgx.ErrNoRows) { // the key is taken, or there is no such run
		enqueued, err = existing(ctx, db.pool, principal, idempotencyKey, requestHash)
		if errors.Is(err, pgx.ErrNoRows) {
			err = ErrNotFound
		}
	}
	if err != nil {
		return Enqueued{}, fmt.Errorf("rerun run %d: %w", runID, err)
	}
	return enqueued, nil
}

// enqueuing is a run that waits to be accepted.
type enqueuing struct {
	run    NewRun
	answer chan enqueueAnswer // size 1
}

type enqueueAnswer struct {
	enqueued Enqueued
	err      error
}

// maxEnqueue bounds the rows of one enqueue.
const maxEnqueue = 500

// writeEnqueues accepts the runs of a batch and answers them.
func (db *DB) writeEnqueues(ctx context.Context, batch []*enqueuing) error {
	runs := make([]NewRun, len(batch))
	for i, one := range batch {
		runs[i] = one.run
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	answers, err := enqueue(ctx, db.pool, runs)
	if err != nil {
		return err
	}
	for i, one := range batch {
		one.answer <- answers[i]
	}
	return nil
}

func (one *enqueuing) fail(err error) {
	one.answer <- enqueueAnswer{err: fmt.Errorf("enqueue run of %s: %w", one.run.Repository, err)}
}

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// enqueue inserts the runs whose idempotency keys are free; for the others the key's run is the answer.
func enqueue(ctx context.Context, db querier, runs []NewRun) ([]enqueueAnswer, error) {
	rows, err := db.Query(ctx, query("enqueue"), enqueueArgs(runs))
	if err != nil {
		return nil, err
	}
	answers := make([]enqueueAnswer, len(runs))
	var place int
	var id int64
	if _, err := pgx.ForEachRow(rows, []any{&place, &id}, func() error {
		answers[place-1].enqueued.RunID = id // places count from 1
		return nil
	}); err != nil {
		return nil, err
	}
	for i, run := range runs {
		if answers[i].enqueued.RunID != 0 {
			continue
		}
		answers[i].enqueued, err = existing(ctx, db, run.Principal, run.IdempotencyKey, run.RequestHash)
		switch {
		case errors.Is(err, ErrKeyReused):
			answers[i].err = err
		case err != nil:
			return nil, fmt.Errorf("read the run of idempotency key: %w", err)
		}
	}
	return answers, nil
}

func enqueueArgs(runs []NewRun) pgx.NamedArgs {
	return pgx.NamedArgs{
		"repository":      column(runs, func(r *NewRun) string { return r.Repository }),
		"event":           column(runs, func(r *NewRun) string { return r.Event }),
		"ref":             column(runs, func(r *NewRun) string { return r.Ref }),
		"head_sha":        column(runs, func(r *NewRun) string { return r.HeadSHA }),
		"base_ref":        column(runs, func(r *NewRun) string { return r.BaseRef }),
		"base_sha":        column(runs, func(r *NewRun) string { return r.BaseSHA }),
		"pull_request":    column(runs, func(r *NewRun) int { return r.PullRequest }),
		"author":          column(runs, func(r *NewRun) string { return r.Author }),
		"sender_id":       column(runs, func(r *NewRun) int64 { return r.SenderID }),
		"title":           column(runs, func(r *NewRun) string { return r.Title }),
		"trusted":         column(runs, func(r *NewRun) bool { return r.Trusted }),
		"principal":       column(runs, func(r *NewRun) string { return r.Principal }),
		"idempotency_key": column(runs, func(r *NewRun) string { return r.IdempotencyKey }),
		"request_hash":    column(runs, func(r *NewRun) []byte { return r.RequestHash }),
	}
}

func column[T any](runs []NewRun, of func(*NewRun) T) []T {
	values := make([]T, len(runs))
	for i := range runs {
		values[i] = of(&runs[i])
	}
	return values
}

// existing returns the run of an idempotency key: ErrKeyReused when it was another request, pgx.ErrNoRows when there is none.
func existing(ctx context.Context, db querier, principal, idempotencyKey string, requestHash []byte) (Enqueued, error) {
	var run int64
	var same bool
	err := db.QueryRow(ctx, query("enqueued"), pgx.NamedArgs{
		"principal": principal, "idempotency_key": idempotencyKey, "request_hash": requestHash,
	}).Scan(&run, &same)
	switch {
	case err != nil:
		return Enqueued{}, err
	case !same:
		return Enqueued{}, ErrKeyReused
	}
	return Enqueued{RunID: run, Existing: true}, nil
}
