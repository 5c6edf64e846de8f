package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/riverqueue/river"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
)

// burnDown is part (a): so many no-op jobs lie ready; how fast are they gone?
func burnDown(ctx context.Context, b *bench, t *table) error {
	size := []any{number(float64(b.size.burnJobs)), number(float64(b.size.burnSlots))}
	first := t.row("jobs/s", nil, "ours, through the first stage: %s jobs, one process with %s slots", size...)
	last := t.row("jobs/s", nil, "ours, through the last stage, which ends the run and renews its report: as many")
	others := t.row("jobs/s", nil, "River v0.51.1: as many jobs, one client with as many workers, set up as in its own benchmark")
	var articles []*row
	for _, workers := range b.size.articleWorkers {
		articles = append(articles, t.row("jobs/s", nil, "the article's design: %s jobs, %s", number(float64(b.size.articleJobs)), workerCount(workers)))
	}
	firstRatio := t.row("×", atLeast(1.5, 2), "ours, through the first stage ÷ River")
	lastRatio := t.row("×", atLeast(1.5, 2), "ours, through the last stage ÷ River")
	return b.rounds(func() error {
		f, err := within(ctx, b.server.migrated, func(d *database) (figure, error) { return burnFirst(ctx, b, d) })
		if err != nil {
			return fmt.Errorf("ours, first stage: %w", err)
		}
		first.addFigure(f)
		b.say("    ours, first stage %s/s", number(f.perSecond))
		f, err = within(ctx, b.server.migrated, func(d *database) (figure, error) { return burnLast(ctx, b, d) })
		if err != nil {
			return fmt.Errorf("ours, last stage: %w", err)
		}
		last.addFigure(f)
		b.say("    ours, last stage %s/s", number(f.perSecond))
		f, err = within(ctx, b.server.riverDatabase, func(d *database) (figure, error) { return burnRiver(ctx, b, d) })
		if err != nil {
			return fmt.Errorf("river: %w", err)
		}
		others.addFigure(f)
		b.say("    River %s/s", number(f.perSecond))
		firstRatio.add(first.last() / others.last())
		lastRatio.add(last.last() / others.last())
		for i, workers := range b.size.articleWorkers {
			f, err = within(ctx, b.server.article, func(d *database) (figure, error) { return burnArticle(ctx, b, d, workers) })
			if err != nil {
				return fmt.Errorf("the article's design: %w", err)
			}
			articles[i].addFigure(f)
			b.say("    the article's design, %s: %s/s", workerCount(workers), number(f.perSecond))
		}
		return nil
	})
}

// burnFirst moves jobs from new to initialized: each is handed on to the next stage.
func burnFirst(ctx context.Context, b *bench, d *database) (f figure, err error) {
	err = d.load(ctx, func(exec func(string, ...any) error) error {
		return errors.Join(exec(query("asked_runs"), b.size.burnJobs), exec(query("asked_jobs")))
	})
	if err = errors.Join(err, d.settle(ctx)); err != nil {
		return f, err
	}
	f, err = burn(ctx, b, d, initializerStage, `
		SELECT NOT EXISTS (SELECT FROM ci_jobs WHERE status = 'new') AND NOT EXISTS (SELECT FROM ci_jobs WHERE claim_token IS NOT NULL)`)
	if err != nil {
		return f, err
	}
	moved, err := value[int](ctx, d, "SELECT count(*) FROM ci_jobs WHERE status = 'initialized'")
	if err == nil && moved != b.size.burnJobs {
		err = fmt.Errorf("%d of %d jobs have reached the next stage", moved, b.size.burnJobs)
	}
	return f, err
}

// burnLast moves jobs from initialized to success: each ends its run.
func burnLast(ctx context.Context, b *bench, d *database) (f figure, err error) {
	err = d.load(ctx, func(exec func(string, ...any) error) error {
		return errors.Join(exec(query("planned_runs"), b.size.burnJobs), exec(query("planned_jobs")), exec(query("planned_reports")))
	})
	if err = errors.Join(err, d.settle(ctx)); err != nil {
		return f, err
	}
	f, err = burn(ctx, b, d, runnerStage, query("all_ended"))
	return f, errors.Join(err, check(ctx, d, b.size.burnJobs))
}

// burn runs one process with all slots until the database says that it is done.
func burn(ctx context.Context, b *bench, d *database, stage func(int, handler) jobs.Stage, done string) (f figure, err error) {
	var handled atomic.Int64
	watch := b.server.start()
	workers, err := staff(ctx, d, 1, stage(b.size.burnSlots, counted(&handled)))
	if err != nil {
		return f, err
	}
	err = handledAnd(ctx, d, done, &handled, b.size.burnJobs)
	f = watch.per(b.size.burnJobs)
	return f, errors.Join(err, workers.dismiss())
}

func burnRiver(ctx context.Context, b *bench, d *database) (f figure, err error) {
	var handled atomic.Int64
	client, err := riverClient(d, b.size.burnSlots, 2*time.Millisecond, 20*time.Millisecond, func(int64) { handled.Add(1) })
	if err != nil {
		return f, err
	}
	for inserted := 0; inserted < b.size.burnJobs; {
		batch := make([]river.InsertManyParams, min(5_000, b.size.burnJobs-inserted))
		for i := range batch {
			batch[i].Args = riverArgs{Number: inserted + i}
		}
		if _, err := client.InsertManyFast(ctx, batch); err != nil {
			return f, fmt.Errorf("insert jobs: %w", err)
		}
		inserted += len(batch)
	}
	if err := d.settle(ctx); err != nil {
		return f, err
	}
	watch := b.server.start()
	if err := client.Start(ctx); err != nil {
		return f, fmt.Errorf("start River: %w", err)
	}
	err = until(ctx, 3*time.Minute, 2*time.Millisecond, func() bool { return handled.Load() >= int64(b.size.burnJobs) })
	if err == nil {
		err = d.await(ctx, time.Minute, "SELECT NOT EXISTS (SELECT FROM river_job WHERE state IN ('available', 'running'))")
	}
	f = watch.per(b.size.burnJobs)
	err = errors.Join(err, riverStop(ctx, client))
	completed, counting := value[int](ctx, d, "SELECT count(*) FROM river_job WHERE state = 'completed'")
	if err = errors.Join(err, counting); err == nil && completed != b.size.burnJobs {
		err = fmt.Errorf("%d of %d jobs are completed", completed, b.size.burnJobs)
	}
	return f, err
}

func burnArticle(ctx context.Context, b *bench, d *database, workers int) (f figure, err error) {
	err = d.load(ctx, func(exec func(string, ...any) error) error {
		return exec(`INSERT INTO ci_jobs (repository, status, status_change_time)
			SELECT 'https://github.com/colinchartier/layerci-color-test', 'initialized', NOW() FROM generate_series(1, $1::int)`, b.size.articleJobs)
	})
	if err = errors.Join(err, d.settle(ctx)); err != nil {
		return f, err
	}
	watch := b.server.start()
	crew, err := articleWorkers(ctx, d, workers, articleRunner)
	if err != nil {
		return f, err
	}
	err = articleDone(ctx, d, b.size.articleJobs)
	f = watch.per(b.size.articleJobs)
	return f, errors.Join(err, crew.dismiss())
}
