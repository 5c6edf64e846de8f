package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
)

// fairness is part (h): a repository has many jobs waiting. How many of them start between the acknowledgement of
// another repository's only job and its start?
func fairness(ctx context.Context, b *bench, t *table) error {
	middle := t.row("jobs", nil, "one repository with %s jobs, %d slots, another with one: jobs of the first that start before that one does, median of %d arrivals",
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

// overtake returns, for each arrival of a small repository's job, how many jobs of the big one started before it, and how
// long it took to start in ms.
func overtake(ctx context.Context, b *bench, d *database) (before, took []float64, err error) {
	const big = "https://github.com/acme/big"
	var (
		mu     sync.Mutex
		starts int                      // of the big repository's jobs
		small  = map[string]int{}       // repository: starts when its job started
		at     = map[string]time.Time{} // repository: when
	)
	gateway, err := d.open(ctx, "api-gateway")
	if err != nil {
		return nil, nil, err
	}
	defer gateway.Close()
	if _, err := closedLoop(ctx, min(100, b.size.bigJobs), upTo(b.size.bigJobs), func(ctx context.Context, _ int64) error {
		_, err := gateway.Enqueue(ctx, jobs.NewRun{Repository: big, Event: "push"})
		return err
	}); err != nil {
		return nil, nil, err
	}
	crew, err := staff(ctx, d, 1, initializerStage(b.size.bigSlots, func(ctx context.Context, job *jobs.Job) (jobs.Result, error) {
		mu.Lock()
		if job.Repository == big {
			starts++
		} else {
			small[job.Repository], at[job.Repository] = starts, time.Now()
		}
		mu.Unlock()
		pause(ctx, b.size.handler)
		return jobs.Result{Status: jobs.StatusSkipped}, nil
	}))
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, crew.dismiss()) }()
	each := time.Duration(b.size.bigJobs/b.size.bigSlots) * b.size.handler / time.Duration(b.size.arrivals+2)
	for i := range b.size.arrivals {
		if !pause(ctx, each/2+rand.N(each)) {
			return nil, nil, ctx.Err()
		}
		repository := fmt.Sprintf("https://github.com/acme/small-%d", i)
		if _, err := gateway.Enqueue(ctx, jobs.NewRun{Repository: repository, Event: "push"}); err != nil {
			return nil, nil, err
		}
		arrived := time.Now()
		mu.Lock()
		then := starts
		mu.Unlock()
		err := until(ctx, 20*time.Second, time.Millisecond, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return !at[repository].IsZero()
		})
		if err != nil {
			return nil, nil, fmt.Errorf("wait for the job of %s: %w", strings.TrimPrefix(repository, "https://"), err)
		}
		mu.Lock()
		before = append(before, float64(max(0, small[repository]-then)))
		took = append(took, float64(at[repository].Sub(arrived).Microseconds())/1000)
		if starts >= b.size.bigJobs {
			err = errors.New("the big repository had no jobs left")
		}
		mu.Unlock()
		if err != nil {
			return nil, nil, err
		}
	}
	return before, took, nil
}
