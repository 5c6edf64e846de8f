package jobs

import (
	"context"

	"github.com/jackc/pgx/v5/pgtype"
	"go.uber.org/zap"
)

// What the tests of package jobs_test drive step by step: a worker and a reaper without their loops.

// Hand is a worker without loops: it beats, claims and writes when it is told to.
type Hand struct {
	w    *worker
	Told map[pgtype.UUID]error // what beats have told of the claims in hand
}

// NewHand makes a worker that is not registered yet.
func NewHand(db *DB, stage Stage) *Hand {
	return &Hand{Told: map[pgtype.UUID]error{}, w: newWorker(db, stage)}
}

// ID of the worker's row; 0 before its first beat.
func (h *Hand) ID() int64 { return h.w.id }

// Adopt makes this hand speak for a worker that another one has registered.
func (h *Hand) Adopt(worker int64) { h.w.id = worker }

// Beat registers the worker, or beats. It reports false when the reaper has marked the worker.
func (h *Hand) Beat(ctx context.Context) error { return h.w.beat(ctx) }

// ErrMarked is what the beat of a marked worker returns.
var ErrMarked = errMarked

// Claim takes up to n jobs.
func (h *Hand) Claim(ctx context.Context, n int) ([]*Job, error) {
	jobs, err := h.w.claim(ctx, h.w.id, n)
	for _, job := range jobs {
		h.w.held[job.Token] = &claim{job: job, cancel: func(cause error) {
			if h.Told[job.Token] == nil { // the first cause of a context stays
				h.Told[job.Token] = cause
			}
		}}
	}
	return jobs, err
}

// Forget a claim that has ended.
func (h *Hand) Forget(token pgtype.UUID) { delete(h.w.held, token) }

// Finish ends claims in one batch and tells which of them were lost.
func (h *Hand) Finish(ctx context.Context, jobs []*Job, results []Result) (lost map[pgtype.UUID]bool, err error) {
	batch := make([]*finishing, len(jobs))
	for i := range jobs {
		batch[i] = &finishing{job: jobs[i], result: results[i]}
	}
	return h.w.db.finishAll(ctx, batch)
}

// FinishWith ends one claim together with what its result wants committed.
func (h *Hand) FinishWith(ctx context.Context, job *Job, result Result) error {
	return h.w.db.finishWith(ctx, job, result)
}

// Fail ends a claim because of an infrastructure failure.
func (h *Hand) Fail(ctx context.Context, job *Job, cause string) error {
	return h.w.db.fail(ctx, job, h.w.stage.RetryAfter, cause)
}

// Release gives a job back.
func (h *Hand) Release(ctx context.Context, job *Job) error { return h.w.db.release(ctx, job) }

// Watch is a reaper without a loop.
type Watch struct{ r *reaper }

// NewWatch makes a reaper that looks only when it is told to.
func NewWatch(db *DB, reaping Reaping) *Watch {
	return &Watch{&reaper{db: db, Reaping: reaping, log: zap.NewNop()}}
}

// Beat is the last beat of a living worker, as a survey tells it; empty: no such worker is alive.
func (w *Watch) Beat(ctx context.Context, worker int64) (string, error) {
	workers, _, _, err := w.r.survey(ctx)
	for _, living := range workers {
		if living.ID == worker {
			return living.BeatAt, err
		}
	}
	return "", err
}

// Mark marks a worker that has been seen with this beat and no other one for its lease.
func (w *Watch) Mark(ctx context.Context, worker int64, beat string) error {
	return w.r.mark(ctx, []living{{ID: worker, BeatAt: beat}})
}

// Reap ends the claims of dead workers, past their deadline, or held by hand for too long.
func (w *Watch) Reap(ctx context.Context) error {
	end, err := w.Judge(ctx)
	if err != nil {
		return err
	}
	return end()
}

// Judge looks for the claims that Reap would end, and returns what ends them.
func (w *Watch) Judge(ctx context.Context) (end func() error, err error) {
	_, claims, _, err := w.r.survey(ctx)
	return func() error {
		if len(claims) == 0 {
			return nil
		}
		return each(ctx, claims, func(some []lost) error { return w.r.reap(ctx, some) })
	}, err
}

// Sweep moves blocked jobs that nobody else moves.
func (w *Watch) Sweep(ctx context.Context) error {
	w.r.looks = 0 // the first look sweeps
	_, _, waiting, err := w.r.survey(ctx)
	if err != nil || len(waiting) == 0 {
		return err
	}
	return each(ctx, waiting, func(some []blocked) error { return w.r.move(ctx, some) })
}

// Look is one look of the loop, which also marks who has been silent.
func (w *Watch) Look(ctx context.Context) { w.r.look(ctx) }

// Pass is a look that marks nobody, with all that follows from it.
func (w *Watch) Pass(ctx context.Context) error {
	w.r.looks = 0
	_, claims, waiting, err := w.r.survey(ctx)
	if err == nil && len(claims) > 0 {
		err = w.r.reap(ctx, claims)
	}
	if err == nil && len(waiting) > 0 {
		err = w.r.move(ctx, waiting)
	}
	return err
}
