package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
)

// wake is part (c): how long after its commit does a run's handler begin, with default settings?
func wake(ctx context.Context, b *bench, t *table) error {
	idleOurs := t.latencies("ours, idle", atMost(1), atMost(5), nil)
	called := t.row("ms", nil, "ours, idle: from the call of Enqueue, p50")
	idleRiver := t.latencies("River, idle", nil, nil, nil)
	loadOurs := t.latencies(fmt.Sprintf("ours, %d a second", b.size.rate), nil, atMost(25), atMost(150))
	loadRiver := t.latencies(fmt.Sprintf("River, %d a second", b.size.rate), nil, nil, nil)
	killed := t.row("ms", atMost(1000), "ours, the listener's connection terminated just before: max of %d", b.size.kills)
	return b.rounds(func() error {
		err := withOurs(ctx, b, func(s *source) error {
			if err := s.oneByOne(ctx, b.size.wakes); err != nil {
				return fmt.Errorf("ours, idle: %w", err)
			}
			called.add(percentile(s.since(s.called), 50))
			idleOurs.add(s)
			b.say("    ours, idle: p50 %s ms", number(idleOurs.p50.last()))
			if err := s.steady(ctx, b.size.rate, b.size.rateFor); err != nil {
				return fmt.Errorf("ours, %d a second: %w", b.size.rate, err)
			}
			loadOurs.add(s)
			b.say("    ours, %d a second: p50 %s ms, max %s ms", b.size.rate, number(loadOurs.p50.last()), number(loadOurs.most.last()))
			if err := s.kill(ctx, b.size.kills); err != nil {
				return fmt.Errorf("ours, listener terminated: %w", err)
			}
			killed.add(percentile(s.since(s.acknowledged), 100))
			b.say("    ours, listener terminated: max %s ms", number(killed.last()))
			return nil
		})
		if err != nil {
			return err
		}
		return withRiver(ctx, b, func(s *source) error {
			if err := s.oneByOne(ctx, b.size.riverWakes); err != nil {
				return fmt.Errorf("river, idle: %w", err)
			}
			idleRiver.add(s)
			b.say("    River, idle: p50 %s ms", number(idleRiver.p50.last()))
			if err := s.steady(ctx, b.size.rate, b.size.rateFor); err != nil {
				return fmt.Errorf("river, %d a second: %w", b.size.rate, err)
			}
			loadRiver.add(s)
			b.say("    River, %d a second: p50 %s ms", b.size.rate, number(loadRiver.p50.last()))
			return nil
		})
	})
}

// latencies are the rows of one distribution, in ms.
type latencies struct{ p50, p95, p99, most *row }

func (t *table) latencies(what string, p50, p99, most *goal) latencies {
	return latencies{
		p50: t.row("ms", p50, "%s: p50", what), p95: t.row("ms", nil, "%s: p95", what),
		p99: t.row("ms", p99, "%s: p99", what), most: t.row("ms", most, "%s: max", what),
	}
}

func (l latencies) add(s *source) { l.addAll(s.since(s.acknowledged)) }

func (l latencies) addAll(took []float64) {
	l.p50.add(percentile(took, 50))
	l.p95.add(percentile(took, 95))
	l.p99.add(percentile(took, 99))
	l.most.add(percentile(took, 100))
}

// source enqueues jobs and knows when each was asked for, acknowledged and begun.
type source struct {
	d       *database
	enqueue func(context.Context, int64) (job int64, err error)

	mu                            sync.Mutex
	called, acknowledged, started map[int64]time.Time // by job
	arrived                       chan struct{}       // size 1: something has started
}

func newSource(d *database) *source {
	s := &source{d: d, arrived: make(chan struct{}, 1)}
	s.forget()
	return s
}

func (s *source) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.called, s.acknowledged, s.started = map[int64]time.Time{}, map[int64]time.Time{}, map[int64]time.Time{}
}

// begun is called by a job's handler.
func (s *source) begun(job int64) {
	now := time.Now()
	s.mu.Lock()
	s.started[job] = now
	s.mu.Unlock()
	select {
	case s.arrived <- struct{}{}:
	default:
	}
}

// one enqueues a job.
func (s *source) one(ctx context.Context, i int64) error {
	called := time.Now()
	job, err := s.enqueue(ctx, i)
	acknowledged := time.Now()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.called[job], s.acknowledged[job] = called, acknowledged
	return nil
}

// drained waits until everything enqueued has started.
func (s *source) drained(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		s.mu.Lock()
		missing := 0
		for job := range s.acknowledged {
			if _, ok := s.started[job]; !ok {
				missing++
			}
		}
		s.mu.Unlock()
		if missing == 0 {
			return nil
		}
		select {
		case <-s.arrived:
		case <-ctx.Done():
			return fmt.Errorf("%d jobs have not started: %w", missing, ctx.Err())
		}
	}
}

// since is how long after the times given each job started, in ms. It is negative for a handler that began before the
// acknowledgement had come back.
func (s *source) since(times map[int64]time.Time) []float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var took []float64
	for job, at := range times {
		took = append(took, inMs(s.started[job].Sub(at)))
	}
	return took
}

// oneByOne enqueues a job, waits for its start, and for a random while: longer than the pauses that either side makes
// between two looks at its table, on average.
func (s *source) oneByOne(ctx context.Context, n int) error {
	s.forget()
	for i := range n {
		if !pause(ctx, 20*time.Millisecond+rand.N(200*time.Millisecond)) {
			return ctx.Err()
		}
		if err := errors.Join(s.one(ctx, int64(i+1)), s.drained(ctx)); err != nil {
			return err
		}
	}
	return nil
}

// steady enqueues at a rate, whatever becomes of the jobs.
func (s *source) steady(ctx context.Context, rate int, duration time.Duration) error {
	s.forget()
	_, err := openLoop(ctx, rate, duration, func(i int64) error { return s.one(ctx, i) })
	return errors.Join(err, s.drained(ctx))
}

// listenerRole is who the workers listen as while their connection is to be found and terminated: nothing else tells a
// listening connection from the others.
const listenerRole = "lockstep_reaper"

// kill terminates the listener's connection and enqueues at once, n times.
func (s *source) kill(ctx context.Context, n int) error {
	s.forget()
	for i := range n {
		// It is back, and idle for a moment. Its reconnection is not what is measured.
		err := s.d.await(ctx, 15*time.Second, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND usename = $1 AND state = 'idle')", listenerRole)
		if err != nil {
			return err
		}
		if !pause(ctx, 100*time.Millisecond+rand.N(time.Second)) {
			return ctx.Err()
		}
		terminated, err := value[int](ctx, s.d, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND usename = $1", listenerRole)
		if err == nil && terminated != 1 {
			err = fmt.Errorf("terminated %d listeners, want 1", terminated)
		}
		if err := errors.Join(err, s.one(ctx, int64(i+1)), s.drained(ctx)); err != nil {
			return err
		}
	}
	return nil
}

// withOurs has one initializer with its default settings take what a gateway enqueues. Its answer is that there is
// nothing to do, which ends the run.
func withOurs(ctx context.Context, b *bench, do func(*source) error) error {
	_, err := within(ctx, b.server.migrated, func(d *database) (_ struct{}, err error) {
		s := newSource(d)
		worker, err := jobs.Open(ctx, d.as("initializer"), jobs.Options{App: "initializer", ListenURL: d.login(listenerRole)})
		if err != nil {
			return struct{}{}, fmt.Errorf("open the queue as initializer: %w", err)
		}
		c, working := newCrew(ctx)
		stage := initializerStage(4, func(_ context.Context, job *jobs.Job) (jobs.Result, error) {
			s.begun(job.RunID)
			return jobs.Result{Status: jobs.StatusSkipped}, nil
		})
		c.work(working, worker, stage)
		defer func() { err = errors.Join(err, c.dismiss()) }()
		gateway, err := d.open(ctx, "api-gateway")
		if err != nil {
			return struct{}{}, err
		}
		defer gateway.Close()
		s.enqueue = func(ctx context.Context, i int64) (int64, error) {
			run, err := gateway.Enqueue(ctx, newRun(i))
			return run.RunID, err
		}
		// The first one finds connections unopened and statements unprepared.
		if err := errors.Join(s.one(ctx, 1), s.drained(ctx)); err != nil {
			return struct{}{}, err
		}
		return struct{}{}, do(s)
	})
	return err
}

// withRiver has one client of River with its default settings.
func withRiver(ctx context.Context, b *bench, do func(*source) error) error {
	_, err := within(ctx, b.server.riverDatabase, func(d *database) (_ struct{}, err error) {
		s := newSource(d)
		client, err := riverClient(d, 100, 0, 0, s.begun)
		if err != nil {
			return struct{}{}, err
		}
		if err := client.Start(ctx); err != nil {
			return struct{}{}, fmt.Errorf("start River: %w", err)
		}
		defer func() { err = errors.Join(err, riverStop(ctx, client)) }()
		s.enqueue = func(ctx context.Context, i int64) (int64, error) {
			inserted, err := client.Insert(ctx, riverArgs{Number: int(i)}, nil)
			if err != nil {
				return 0, fmt.Errorf("insert a job: %w", err)
			}
			return inserted.Job.ID, nil
		}
		if err := errors.Join(s.one(ctx, 1), s.drained(ctx)); err != nil {
			return struct{}{}, err
		}
		return struct{}{}, do(s)
	})
	return err
}
