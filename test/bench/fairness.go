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

// fairness is part (h): a repository has many jobs waiting. How many of them are claimed between the acknowledgement of
// another repository's only job and that job's own claim?
func fairness(ctx context.Context, b *bench, t *table) error {
	middle := t.row("jobs", nil, "one repository with %s jobs, %d slots, then another with one: jobs of the first that are claimed before that one is, median of %d arrivals",
		number(float64(b.size.bigJobs)), b.size.bigSlots, b.size.arrivals)
	most := t.row("jobs", atMost(1), "… most")
	waited := t.row("ms", nil, "… time until it starts, median; each job takes %s", b.size.handler)
	return b.rounds(func() error {
		_, err := within(ctx, b.server.migrated, func(d *database) (struct{}, error) {
			before, took, err := overtake(ctx, b, d)
			if err == nil {
				middle.add(median(before))
				most.add(percentile(before, 100))
				waited.add(median(took))
				b.say("    %s jobs, at most %s", number(middle.last()), number(most.last()))
			}
			return struct{}{}, err
		})
		return err
	})
}

// arrival is a small repository's only job.
type arrival struct{ acknowledged, started time.Time }

// overtake returns, for each arrival, how many jobs of the big repository were claimed before it, and how long it took to
// start in ms.
func overtake(ctx context.Context, b *bench, d *database) (before, took []float64, err error) {
	const big = "https://github.com/acme/big"
	gateway, err := d.open(ctx, "api-gateway")
	if err != nil {
		return nil, nil, err
	}
	defer gateway.Close()
	_, err = closedLoop(ctx, min(100, b.size.bigJobs), upTo(b.size.bigJobs), func(ctx context.Context, _ int64) error {
		_, err := gateway.Enqueue(ctx, jobs.NewRun{Repository: big, Event: "push"})
		return err
	})
	if err != nil {
		return nil, nil, err
	}

	tap, err := newTap(d.url)
	if err != nil {
		return nil, nil, err
	}
	defer tap.close()
	worker, err := tap.open(ctx, d, "initializer")
	if err != nil {
		return nil, nil, err
	}
	var (
		mu      sync.Mutex
		starts  int                       // of the big repository's jobs
		started = make(chan time.Time, 1) // of the small one's
	)
	c, working := newCrew(ctx)
	c.work(working, worker, initializerStage(b.size.bigSlots, func(ctx context.Context, job *jobs.Job) (jobs.Result, error) {
		if job.Repository == big {
			mu.Lock()
			starts++
			mu.Unlock()
		} else {
			started <- time.Now()
		}
		pause(ctx, b.size.handler)
		return jobs.Result{Status: jobs.StatusSkipped}, nil
	}))
	defer func() { err = errors.Join(err, c.dismiss()) }()

	var arrivals []arrival
	each := time.Duration(b.size.bigJobs/b.size.bigSlots) * b.size.handler / time.Duration(b.size.arrivals+2)
	for i := range b.size.arrivals {
		if !pause(ctx, each/2+rand.N(each)) {
			return nil, nil, ctx.Err()
		}
		if _, err := gateway.Enqueue(ctx, jobs.NewRun{Repository: fmt.Sprintf("https://github.com/acme/small-%d", i), Event: "push"}); err != nil {
			return nil, nil, err
		}
		acknowledged := time.Now()
		select {
		case at := <-started:
			arrivals = append(arrivals, arrival{acknowledged, at})
		case <-time.After(20 * time.Second):
			return nil, nil, errors.New("a small repository's job did not start within 20s")
		}
	}
	mu.Lock()
	left := b.size.bigJobs - starts
	mu.Unlock()
	if left <= 0 {
		return nil, nil, errors.New("the big repository had no jobs left")
	}
	claims := tap.claims()
	for _, a := range arrivals {
		before = append(before, float64(claimedBefore(claims, a)))
		took = append(took, float64(a.started.Sub(a.acknowledged).Microseconds())/1000)
	}
	return before, took, nil
}

// claimedBefore counts the jobs of claims that set out after the arrival was acknowledged, but for the claim that took it:
// that gave it the first slot, and others what else was free. A claim that was on its way by then could not know of it.
func claimedBefore(claims []statement, a arrival) int {
	jobs, last := 0, 0
	for _, claim := range claims {
		if claim.at.After(a.acknowledged) && claim.at.Add(claim.took).Before(a.started) {
			jobs += claim.rows
			last = claim.rows
		}
	}
	return jobs - last
}
