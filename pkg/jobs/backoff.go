package jobs

import (
	"context"
	"math/rand/v2"
	"time"
)

// waiting is an exponential backoff with jitter.
type waiting struct{ next, most time.Duration }

func backoff(first, most time.Duration) *waiting { return &waiting{next: first, most: most} }

// sleep waits for the next delay, doubled each time up to the most, between half and all of it, so that a fleet does
// not come back in step. It reports false when ctx ended first.
func (w *waiting) sleep(ctx context.Context) bool {
	delay := jitter(w.next)
	w.next = min(2*w.next, w.most)
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// jitter is a random duration between half of d and d.
func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d/2+1)
}
