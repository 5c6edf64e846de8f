package jobs

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"go.uber.org/zap"
)

// Reaping says how the reaper judges. UnownedAfter and MaxFailures are required.
type Reaping struct {
	Every        time.Duration // longest wait between two looks; 1 s when 0. A dead worker is noticed within its lease and one look.
	UnownedAfter time.Duration // how long a job may be held by hand (from psql, without a worker); more than 0
	MaxFailures  int           // infrastructure failures of one stage before the job ends as StatusError; at least 1
	MaxCrashes   int           // workers of one stage that die with a job before it ends as StatusError; 3 when 0
}

const (
	housekeepEvery = time.Hour   // between two rounds of slow chores
	choreAgain     = time.Minute // after one that failed
	sweepEvery     = 10          // looks from one backstop to the next
	tallyEvery     = 10 * time.Second
	maxTally       = 10_000 // attempts counted at once: at most a second
)

// Reap watches the workers until ctx ends: it marks those whose beat has stood still for their lease and gives their jobs
// to others, ends jobs past their deadline, admits what has waited long enough, and counts what has ended for the
// statistics. Any number of reapers may run at once:
// each write repeats what it rests on. There must be one, or the jobs of the dead and those behind a backoff wait for ever. It
// returns nil when ctx ends, and an error only when the Reaping is out of range.
//
// A reaper counts only silence that it watched itself, by its own clock, and begins anew after each error of the
// database: a restart of PostgreSQL, during which nobody could beat, kills nobody.
func (db *DB) Reap(ctx context.Context, reaping Reaping) error {
	if reaping.Every == 0 {
		reaping.Every = time.Second
	}
	if reaping.MaxCrashes == 0 {
		reaping.MaxCrashes = 3
	}
	if reaping.MaxFailures < 1 || reaping.MaxCrashes < 1 || reaping.UnownedAfter <= 0 {
		return fmt.Errorf("reap: max failures %d, max crashes %d, unowned after %s: at least 1, 1 and more than 0",
			reaping.MaxFailures, reaping.MaxCrashes, reaping.UnownedAfter)
	}
	r := &reaper{db: db, Reaping: reaping, log: db.log}
	var tallies sync.WaitGroup
	tallies.Go(func() {
		for sleep(ctx, r.tally(ctx)) {
		}
	})
	for sleep(ctx, r.look(ctx)) {
	}
	tallies.Wait()
	return nil
}

type reaper struct {
	Reaping
	db     *DB
	log    *zap.Logger
	looks  int
	last   time.Time          // when the last look that succeeded began
	seen   map[int64]sighting // living workers by id; nil: we know nothing
	chores time.Time          // when they are due
}

// sighting is a beat, and for how long we have seen no other one.
type sighting struct {
	beat   string // the database's time: only compared with itself
	silent time.Duration
}

// What a survey tells of.
type (
	living struct {
		ID          int64
		Name, Stage string
		Lease       float64 // seconds
		BeatAt      string  `json:"beat_at"`
	}
	lost struct {
		ID            int64
		Token         pgtype.UUID
		Cause, Worker string
	}
	blocked struct {
		ID        int64
		Run       int64 `json:"run_id"`
		Exhausted bool
	}
)

// look sees to everything once, and returns how long nothing needs another look.
func (r *reaper) look(ctx context.Context) time.Duration {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	began := time.Now()
	workers, claims, waiting, err := r.survey(ctx)
	if !r.went("look at the queue", err) {
		r.seen = nil
		return jitter(r.Every)
	}
	silent, next := r.watch(workers, began)
	err = each(ctx, silent, func(some []living) error { return r.mark(ctx, some) })
	if !r.went("mark dead workers", err) {
		r.seen = nil // they could not beat either, for all we know
		return jitter(r.Every)
	}
	if len(silent) > 0 {
		next = 0 // their jobs are lost now
	}
	r.went("take jobs back", each(ctx, claims, func(some []lost) error { return r.reap(ctx, some) }))
	r.went("end and admit blocked jobs", each(ctx, waiting, func(some []blocked) error { return r.move(ctx, some) }))
	if began.After(r.chores) {
		r.chores = began.Add(housekeepEvery)
		if err := r.housekeep(ctx); err != nil {
			r.chores = began.Add(choreAgain)
			r.log.Warn("could not keep house; again in a minute", zap.Error(err))
		}
	}
	return next
}

// tally counts what has ended for the statistics, and returns how long it need not be done again. It is not part of a look: it
// may take longer, and nobody waits for it.
func (r *reaper) tally(ctx context.Context) time.Duration {
	began := time.Now()
	limited, cancel := context.WithTimeout(ctx, 25*time.Second)
	defer cancel()
	var counted int
	err := r.db.pool.QueryRow(limited, query("tally"), pgx.NamedArgs{"limit": maxTally}).Scan(&counted)
	if ctx.Err() == nil {
		r.db.Note("count what has ended", "the statistics stand still meanwhile", err)
	}
	if err == nil && counted >= maxTally { // there is more; the queue is to have half of the time
		return time.Since(began)
	}
	return jitter(tallyEvery)
}

// went notes how something went, and reports whether it went well.
func (r *reaper) went(doing string, err error) bool {
	r.db.Note(doing, "nobody is taken for dead meanwhile; watching anew", err)
	return err == nil
}

func (r *reaper) survey(ctx context.Context) (workers []living, claims []lost, waiting []blocked, err error) {
	r.looks++
	var mayNotWrite bool
	err = r.db.pool.QueryRow(ctx, query("survey"), pgx.NamedArgs{
		"unowned_after": r.UnownedAfter, "max_failures": r.MaxFailures, "sweep": r.looks%sweepEvery == 1,
	}).Scan(&mayNotWrite, &workers, &claims, &waiting)
	if err == nil && mayNotWrite { // nor may the workers: their silence means nothing
		r.db.pool.Reset() // a session stays as it is; a new one may find the server that may write
		err = errReadOnly
	}
	if err != nil {
		return nil, nil, nil, fmt.Errorf("survey: %w", err)
	}
	return workers, claims, waiting, nil
}

// watch returns the workers whose beat has not changed for a lease while we were looking, and when the next one may be
// due. What passes between two looks, from the end of one to the beginning of the other, counts for at most two of Every:
// we may have stood still, or waited for the same lock as the workers.
func (r *reaper) watch(workers []living, began time.Time) (silent []living, next time.Duration) {
	passed := min(began.Sub(r.last), 2*r.Every)
	seen := make(map[int64]sighting, len(workers))
	next = r.Every
	for _, w := range workers {
		s := sighting{beat: w.BeatAt}
		if last, known := r.seen[w.ID]; known && last.beat == w.BeatAt {
			s.silent = last.silent + passed
		}
		seen[w.ID] = s
		if left := time.Duration(w.Lease*float64(time.Second)) - s.silent; left > 0 {
			next = min(next, left)
		} else {
			silent = append(silent, w)
		}
	}
	r.seen, r.last = seen, time.Now()
	return silent, next
}

func (r *reaper) mark(ctx context.Context, silent []living) error {
	var ids []int64
	marked := map[int64]bool{}
	err := r.send(ctx, func(batch *pgx.Batch) {
		for _, w := range silent {
			ids = append(ids, w.ID)
			batch.Queue(query("mark_dead"), pgx.NamedArgs{"worker": w.ID, "beat_at": w.BeatAt}).Exec(func(tag pgconn.CommandTag) error {
				marked[w.ID] = tag.RowsAffected() == 1
				return nil
			})
		}
	})
	if err != nil {
		return fmt.Errorf("mark workers %v: %w", shortly(ids), err)
	}
	for _, w := range silent {
		if marked[w.ID] {
			r.log.Warn("worker is dead: no beat for its lease", zap.Int64("worker_id", w.ID), zap.String("worker", w.Name),
				zap.String("stage", w.Stage), zap.Float64("lease_seconds", w.Lease))
		}
	}
	return nil
}

// reap ends claims of dead workers, past their deadline, or held by hand for too long.
func (r *reaper) reap(ctx context.Context, claims []lost) error {
	var jobs []int64
	var tokens []pgtype.UUID
	var causes, workers []string
	for _, c := range claims {
		jobs, tokens, causes, workers = append(jobs, c.ID), append(tokens, c.Token), append(causes, c.Cause), append(workers, c.Worker)
	}
	type reaped struct {
		job     int64
		cause   string
		status  Status
		attempt int
	}
	var ended []reaped
	err := r.send(ctx, func(batch *pgx.Batch) {
		batch.Queue(query("lock_runs"), pgx.NamedArgs{"jobs": jobs})
		batch.Queue(query("reap"), pgx.NamedArgs{
			"jobs": jobs, "tokens": tokens, "causes": causes, "workers": workers,
			"unowned_after": r.UnownedAfter, "max_crashes": r.MaxCrashes,
		}).Query(func(rows pgx.Rows) (err error) {
			ended, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (one reaped, err error) {
				return one, row.Scan(&one.job, &one.cause, &one.status, &one.attempt)
			})
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("take back jobs %v: %w", shortly(jobs), err)
	}
	for _, one := range ended {
		r.db.metrics.reaped.WithLabelValues(one.cause).Inc()
		r.log.Warn("reaped", zap.Int64("job_id", one.job), zap.Int("attempt", one.attempt), zap.String("cause", one.cause), zap.String("status", string(one.status)))
	}
	return nil
}

// move ends blocked jobs that have failed too often, and admits the others.
func (r *reaper) move(ctx context.Context, waiting []blocked) error {
	var exhausted, runs []int64
	for _, b := range waiting {
		if b.Exhausted {
			exhausted = append(exhausted, b.ID)
		} else {
			runs = append(runs, b.Run)
		}
	}
	if len(exhausted) > 0 {
		err := r.send(ctx, func(batch *pgx.Batch) {
			batch.Queue(query("lock_runs"), pgx.NamedArgs{"jobs": exhausted})
			batch.Queue(query("exhaust"), pgx.NamedArgs{"jobs": exhausted, "max_failures": r.MaxFailures})
		})
		if err != nil {
			return fmt.Errorf("end jobs %v that failed too often: %w", shortly(exhausted), err)
		}
		r.log.Warn("ended jobs that failed too often", zap.Int64s("job_ids", exhausted))
	}
	if len(runs) > 0 {
		err := r.send(ctx, func(batch *pgx.Batch) { batch.Queue(query("admit"), pgx.NamedArgs{"runs": runs}) })
		if err != nil {
			return fmt.Errorf("admit jobs of runs %v: %w", shortly(runs), err)
		}
	}
	return nil
}

// send runs statements in one transaction. It does not wait long for locks: there is another look, and whoever holds one
// may be ending the job himself.
func (r *reaper) send(ctx context.Context, queue func(*pgx.Batch)) error {
	batch := &pgx.Batch{} // without a BEGIN, a batch is one transaction
	batch.Queue("SELECT set_config('lock_timeout', '1s', true)")
	queue(batch)
	return r.db.pool.SendBatch(ctx, batch).Close()
}

func (r *reaper) housekeep(ctx context.Context) error {
	for _, chore := range []string{"housekeep", "forget_workers", "forget_tallies"} {
		if err := r.send(ctx, func(batch *pgx.Batch) { batch.Queue(query(chore)) }); err != nil {
			return fmt.Errorf("%s: %w", chore, err)
		}
	}
	return nil
}

// each does something to all of a list at once; where one of them is locked or refused, to each by itself, so that it holds
// up nobody else. In random order: time may end before the list.
func each[T any](ctx context.Context, all []T, do func(some []T) error) error {
	if len(all) == 0 {
		return nil
	}
	err := do(all)
	if len(all) == 1 || err == nil || Unavailable(err) && troubleOf(err) != locked && troubleOf(err) != clash {
		return err
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	err = nil
	for i := 0; i < len(all) && ctx.Err() == nil; i++ {
		if failure := do(all[i : i+1]); failure != nil {
			err = failure
		}
	}
	return err
}

// shortly is the beginning of a list, for an error.
func shortly(ids []int64) []int64 { return ids[:min(len(ids), 10)] }
