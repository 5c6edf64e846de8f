package jobs

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

const (
	maxClaim   = 500                   // rows of one claim
	claimEvery = 10 * time.Millisecond // least time between two looks at the table, unless there is more than we can hold
	claimShare = 10                    // a worker spends at most one part in so many of its time looking
)

// claimLoop fills the free slots: when it is told of something to claim, when a slot becomes free while there is more, and
// on a timer that alone is enough.
//
// Looks are debounced on both edges: the first wake after a rest is answered at once, those that come until the rest is
// over by one look after it. The rest grows with the cost of a look, so that many workers, or a slow database, make looks
// fewer and claims larger instead of each other slower. Behind a backlog a look waits only until it is worth one.
func (w *worker) claimLoop(ctx, life context.Context) {
	worthwhile := max(1, min(w.stage.Slots/4, maxClaim)) // free slots, behind a backlog
	more := true                                         // there may be something to claim
	backlog := false                                     // the last look found all it asked for
	failing := &Backoff{Next: claimEvery, Most: time.Second}
	var rested, poll time.Time // when the next look may be, and when it must
	for ctx.Err() == nil {
		now := time.Now()
		more = more || !now.Before(poll)
		id, free := w.ready()
		wait := poll.Sub(now)
		switch {
		case id == 0 || free == 0:
			wait = w.stage.Poll
		case !more:
		case now.Before(rested) && (!backlog || free < worthwhile):
			wait = rested.Sub(now)
		default:
			asked := min(free, maxClaim)
			jobs, err := w.claim(ctx, id, asked)
			for _, job := range jobs {
				w.start(life, job)
			}
			ended := time.Now()
			rest := max(claimEvery, (claimShare-1)*ended.Sub(now))
			if err != nil { // wakes may come faster than the database can bear
				w.db.outages.failed("claim", "no new jobs until it works", err)
				rest = max(rest, failing.next())
			} else {
				w.db.outages.worked("claim")
				failing.Next = claimEvery
			}
			more = len(jobs) == asked
			backlog = more
			rested = ended.Add(min(rest, w.stage.Poll))
			poll = ended.Add(w.stage.Poll - jitter(w.stage.Poll/10))
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-w.look:
			more = true
		case <-w.freed:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// ready returns the worker's id and free slots; id 0 while the worker may not claim.
func (w *worker) ready() (id int64, free int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Since(w.lastBeat) > w.stage.Lease { // it may be marked dead by now
		return 0, 0
	}
	return w.id, w.stage.Slots - len(w.held)
}

func (w *worker) claim(ctx context.Context, worker int64, slots int) ([]*Job, error) {
	// Not ctx itself: a claim that a SIGTERM cuts off may have been made.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	rows, err := w.db.signs.Query(ctx, w.claimSQL, pgx.NamedArgs{"worker": worker, "slots": slots})
	if err != nil {
		return nil, err
	}
	jobs, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*Job, error) {
		j := &Job{}
		var timeout pgtype.Interval
		err := row.Scan(&j.ID, &j.RunID, &j.Repository, &j.Name, &j.Attempt, &j.Token, &j.Failures, &timeout, &j.DeadlineAt,
			&j.Event, &j.Ref, &j.HeadSHA, &j.BaseRef, &j.BaseSHA, &j.PullRequest, &j.Author, &j.Title, &j.Trusted, &j.LogDay)
		j.Timeout = time.Duration(timeout.Microseconds)*time.Microsecond + time.Duration(timeout.Days)*24*time.Hour
		return j, err
	})
	w.db.metrics.claims.WithLabelValues(w.stage.Name).Add(float64(len(jobs)))
	return jobs, err
}
