package jobs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"go.uber.org/zap"
)

// errMarked: the reaper has marked this worker dead; its claims are others' by now.
var errMarked = errors.New("jobs: this worker was marked dead")

// beatLoop registers the worker and beats for all its claims in one statement, until life ends.
func (w *worker) beatLoop(life context.Context) {
	for life.Err() == nil {
		began := time.Now()
		err := w.beat(life)
		wait := w.stage.Beat
		switch {
		case err == nil:
			w.db.outages.worked("beat")
		case life.Err() != nil:
			return
		case errors.Is(err, errMarked):
			w.log.Warn("marked dead by the reaper: cancelling what I hold and registering anew")
			w.cancelAll(ErrClaimLost)
			w.mu.Lock()
			w.id = 0
			w.mu.Unlock()
			wait = 0
		default:
			w.db.outages.failed("beat", "jobs at hand go on, and are given up after two leases without a beat", err)
			wait = jitter(min(w.stage.Beat, time.Second))
			w.mu.Lock()
			silent := !w.lastBeat.IsZero() && began.Sub(w.lastBeat) > 2*w.stage.Lease
			w.mu.Unlock()
			if silent { // others may hold these jobs by now
				w.cancelAll(ErrClaimLost)
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-life.Done():
		case <-w.beatNow:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// beat tells the database that this worker lives, registering it first if need be, and ends the handlers of
// claims that were lost or are to be cancelled.
func (w *worker) beat(life context.Context) error {
	began := time.Now()
	// A new connection has a deadline of its own (poolConfig): under the beat's, a database whose every answer is late would
	// hear no beat at all, since each try would end in mid-login or soon after.
	conn, err := w.db.signs.Acquire(life)
	if err != nil {
		return fmt.Errorf("connect for a beat: %w", err)
	}
	defer conn.Release()
	// Long enough for a slow database, short enough for a second try within the lease.
	ctx, cancel := context.WithTimeout(life, min(max(w.stage.Lease/2, 5*time.Second), 10*time.Second))
	defer cancel()

	w.mu.Lock()
	id := w.id
	mine := make([]*claim, 0, len(w.held)) // what is claimed from here on is not in the answer
	for _, c := range w.held {
		mine = append(mine, c)
	}
	w.mu.Unlock()

	if id == 0 {
		err := conn.QueryRow(ctx, query("register"), pgx.NamedArgs{
			"stage": w.stage.Name, "name": w.name, "slots": w.stage.Slots, "lease": w.stage.Lease,
		}).Scan(&id)
		if err != nil {
			return fmt.Errorf("register worker: %w", err)
		}
		w.mu.Lock()
		w.id, w.lastBeat = id, began
		w.mu.Unlock()
		w.hear(Wake{})
		nudge(w.beatNow) // for the peers
		return nil
	}

	var alive bool
	var peers, rank int64
	var jobs []int64
	var tokens []pgtype.UUID
	var cancelled []bool
	err = conn.QueryRow(ctx, query("beat"), pgx.NamedArgs{"worker": id}).Scan(&alive, &peers, &rank, &jobs, &tokens, &cancelled)
	if err != nil {
		return fmt.Errorf("beat of worker %d: %w", id, err)
	}
	if !alive {
		return fmt.Errorf("beat of worker %d: %w", id, errMarked)
	}
	w.mu.Lock()
	w.lastBeat = began
	w.peers, w.rank = max(peers, 1), rank
	for _, c := range mine {
		at := slices.Index(tokens, c.job.Token)
		switch {
		case c.ending:
		case at < 0:
			c.cancel(ErrClaimLost)
		case cancelled[at]:
			c.cancel(ErrCancelled)
		}
	}
	orphans := w.orphans(jobs, tokens)
	w.mu.Unlock()
	for _, job := range orphans {
		err := w.db.release(ctx, job)
		switch {
		case err == nil:
			w.log.Warn("gave back a claim that nobody worked on", zap.Int64("job_id", job.ID))
		case !errors.Is(err, ErrClaimLost): // the next beat finds it again
			w.log.Warn("could not give back a claim that nobody works on", zap.Int64("job_id", job.ID), zap.Error(err))
			return nil
		}
	}
	return nil
}

// orphans are claims that the database says are ours and that nobody here works on: the reply to the claim was lost, or
// their end could not be written for too long. For a beat's time one may still be on its way here. The
// caller holds mu.
func (w *worker) orphans(jobs []int64, tokens []pgtype.UUID) (orphans []*Job) {
	suspects, now := map[pgtype.UUID]time.Time{}, time.Now()
	for i, token := range tokens {
		if w.held[token] != nil {
			continue
		}
		since, known := w.suspects[token]
		if !known {
			since = now
		}
		if known && now.Sub(since) >= w.stage.Beat {
			orphans = append(orphans, &Job{ID: jobs[i], Token: token})
		} else {
			suspects[token] = since
		}
	}
	w.suspects = suspects
	return orphans
}

// cancelAll ends the contexts of all handlers. The first cause of a context stays.
func (w *worker) cancelAll(cause error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.held {
		c.cancel(cause)
	}
}
