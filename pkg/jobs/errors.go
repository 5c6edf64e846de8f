package jobs

import "errors"

var (
	// ErrClaimLost means that the job is no longer ours: a reaper, an operator or a deadline took it. Stop, and
	// write nothing more.
	ErrClaimLost = errors.New("jobs: claim lost")

	// ErrCancelled means that somebody asked for the run's end. Clean up, then return.
	ErrCancelled = errors.New("jobs: cancelled")

	// ErrStopping means that this process must end and its grace period is over. Return; the job is given back
	// and no failure is counted.
	ErrStopping = errors.New("jobs: worker is stopping")

	// ErrDeadline means that the job held its claim for as long as its timeout allows. Return at once.
	ErrDeadline = errors.New("jobs: deadline passed")

	// ErrNotFound means that there is no such run.
	ErrNotFound = errors.New("jobs: not found")

	// ErrEnded means that the run has reached a final state, which it never leaves.
	ErrEnded = errors.New("jobs: run has ended")

	// ErrKeyReused means that the idempotency key was used before, for another request. Use a new key.
	ErrKeyReused = errors.New("jobs: idempotency key reused for another request")
)
