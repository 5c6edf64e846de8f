package jobs

import (
	"context"
	"math/rand/v2"
	"time"
)

// Backoff paces the tries of what is tried again: its delays double, with jitter, so that a fleet does not come back in
// step. It is for one goroutine; begin anew, with a new Backoff, after a success.
type Backoff struct {
	Next time.Duration // the next delay, before jitter; more than 0
	Most time.Duration // the longest one; at least Next
}

// Sleep waits for the next delay, between half and all of it. It reports false when ctx ended first.
func (b *Backoff) Sleep(ctx context.Context) bool {
	return sleep(ctx, b.next())
}

func (b *Backoff) next() time.Duration {
	delay := jitter(b.Next)
	b.Next = min(2*b.Next, b.Most)
	return delay
}

// sleep waits for d. It reports false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
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
