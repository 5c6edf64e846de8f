package jobs

import (
	"context"
	"sync"
	"time"
)

// batcher lets callers that wait for the same kind of write share one statement and one commit. A commit that notifies
// holds a lock of the whole database until it is on disk, so that thirty callers with a commit each would queue there.
type batcher[T any] struct {
	most  int                               // per write
	write func(context.Context, []*T) error // answers each of them, or returns an error and answers nobody
	fail  func(*T, error)                   // answers one
	more  chan struct{}                     // size 1: somebody is waiting

	mu      sync.Mutex
	waiting []*T
}

// gather is how long a write waits for as many as came last time: callers that were answered together come back together.
const gather = time.Millisecond

func newBatcher[T any](most int, write func(context.Context, []*T) error, fail func(*T, error)) *batcher[T] {
	return &batcher[T]{most: most, write: write, fail: fail, more: make(chan struct{}, 1)}
}

func (b *batcher[T]) add(one *T) {
	b.mu.Lock()
	b.waiting = append(b.waiting, one)
	b.mu.Unlock()
	nudge(b.more)
}

func (b *batcher[T]) enough(n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.waiting) >= n
}

func (b *batcher[T]) take() []*T {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := min(len(b.waiting), b.most)
	batch := b.waiting[:n:n]
	b.waiting = b.waiting[n:]
	return batch
}

// run writes until ctx ends. Whoever waits while one write is on its way shares the next.
func (b *batcher[T]) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for last := 1; ; {
		for !b.enough(1) {
			select {
			case <-b.more:
			case <-ctx.Done():
				return
			}
		}
		timer.Reset(gather)
		for waited := false; !waited && !b.enough(last); {
			select {
			case <-b.more:
			case <-timer.C:
				waited = true
			}
		}
		batch := b.take()
		last = len(batch)
		b.flush(ctx, batch)
	}
}

// flush answers everybody in the batch.
func (b *batcher[T]) flush(ctx context.Context, batch []*T) {
	err := b.write(ctx, batch)
	switch {
	case err == nil:
	case refused(err) && len(batch) > 1: // one bad row must fail nobody else's
		for i := range batch {
			b.flush(ctx, batch[i:i+1])
		}
	default:
		for _, one := range batch {
			b.fail(one, err)
		}
	}
}
