package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
)

// history is part (e): does a claim notice how many jobs have ended before?
func history(ctx context.Context, b *bench, t *table) (err error) {
	sizes := b.size.history
	var (
		databases = make([]*database, len(sizes))
		p50, p99  = make([]*row, len(sizes)), make([]*row, len(sizes))
		ratios    = make([]*row, len(sizes))
	)
	for i, n := range sizes {
		p50[i] = t.row("ms", nil, "a claim that finds a job, behind %s finished ones: p50", number(float64(n)))
		p99[i] = t.row("ms", nil, "… p99")
		if i > 0 {
			ratios[i] = t.row("×", atMost(1.5), "… p50 ÷ that behind %s", number(float64(sizes[0])))
		}
	}
	defer func() {
		for _, d := range databases {
			if d != nil {
				err = errors.Join(err, d.drop())
			}
		}
	}()
	for i, n := range sizes {
		b.say("  filling in %s finished jobs", number(float64(n)))
		if databases[i], err = b.server.migrated(ctx); err != nil {
			return err
		}
		if err := databases[i].fill(ctx, n); err != nil {
			return err
		}
	}
	return b.rounds(func() error {
		for i, d := range databases {
			took, err := claims(ctx, d, b.size.claims)
			if err != nil {
				return fmt.Errorf("behind %d finished jobs: %w", sizes[i], err)
			}
			p50[i].add(percentile(took, 50))
			p99[i].add(percentile(took, 99))
			if i > 0 {
				ratios[i].add(p50[i].last() / p50[0].last())
			}
			b.say("    behind %s: p50 %s ms", number(float64(sizes[i])), number(p50[i].last()))
		}
		return nil
	})
}

// jobsPerRun in what is filled in: a run with a matrix.
const jobsPerRun = 10

// fill adds finished runs and jobs, half a million at a time.
func (d *database) fill(ctx context.Context, n int) error {
	err := d.load(ctx, func(exec func(string, ...any) error) error {
		if err := exec("SET synchronous_commit = off"); err != nil {
			return err
		}
		for from := 0; from < n; from += 500_000 {
			some := min(500_000, n-from)
			if err := errors.Join(exec(query("finished_runs"), some/jobsPerRun), exec(query("finished_jobs"), jobsPerRun, from/jobsPerRun)); err != nil {
				return err
			}
		}
		return exec("RESET synchronous_commit")
	})
	return errors.Join(err, d.settle(ctx))
}

// claims lets one worker with one slot take n jobs, each enqueued when the one before has ended, and returns what each
// claim took, in ms: the statement and its commit, as seen between the worker and the server.
func claims(ctx context.Context, d *database, n int) (took []float64, err error) {
	tap, err := newTap(d.url)
	if err != nil {
		return nil, err
	}
	defer tap.close()
	worker, err := tap.open(ctx, d, "initializer")
	if err != nil {
		return nil, err
	}
	ended := make(chan struct{}, 1)
	c, working := newCrew(ctx)
	c.work(working, worker, initializerStage(1, func(context.Context, *jobs.Job) (jobs.Result, error) {
		ended <- struct{}{}
		return jobs.Result{Status: jobs.StatusSkipped}, nil
	}))
	defer func() { err = errors.Join(err, c.dismiss()) }()
	gateway, err := d.open(ctx, "api-gateway")
	if err != nil {
		return nil, err
	}
	defer gateway.Close()
	for i := range n {
		if _, err := gateway.Enqueue(ctx, newRun(int64(i+1))); err != nil {
			return nil, err
		}
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			return nil, errors.New("a job did not start within 20s")
		}
	}
	for _, claim := range tap.claims() {
		took = append(took, float64(claim.took.Microseconds())/1000)
	}
	if len(took) < n {
		return nil, fmt.Errorf("saw %d claims of %d", len(took), n)
	}
	return took, nil
}
