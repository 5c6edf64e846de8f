package jobs

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

const (
	maxClaim   = 500                   // rows of one claim
	claimEvery = 10 * time.Millisecond // a stage looks at the table about so often, however many workers it has
	claimShare = 4                     // a worker spends at most one part in so many of its time looking
)

// claimLoop fills the free slots: when it is told of something to claim, when a slot becomes free while there is more, and
// on a timer that alone is enough.
//
// Looks are debounced on both edges: the first wake after a rest is answered at once, those that come until the rest is
// over by one look after it. The rest grows with the number of workers and the cost of a look, so that more workers, or a
// slow database, make claims larger instead of more. Of several workers one answers a job's wake at once; the others look
// after their rest, and not at all when they have heard by then that it is claimed. Behind a backlog a worker does not rest
// once it has room for a whole claim.
func (w *worker) claimLoop(ctx, life context.Context) {
	worthwhile := min(w.stage.Slots, maxClaim) // free slots, behind a backlog
	failing := &Backoff{Next: claimEvery, Most: time.Second}
	var rested time.Time // when the next look may be
	poll := time.Now()   // when it must be, told or not
	due := poll          // when it is to be
	backlog := false     // the last look found all it asked for
	for ctx.Err() == nil {
		now := time.Now()
		id, free, rest := w.ready()
		var wait time.Duration
		switch {
		case id == 0 || free == 0:
			wait = w.stage.Poll
		case now.Before(due):
			wait = due.Sub(now)
		case now.Before(poll) && !backlog && !w.told():
			due = poll // others were faster
			continue
		case now.Before(rested) && (!backlog || free < worthwhile):
			wait = rested.Sub(now)
		default:
			asked := min(free, maxClaim)
			w.forget() // before the look: what we are told from here on it may not see
			jobs, err := w.claim(ctx, id, asked)
			for _, job := range jobs {
				w.start(life, job)
			}
			ended := time.Now()
			rest = max(rest, (claimShare-1)*ended.Sub(now))
			if err != nil { // wakes may come faster than the database can bear
				w.db.outages.failed("claim", "no new jobs until it works", err)
				rest = max(rest, failing.next())
			} else {
				w.db.outages.worked("claim")
				failing.Next = claimEvery
			}
			backlog = len(jobs) == asked
			rested = ended.Add(min(rest, w.stage.Poll))
			poll = ended.Add(w.stage.Poll - rand.N(w.stage.Poll/10+1)) // a fleet does not look in step
			due = poll
			if backlog {
				due = ended
			}
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-w.look:
			due = now
		case <-w.others:
			if other := now.Add(jitter(rest)); other.Before(due) {
				due = other
			}
		case <-w.freed:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// maxTold bounds what a worker remembers to be claimable. Beyond, it may look in vain.
const maxTold = 1000

// tell notes what a notification says of a job, and reports whether this worker is the one to look first. The zero Wake, of
// job 0, says that there may be anything.
func (w *worker) tell(wake Wake) (first bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if wake.Status != w.stage.Takes && wake != (Wake{}) {
		delete(w.waiting, wake.JobID)
		return false
	}
	if len(w.waiting) < maxTold {
		w.waiting[wake.JobID] = struct{}{}
	}
	return wake.JobID%w.peers == w.rank || wake == (Wake{})
}

// told reports whether there should be something to claim.
func (w *worker) told() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.waiting) > 0
}

func (w *worker) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.waiting)
}

// ready returns the worker's id, its free slots and the least time between two looks; id 0 while the worker may not claim.
func (w *worker) ready() (id int64, free int, rest time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Since(w.lastBeat) > w.stage.Lease { // it may be marked dead by now
		return 0, 0, 0
	}
	return w.id, w.stage.Slots - len(w.held), claimEvery * time.Duration(w.peers)
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
