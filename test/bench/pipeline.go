package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/jackc/pgx/v5"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
)

// shape is one way to drive the pipeline.
type shape struct {
	clients int // each enqueues one run after the other
	workers int // of each stage
	plan    bool
	row     *row
}

// pipeline is part (b): new → initializing → initialized → running → success, all at once.
func pipeline(ctx context.Context, b *bench, t *table) error {
	var shapes []shape
	for i, workers := range b.size.workers {
		var wanted *goal
		if i == 0 {
			wanted = atLeast(20_000, 25_000)
		}
		shapes = append(shapes, shape{clients: b.size.clients, workers: workers,
			row: t.row("runs/s", wanted, "ours: %d clients that each wait for the acknowledgement of one run, %s a stage", b.size.clients, workerCount(workers))})
	}
	share := t.row("×", atLeast(0.9, 0.9), "ours: %s a stage ÷ the best number", workerCount(slices.Max(b.size.workers)))
	shapes = append(shapes,
		shape{clients: b.size.bulk, workers: 1,
			row: t.row("runs/s", atLeast(30_000, 40_000), "ours, in bulk: %s such callers at once, 1 worker a stage", number(float64(b.size.bulk)))},
		shape{clients: b.size.clients, workers: 1, plan: true,
			row: t.row("runs/s", nil, "ours: %d clients, 1 worker a stage; the initializer's handler plans the job in a transaction of each run's own, as the real one does", b.size.clients)})
	var articles []*row
	for _, workers := range b.size.articleWorkers {
		articles = append(articles, t.row("runs/s", nil, "the article's design: %s a stage", workerCount(workers)))
	}
	return b.rounds(func() error {
		best, most := 0.0, 0.0
		for _, s := range shapes {
			f, err := within(ctx, b.server.migrated, func(d *database) (figure, error) { return drive(ctx, b, d, s) })
			if err != nil {
				return fmt.Errorf("%s: %w", s.row.what, err)
			}
			s.row.addFigure(f)
			b.say("    %d clients, %s a stage, plan %t: %s/s", s.clients, workerCount(s.workers), s.plan, number(f.perSecond))
			if s.clients == b.size.clients && !s.plan {
				best = max(best, f.perSecond)
				most = f.perSecond // the largest number of workers comes last
			}
		}
		share.add(most / best)
		for i, workers := range b.size.articleWorkers {
			f, err := within(ctx, b.server.article, func(d *database) (figure, error) { return driveArticle(ctx, b, d, workers) })
			if err != nil {
				return fmt.Errorf("the article's design: %w", err)
			}
			articles[i].addFigure(f)
			b.say("    the article's design, %s: %s/s", workerCount(workers), number(f.perSecond))
		}
		return nil
	})
}

// drive enqueues for a while with everything at work, and waits for the last run's end. The rate is that of the whole.
func drive(ctx context.Context, b *bench, d *database, s shape) (f figure, err error) {
	var planned, handled atomic.Int64
	initialize := counted(&planned)
	if s.plan {
		initialize = plan
	}
	slots := max(1, b.size.slots/s.workers)
	crew, err := staff(ctx, d, s.workers, initializerStage(slots, initialize), runnerStage(slots, counted(&handled)))
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, crew.dismiss()) }()
	gateway, err := d.open(ctx, "api-gateway")
	if err != nil {
		return f, err
	}
	defer gateway.Close()
	var next atomic.Int64
	enqueue := func(ctx context.Context, _ int64) error {
		_, err := gateway.Enqueue(ctx, newRun(next.Add(1)))
		return err
	}
	// Connections open and plans are made while nobody measures.
	warm, err := closedLoop(ctx, s.clients, during(b.size.load/5), enqueue)
	if err == nil {
		err = errors.Join(finished(ctx, d, &handled, warm), d.exec(ctx, "CHECKPOINT"))
	}
	if err != nil {
		return f, err
	}
	watch := b.server.start()
	accepted, err := closedLoop(ctx, s.clients, during(b.size.load), enqueue)
	if err == nil {
		err = finished(ctx, d, &handled, warm+accepted)
	}
	if err != nil {
		return f, err
	}
	f = watch.per(accepted)
	reports, err := value[int](ctx, d, "SELECT count(*) FROM ci_reports WHERE state = 'success'")
	if err == nil && reports != warm+accepted {
		err = fmt.Errorf("%d of %d runs are reported as a success", reports, warm+accepted)
	}
	return f, errors.Join(err, check(ctx, d, warm+accepted))
}

// plan answers as the initializer does, with a workflow of one job.
func plan(_ context.Context, job *jobs.Job) (jobs.Result, error) {
	return jobs.Result{Commit: func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, query("plan"), job.ID, job.Token); err != nil {
			return fmt.Errorf("plan job %d: %w", job.ID, err)
		}
		return nil
	}}, nil
}

// driveArticle has a few clients insert a fixed number of rows while the workers are at it: more clients or rows make
// the article's design slower, not faster.
func driveArticle(ctx context.Context, b *bench, d *database, workers int) (f figure, err error) {
	crew, err := articleWorkers(ctx, d, workers, articleInitializer, articleRunner)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, crew.dismiss()) }()
	runs := max(1, b.size.articleRuns/workers*min(workers, 4)) // it is slow with many
	watch := b.server.start()
	_, err = closedLoop(ctx, min(4, workers), upTo(runs), func(ctx context.Context, _ int64) error { return d.exec(ctx, articleInsert) })
	if err == nil {
		err = articleDone(ctx, d, runs)
	}
	return watch.per(runs), err
}
