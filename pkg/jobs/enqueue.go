package jobs

import (
	"context"
	"errors"
	"fmt"

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
	Title       string // for people
	Trusted     bool   // false: hostile to the repository's secrets, as a fork's pull request is

	// Principal and IdempotencyKey name the request: the same pair again is the same run. Both or neither. Without
	// them, whoever hears no answer cannot know whether to ask again.
	Principal      string // whose key it is: "github", or the name of a token
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
// when there can be no such run, as of a repository that is no URL. After any other error the run may be there or not: ask
// again with the same key.
func (db *DB) Enqueue(ctx context.Context, run NewRun) (Enqueued, error) {
	return enqueue(ctx, db.pool, run)
}

// EnqueueTx is Enqueue in the caller's transaction: the run is accepted if and when it commits. Use it where a row of yours
// and the run belong together, and Enqueue everywhere else. Whoever asks with the same key meanwhile waits for that commit.
func EnqueueTx(ctx context.Context, tx pgx.Tx, run NewRun) (Enqueued, error) {
	return enqueue(ctx, tx, run)
}

// Rerun starts the same commit once more as a run of its own, with the same event and trust. Principal, key and hash are
// those of [NewRun]. It returns ErrNotFound when there is no such run, and the errors of Enqueue.
func (db *DB) Rerun(ctx context.Context, runID int64, principal, idempotencyKey string, requestHash []byte) (Enqueued, error) {
	exists, err := db.runExists(ctx, runID)
	if err != nil {
		return Enqueued{}, fmt.Errorf("rerun run %d: %w", runID, err)
	}
	if !exists {
		return Enqueued{}, fmt.Errorf("rerun run %d: %w", runID, ErrNotFound)
	}
	enqueued, err := insertRun(ctx, db.pool, query("rerun"), pgx.NamedArgs{
		"run": runID, "principal": principal, "idempotency_key": idempotencyKey, "request_hash": requestHash,
	})
	if err != nil {
		return Enqueued{}, fmt.Errorf("rerun run %d: %w", runID, err)
	}
	return enqueued, nil
}

type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func enqueue(ctx context.Context, db querier, run NewRun) (Enqueued, error) {
	enqueued, err := insertRun(ctx, db, query("enqueue"), pgx.NamedArgs{
		"repository": run.Repository, "event": run.Event, "ref": run.Ref, "head_sha": run.HeadSHA,
		"base_ref": run.BaseRef, "base_sha": run.BaseSHA,
		"pull_request": run.PullRequest, "author": run.Author, "title": run.Title, "trusted": run.Trusted,
		"principal": run.Principal, "idempotency_key": run.IdempotencyKey, "request_hash": run.RequestHash,
	})
	if err != nil {
		return Enqueued{}, fmt.Errorf("enqueue run of %s: %w", run.Repository, err)
	}
	return enqueued, nil
}

// insertRun runs a statement that inserts a run unless its idempotency key is taken; then the key's run is the answer.
func insertRun(ctx context.Context, db querier, sql string, args pgx.NamedArgs) (Enqueued, error) {
	var run, job int64
	err := db.QueryRow(ctx, sql, args).Scan(&run, &job)
	if err == nil {
		return Enqueued{RunID: run}, nil
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return Enqueued{}, err
	}
	var same bool
	err = db.QueryRow(ctx, query("enqueued"), pgx.NamedArgs{
		"principal": args["principal"], "idempotency_key": args["idempotency_key"], "request_hash": args["request_hash"],
	}).Scan(&run, &same)
	if err != nil {
		return Enqueued{}, fmt.Errorf("read the run of idempotency key: %w", err)
	}
	if !same {
		return Enqueued{}, ErrKeyReused
	}
	return Enqueued{RunID: run, Existing: true}, nil
}
