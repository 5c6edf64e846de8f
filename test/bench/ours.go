package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
)

type handler func(context.Context, *jobs.Job) (jobs.Result, error)

// initializerStage is the initializer's stage with the services' default settings, but for its slots.
func initializerStage(slots int, do handler) jobs.Stage {
	return jobs.Stage{
		Name: "initializer", Takes: jobs.StatusNew, Holds: jobs.StatusInitializing, Gives: jobs.StatusInitialized,
		Slots: slots, Lease: 20 * time.Second, Beat: 5 * time.Second, Poll: time.Second, Grace: 30 * time.Second, Do: do,
	}
}

// runnerStage is the runner's, likewise.
func runnerStage(slots int, do handler) jobs.Stage {
	stage := initializerStage(slots, do)
	stage.Name, stage.Takes, stage.Holds, stage.Gives = "runner", jobs.StatusInitialized, jobs.StatusRunning, jobs.StatusSuccess
	return stage
}

// counted is a handler that does nothing but count.
func counted(n *atomic.Int64) handler {
	return func(context.Context, *jobs.Job) (jobs.Result, error) {
		n.Add(1)
		return jobs.Result{}, nil
	}
}

// crew is workers, each with a pool, a listener and a beat of its own, as separate processes have them.
type crew struct {
	cancel context.CancelFunc
	loops  sync.WaitGroup
	mu     sync.Mutex
	err    error
}

func newCrew(ctx context.Context) (*crew, context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	return &crew{cancel: cancel}, ctx
}

// staff starts a crew of n workers for each stage, and waits until they have registered.
func staff(ctx context.Context, d *database, n int, stages ...jobs.Stage) (*crew, error) {
	c, working := newCrew(ctx)
	for _, stage := range stages {
		for range n {
			db, err := d.open(working, stage.Name)
			if err != nil {
				return nil, errors.Join(err, c.dismiss())
			}
			c.work(working, db, stage)
		}
	}
	err := d.await(ctx, 30*time.Second, "SELECT count(*) >= $1 FROM ci_workers WHERE dead_at IS NULL", n*len(stages))
	if err != nil {
		return nil, errors.Join(err, c.dismiss())
	}
	return c, nil
}

// dismiss stops the workers and waits for them.
func (c *crew) dismiss() error {
	c.cancel()
	c.loops.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// work adds a worker, whose queue it closes in the end.
func (c *crew) work(ctx context.Context, db *jobs.DB, stage jobs.Stage) {
	c.loops.Go(func() {
		defer db.Close()
		if err := db.Work(ctx, stage); err != nil {
			c.failed(err)
		}
	})
}

func (c *crew) failed(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = errors.Join(c.err, err)
}

// finished waits until n jobs have passed the last handler and every run in the database has ended with success.
func finished(ctx context.Context, d *database, handled *atomic.Int64, n int) error {
	return handledAnd(ctx, d, query("all_ended"), handled, n)
}

// handledAnd waits until n jobs have passed the last handler and the database says that they are done.
func handledAnd(ctx context.Context, d *database, done string, handled *atomic.Int64, n int) error {
	const limit = 3 * time.Minute
	if err := until(ctx, limit, 2*time.Millisecond, func() bool { return handled.Load() >= int64(n) }); err != nil {
		return fmt.Errorf("%d of %d jobs have reached the last handler: %w", handled.Load(), n, err)
	}
	return d.await(ctx, limit, done)
}

// check wants n runs, and all of them successes: a figure counts only when the work was done.
func check(ctx context.Context, d *database, n int) error {
	succeeded, err := value[int](ctx, d, "SELECT count(*) FROM ci_runs WHERE status = 'success'")
	if err == nil && succeeded != n {
		err = fmt.Errorf("%d of %d runs are a success", succeeded, n)
	}
	return err
}

// repositories is how many the runs are spread over: a repository's runs take their turns one after the other.
const repositories = 64

// newRun is the i-th run: a push of a commit that is known, so that GitHub is to be told about it.
func newRun(i int64) jobs.NewRun {
	return jobs.NewRun{
		Repository: fmt.Sprintf("https://github.com/acme/widgets-%d", i%repositories), Event: "push", Ref: "refs/heads/main",
		HeadSHA: fmt.Sprintf("%040x", i), Author: "ada", Title: "make the widget rounder", Trusted: true,
	}
}

// during is for a closedLoop that goes on for a while.
func during(d time.Duration) func(int64) bool {
	end := time.Now().Add(d)
	return func(int64) bool { return time.Now().Before(end) }
}

// upTo is for a closedLoop of n runs.
func upTo(n int) func(int64) bool {
	return func(i int64) bool { return i <= int64(n) }
}

// closedLoop lets clients enqueue one run after the other, each after the acknowledgement of the one before, for as long
// as more is true of a run's number. It returns how many were accepted.
func closedLoop(ctx context.Context, clients int, more func(i int64) bool, enqueue func(ctx context.Context, i int64) error) (int, error) {
	var next, accepted atomic.Int64
	failures := make(chan error, clients)
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			for i := next.Add(1); more(i); i = next.Add(1) {
				if err := enqueue(ctx, i); err != nil {
					failures <- err
					return
				}
				accepted.Add(1)
			}
		})
	}
	all.Wait()
	close(failures)
	return int(accepted.Load()), <-failures
}

// openLoop calls do at a steady rate, whether or not the calls before have returned, and waits for all of them.
func openLoop(ctx context.Context, perSecond int, duration time.Duration, do func(i int64) error) (int, error) {
	var (
		all     sync.WaitGroup
		failure atomic.Pointer[error]
		begun   = time.Now()
		called  int
	)
	for range int(float64(perSecond) * duration.Seconds()) {
		due := begun.Add(time.Duration(called) * time.Second / time.Duration(perSecond))
		if wait := time.Until(due); wait > 0 && !pause(ctx, wait) {
			break
		}
		called++
		i := int64(called)
		all.Go(func() {
			if err := do(i); err != nil {
				failure.CompareAndSwap(nil, &err)
			}
		})
	}
	all.Wait()
	if err := failure.Load(); err != nil {
		return called, *err
	}
	return called, ctx.Err()
}
