package jobs

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Cancel asks for a run's end. What nobody holds is cancelled when it returns; a holder's context ends with ErrCancelled
// upon a wake, or at its next beat, and the job is cancelled when its handler has returned. To ask twice is to ask once.
// The principal is who
// asked first, for the audit log; empty: this process's login. It returns ErrNotFound, or ErrEnded when the run is final already.
func (db *DB) Cancel(ctx context.Context, runID int64, principal string) error {
	err := pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
		var id int64 // locks the run before its jobs, as every end of a job does
		if err := tx.QueryRow(ctx, query("cancel_run"), pgx.NamedArgs{"run": runID, "principal": principal}).Scan(&id); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, query("cancel_jobs"), pgx.NamedArgs{"run": runID})
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		exists, lookup := db.runExists(ctx, runID)
		switch {
		case lookup != nil:
			err = lookup
		case exists:
			err = ErrEnded
		default:
			err = ErrNotFound
		}
	}
	if err != nil {
		return fmt.Errorf("cancel run %d: %w", runID, err)
	}
	return nil
}

func (db *DB) runExists(ctx context.Context, runID int64) (exists bool, err error) {
	err = db.pool.QueryRow(ctx, query("run_exists"), pgx.NamedArgs{"run": runID}).Scan(&exists)
	return exists, err
}
