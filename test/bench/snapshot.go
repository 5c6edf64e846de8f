package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// snapshot is part (f): somebody holds a transaction open, so that nothing that was superseded since can be removed.
func snapshot(ctx context.Context, b *bench, t *table) error {
	freely := t.row("runs/s", nil, "ours: runs ended within %s in which %s a second are enqueued", b.size.heldFor, number(float64(b.size.heldRate)))
	held := t.row("runs/s", nil, "… beside a REPEATABLE READ transaction that is open all the time")
	share := t.row("×", atLeast(0.9, 0.9), "… ÷ without it")
	freelyP99 := t.row("ms", nil, "from accepted to ended, without it: p99")
	heldP99 := t.row("ms", nil, "from accepted to ended, with it: p99")
	return b.rounds(func() error {
		for _, m := range []struct {
			hold      bool
			rate, p99 *row
		}{{false, freely, freelyP99}, {true, held, heldP99}} {
			result, err := within(ctx, b.server.migrated, func(d *database) ([2]float64, error) { return steadyLoad(ctx, b, d, m.hold) })
			if err != nil {
				return fmt.Errorf("held %t: %w", m.hold, err)
			}
			m.rate.add(result[0])
			m.p99.add(result[1])
			b.say("    held %t: %s/s, p99 %s ms", m.hold, number(result[0]), number(result[1]))
		}
		share.add(held.last() / freely.last())
		return nil
	})
}

// steadyLoad returns the runs a second that ended while the load lasted, and the p99 of their time from the insert to the end in ms.
func steadyLoad(ctx context.Context, b *bench, d *database, hold bool) (result [2]float64, err error) {
	var planned, handled atomic.Int64
	crew, err := staff(ctx, d, 1, initializerStage(100, counted(&planned)), runnerStage(100, counted(&handled)))
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, crew.dismiss()) }()
	gateway, err := d.open(ctx, "api-gateway")
	if err != nil {
		return result, err
	}
	defer gateway.Close()
	if hold {
		tx, err := d.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
		if err != nil {
			return result, fmt.Errorf("begin: %w", err)
		}
		defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
		if _, err := tx.Exec(ctx, "SELECT count(*) FROM ci_jobs"); err != nil { // takes the snapshot
			return result, fmt.Errorf("take a snapshot: %w", err)
		}
	}
	var begun time.Time
	if begun, err = value[time.Time](ctx, d, "SELECT clock_timestamp()"); err != nil {
		return result, err
	}
	accepted, err := openLoop(ctx, b.size.heldRate, b.size.heldFor, func(i int64) error {
		_, err := gateway.Enqueue(ctx, newRun(i))
		return err
	})
	if err == nil {
		err = finished(ctx, d, &handled, accepted)
	}
	if err = errors.Join(err); err != nil {
		return result, err
	}
	// The last ones were accepted just before the end: they need a moment, and are no backlog.
	window := b.size.heldFor + 200*time.Millisecond
	ended, err := value[int](ctx, d, "SELECT count(*) FROM ci_runs WHERE finished_at <= $1", begun.Add(window))
	if err != nil {
		return result, err
	}
	p99, err := value[float64](ctx, d, "SELECT 1000 * percentile_cont(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM finished_at - created_at))::double precision FROM ci_runs")
	if err != nil {
		return result, err
	}
	return [2]float64{float64(ended) / b.size.heldFor.Seconds(), p99}, check(ctx, d, accepted)
}
