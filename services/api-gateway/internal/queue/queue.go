// Package queue tells what waits and why, when it may be its turn, who works, and how long things take. Now is read from the jobs
// by their partial indexes; what was, from the tallies of the database's function ci_tally. Nothing here reads finished jobs.
package queue

import (
	"context"
	"embed"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/protobuf/types/known/timestamppb"

	lockstepv1 "github.com/lockstep-ci/lockstep/services/api-gateway/gen/lockstep/v1"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/statements"
)

//go:embed queries/*.sql
var queryFiles embed.FS

// query returns the text of queries/<name>.sql, which is part of the binary.
var query = statements.In(queryFiles)

// historyOf is how far back a guess looks.
const historyOf = 7 * 24 * time.Hour

// stage is a service that takes jobs, and the slots of its workers.
type stage struct {
	Name, Takes, Holds string
	Workers, Slots     int32
	Now                time.Time

	waiting []waiting
	held    []held // all of them, also what was claimed by hand
	answer  *lockstepv1.QueueStage
}

type waiting struct {
	ID, RunID, Repository, Name string
	Since                       time.Time
	Position                    int32
}

type blocked struct {
	ID, RunID, Repository, Name string
	Since                       time.Time
	AdmitTo                     string
	Needs                       []string   // that have not succeeded, each with what it is
	NotBefore                   *time.Time // while it is not over
	Reason                      string     // of the backoff
	FullWith                    int32      // jobs of this repository run, and no more may; 0: that is not it
}

// Read returns the queue as of one moment, of each state the first jobs up to limit. With a repository, jobs and figures are its
// alone; positions, guesses and slots stay those of the whole queue.
func Read(ctx context.Context, pool *pgxpool.Pool, limit int32, repository string) (*lockstepv1.ListQueueResponse, error) {
	answer := &lockstepv1.ListQueueResponse{}
	err := pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		r := reader{tx: tx, limit: limit, repository: repository}
		if err := r.read(ctx); err != nil {
			return err
		}
		means, err := r.means(ctx)
		if err != nil {
			return err
		}
		for _, s := range r.stages {
			answer.Stages = append(answer.Stages, s.answer)
			answer.Jobs = append(answer.Jobs, s.jobs(means)...)
		}
		for _, b := range r.blocked {
			answer.Jobs = append(answer.Jobs, r.explain(b))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the queue: %w", err)
	}
	return answer, nil
}

// reader reads in few round trips.
type reader struct {
	tx         pgx.Tx
	limit      int32
	repository string

	stages  []*stage
	blocked []blocked
}

func (r *reader) read(ctx context.Context) error {
	rows, err := r.tx.Query(ctx, query("stages"))
	if err != nil {
		return err
	}
	if r.stages, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (*stage, error) {
		s := &stage{}
		err := row.Scan(&s.Name, &s.Takes, &s.Holds, &s.Workers, &s.Slots, &s.Now)
		s.answer = &lockstepv1.QueueStage{Name: s.Name, Takes: s.Takes, Holds: s.Holds, Workers: s.Workers, Slots: s.Slots}
		return s, err
	}); err != nil || len(r.stages) == 0 {
		return err
	}
	batch := &pgx.Batch{}
	of := pgx.NamedArgs{"repository": r.repository, "limit": r.limit}
	for _, s := range r.stages {
		batch.Queue(s.query("count"), of).QueryRow(func(row pgx.Row) error {
			var oldest *time.Time
			err := row.Scan(&s.answer.Waiting, &oldest)
			if oldest != nil {
				s.answer.OldestWaitingSince = timestamppb.New(*oldest)
			}
			return err
		})
		batch.Queue(s.query("waiting"), of).Query(func(rows pgx.Rows) (err error) {
			s.waiting, err = pgx.CollectRows(rows, pgx.RowToStructByPos[waiting])
			return err
		})
	}
	batch.Queue(query("held")).Query(func(rows pgx.Rows) error {
		all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[held])
		for _, h := range all {
			if s := r.stage(func(s *stage) bool { return s.Holds == h.Holds }); s != nil {
				s.hold(h, r.repository)
			}
		}
		return err
	})
	batch.Queue(query("blocked_count"), of).Query(func(rows pgx.Rows) error {
		var to string
		var n int32
		_, err := pgx.ForEachRow(rows, []any{&to, &n}, func() error {
			if s := r.stage(func(s *stage) bool { return s.Takes == to }); s != nil {
				s.answer.Blocked = n
			}
			return nil
		})
		return err
	})
	batch.Queue(query("blocked"), of).Query(func(rows pgx.Rows) (err error) {
		r.blocked, err = pgx.CollectRows(rows, pgx.RowToStructByPos[blocked])
		return err
	})
	now := r.stages[0].Now
	hour, day := now.Add(-time.Hour).Truncate(5*time.Minute), now.Add(-24*time.Hour).Truncate(time.Hour)
	batch.Queue(query("stage_tallies"), pgx.NamedArgs{"repository": r.repository, "hour": hour, "day": day}).Query(func(rows pgx.Rows) error {
		return r.tallies(rows, hour, day)
	})
	return r.tx.SendBatch(ctx, batch).Close()
}

// query is the text of queries/<name>.sql with the stage's state in it, which is a word of the database's enum.
func (s *stage) query(name string) string {
	return strings.ReplaceAll(query(name), "{{takes}}", strings.ReplaceAll(s.Takes, "'", "''"))
}

func (r *reader) stage(is func(*stage) bool) *stage {
	for _, s := range r.stages {
		if is(s) {
			return s
		}
	}
	return nil
}

func (s *stage) hold(h held, repository string) {
	s.held = append(s.held, h)
	if repository == "" || repository == h.Repository {
		s.answer.Held++
	}
}

// tallies are rows of stage_tallies: figures of each stage for the last hour and the last day.
func (r *reader) tallies(rows pgx.Rows, hour, day time.Time) error {
	type key struct {
		minutes     int
		kind, holds string
	}
	ended, durations := map[key]int64{}, map[key]*histogram{}
	for _, s := range r.stages {
		for _, kind := range []string{"wait", "work"} {
			durations[key{5, kind, s.Holds}], durations[key{60, kind, s.Holds}] = &histogram{}, &histogram{}
		}
	}
	var of key
	var n int64
	var buckets string
	if _, err := pgx.ForEachRow(rows, []any{&of.minutes, &of.kind, &of.holds, &n, &buckets}, func() error {
		h := durations[of]
		if h == nil { // a stage that there is no more
			return nil
		}
		ended[of] += n
		return h.add(buckets)
	}); err != nil {
		return err
	}
	for _, s := range r.stages {
		figures := func(minutes int, since time.Time) *lockstepv1.StageFigures {
			wait, work := key{minutes, "wait", s.Holds}, key{minutes, "work", s.Holds}
			return &lockstepv1.StageFigures{
				Since: timestamppb.New(since), Ended: ended[work],
				EndedPerMinute: math.Round(float64(ended[work])/s.Now.Sub(since).Minutes()*1e4) / 1e4,
				Wait:           durations[wait].percentiles(), Run: durations[work].percentiles(),
			}
		}
		s.answer.LastHour, s.answer.LastDay = figures(5, hour), figures(60, day)
	}
	return nil
}

// means returns how long a stage works on a job of a repository; of one that it knows nothing of, that of all.
func (r *reader) means(ctx context.Context) (func(holds, repository string) (time.Duration, bool), error) {
	asked := map[string]bool{"": true}
	for _, s := range r.stages {
		for _, w := range s.waiting {
			asked[w.Repository] = true
		}
		for _, h := range s.held {
			asked[h.Repository] = true
		}
	}
	repositories := make([]string, 0, len(asked))
	for repository := range asked {
		repositories = append(repositories, repository)
	}
	var since time.Time
	if len(r.stages) > 0 {
		since = r.stages[0].Now.Add(-historyOf)
	}
	rows, err := r.tx.Query(ctx, query("means"), pgx.NamedArgs{"repositories": repositories, "since": since})
	if err != nil {
		return nil, err
	}
	type key struct{ holds, repository string }
	known := map[key]time.Duration{}
	var of key
	var ms float64
	_, err = pgx.ForEachRow(rows, []any{&of.repository, &of.holds, &ms}, func() error {
		known[of] = time.Duration(ms * float64(time.Millisecond))
		return nil
	})
	return func(holds, repository string) (time.Duration, bool) {
		if mean, is := known[key{holds, repository}]; is {
			return mean, true
		}
		mean, is := known[key{holds, ""}]
		return mean, is
	}, err
}

// jobs are those that wait for the stage.
func (s *stage) jobs(means func(holds, repository string) (time.Duration, bool)) []*lockstepv1.QueuedJob {
	before := line{now: s.Now, slots: int(s.Slots), mean: func(repository string) (time.Duration, bool) { return means(s.Holds, repository) }}
	for _, h := range s.held {
		if h.FillsSlot {
			before.held = append(before.held, h)
		}
	}
	free := int32(before.free())
	s.answer.FreeSlots = free
	starts := before.starts(s.waiting)
	var jobs []*lockstepv1.QueuedJob
	for i, w := range s.waiting {
		job := &lockstepv1.QueuedJob{
			Id: w.ID, RunId: w.RunID, Repository: w.Repository, Name: w.Name, Status: s.Takes, Position: &w.Position,
			WaitingSince: timestamppb.New(w.Since), Stage: s.Name, Reason: s.reason(w.Position, free),
		}
		if starts[i] != nil {
			job.ExpectedStart = timestamppb.New(starts[i].Truncate(time.Second)) // it is a guess
		}
		jobs = append(jobs, job)
	}
	return jobs
}

// reason says why a job waits that a worker of the stage may claim.
func (s *stage) reason(position, free int32) string {
	before := "it is next"
	if position > 1 {
		before = plural(position-1, "job is", "jobs are") + " before it"
	}
	switch {
	case s.Workers == 0:
		return fmt.Sprintf("no %s is alive", s.Name)
	case position <= free:
		return before + "; a slot is free for it"
	case free == 0:
		return fmt.Sprintf("%s; %s of %s", before, plural(s.Slots, "slot is busy, the only one", "slots are busy, all"), plural(s.Workers, s.Name, s.Name+"s"))
	}
	return fmt.Sprintf("%s; %d of %d slots are free", before, free, s.Slots)
}

// explain says why a job is blocked.
func (r *reader) explain(b blocked) *lockstepv1.QueuedJob {
	job := &lockstepv1.QueuedJob{
		Id: b.ID, RunId: b.RunID, Repository: b.Repository, Name: b.Name, Status: "blocked", WaitingSince: timestamppb.New(b.Since),
	}
	if s := r.stage(func(s *stage) bool { return s.Takes == b.AdmitTo }); s != nil {
		job.Stage = s.Name
	}
	switch {
	case len(b.Needs) > 0:
		job.Reason = "it needs " + strings.Join(b.Needs, " and ")
	case b.NotBefore != nil:
		job.Reason = fmt.Sprintf("it is tried again at %s UTC: %s", b.NotBefore.UTC().Format(time.TimeOnly), b.Reason)
	case b.FullWith > 0:
		job.Reason = fmt.Sprintf("at most %s of this repository at once", plural(b.FullWith, "job runs", "jobs run"))
	default:
		job.Reason = "nothing blocks it any more: it is about to be claimable"
	}
	return job
}

func plural(n int32, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

// Workers returns the workers that live.
func Workers(ctx context.Context, pool *pgxpool.Pool) ([]*lockstepv1.Worker, error) {
	rows, err := pool.Query(ctx, query("workers"))
	if err != nil {
		return nil, fmt.Errorf("read the workers: %w", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*lockstepv1.Worker, error) {
		w, started, beat := &lockstepv1.Worker{}, time.Time{}, time.Time{}
		err := row.Scan(&w.Id, &w.Stage, &w.Name, &w.Slots, &w.Busy, &started, &beat)
		w.StartedAt, w.BeatAt = timestamppb.New(started), timestamppb.New(beat)
		return w, err
	})
	if err != nil {
		return nil, fmt.Errorf("read the workers: %w", err)
	}
	return found, nil
}
