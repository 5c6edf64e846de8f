package limit

import (
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// recent is a map that remembers what was used lately: the last so many entries, and at most twice as many.
type recent[K comparable, V any] struct {
	mu          sync.Mutex
	most        int
	now, before map[K]V // when now is full it becomes before; what is used again comes back
}

func newRecent[K comparable, V any](most int) *recent[K, V] {
	return &recent[K, V]{most: most, now: map[K]V{}}
}

// get returns what belongs to a key, if it is there.
func (c *recent[K, V]) get(key K) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.find(key)
}

func (c *recent[K, V]) find(key K) (V, bool) {
	value, found := c.now[key]
	if found {
		return value, true
	}
	if value, found = c.before[key]; found {
		c.keep(key, value)
	}
	return value, found
}

func (c *recent[K, V]) keep(key K, value V) {
	if len(c.now) >= c.most {
		c.now, c.before = map[K]V{}, c.now
	}
	c.now[key] = value
}

// getOrAdd returns what belongs to a key: value, if there was nothing.
func (c *recent[K, V]) getOrAdd(key K, value V) (_ V, added bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, found := c.find(key); found {
		return old, false
	}
	c.keep(key, value)
	return value, true
}

func (c *recent[K, V]) remove(key K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.now, key)
	delete(c.before, key)
}

// buckets are the limits of each of many.
type buckets[K comparable] struct {
	perSecond int
	known     *recent[K, *rate.Limiter]
}

func newBuckets[K comparable](perSecond int) *buckets[K] {
	return &buckets[K]{perSecond, newRecent[K, *rate.Limiter](remembered)}
}

// take counts one, or returns how long it will be until another one is allowed.
func (b *buckets[K]) take(key K) time.Duration {
	if b.perSecond == 0 {
		return 0
	}
	of, found := b.known.get(key)
	if !found {
		of, _ = b.known.getOrAdd(key, rate.NewLimiter(rate.Limit(b.perSecond), burst*b.perSecond))
	}
	if of.Allow() {
		return 0
	}
	return max(b.until(of), 1)
}

// wait is how long it will be until one is allowed, and counts none.
func (b *buckets[K]) wait(key K) time.Duration {
	of, found := b.known.get(key)
	if !found {
		return 0
	}
	return b.until(of)
}

func (b *buckets[K]) until(of *rate.Limiter) time.Duration {
	missing := 1 - of.Tokens()
	return time.Duration(math.Max(0, missing) / float64(b.perSecond) * float64(time.Second))
}
