package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"
)

// enqueue is part (d): what waking everybody costs those who enqueue one run at a time.
func enqueue(ctx context.Context, b *bench, t *table) error {
	n := b.size.enqueuers
	ours := t.row("runs/s", atLeast(10_000, 11_000), "ours: %d clients that each wait for the acknowledgement of one run", n)
	silent := t.row("runs/s", nil, "ours, with the triggers that notify disabled")
	share := t.row("×", atLeast(0.8, 0.8), "ours ÷ without notification")
	single := t.row("runs/s", nil, "one-row INSERTs into our tables on %d connections", n)
	articles := t.row("runs/s", nil, "one-row INSERTs into the article's table on %d connections", n)

	grouped := func(d *database) (f figure, err error) {
		gateway, err := d.open(ctx, "api-gateway")
		if err != nil {
			return f, err
		}
		defer gateway.Close()
		return acknowledged(ctx, b, func(ctx context.Context, i int64) error {
			_, err := gateway.Enqueue(ctx, newRun(i))
			return err
		})
	}
	// naive sends each row by itself, over as many connections as there are clients.
	naive := func(d *database, insert func(ctx context.Context, pool *pgxpool.Pool, i int64) error) (f figure, err error) {
		config, err := pgxpool.ParseConfig(d.url)
		if err != nil {
			return f, fmt.Errorf("read URL: %w", err)
		}
		config.MinConns, config.MaxConns = int32(n), int32(n)
		pool, err := pgxpool.NewWithConfig(ctx, config)
		if err != nil {
			return f, fmt.Errorf("open pool: %w", err)
		}
		defer pool.Close()
		return acknowledged(ctx, b, func(ctx context.Context, i int64) error { return insert(ctx, pool, i) })
	}
	return b.rounds(func() error {
		for _, m := range []struct {
			row    *row
			create func(context.Context) (*database, error)
			run    func(*database) (figure, error)
		}{
			{ours, b.server.migrated, grouped},
			{silent, b.server.migrated, func(d *database) (figure, error) {
				if err := d.exec(ctx, query("silence")); err != nil {
					return figure{}, err
				}
				return grouped(d)
			}},
			{single, b.server.migrated, func(d *database) (figure, error) {
				return naive(d, func(ctx context.Context, pool *pgxpool.Pool, i int64) error {
					_, err := pool.Exec(ctx, "INSERT INTO ci_jobs (repository, status, status_change_time) VALUES ($1, 'new', now())", newRun(i).Repository)
					return err
				})
			}},
			{articles, b.server.article, func(d *database) (figure, error) {
				return naive(d, func(ctx context.Context, pool *pgxpool.Pool, _ int64) error {
					_, err := pool.Exec(ctx, articleInsert)
					return err
				})
			}},
		} {
			f, err := within(ctx, m.create, m.run)
			if err != nil {
				return fmt.Errorf("%s: %w", m.row.what, err)
			}
			m.row.addFigure(f)
			b.say("    %s: %s/s", m.row.what, number(f.perSecond))
		}
		share.add(ours.last() / silent.last())
		return nil
	})
}

// acknowledged is the rate at which clients are told that their run is on disk.
func acknowledged(ctx context.Context, b *bench, one func(ctx context.Context, i int64) error) (figure, error) {
	if _, err := closedLoop(ctx, b.size.enqueuers, during(b.size.load/5), one); err != nil { // connections open, plans are made
		return figure{}, err
	}
	watch := b.server.start()
	accepted, err := closedLoop(ctx, b.size.enqueuers, during(b.size.load), one)
	return watch.per(max(1, accepted)), err
}
