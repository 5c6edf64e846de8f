package gateway_test

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/auth"
)

// queue is what the API says of the queue.
type queue struct {
	Jobs   []queued
	Stages []queueStage
}

type queued struct {
	ID, Repository, Name, Status, Stage, Reason string
	Position                                    *int
	ExpectedStart                               *time.Time `json:"expected_start"`
}

type queueStage struct {
	Name, Takes, Holds     string
	Waiting, Blocked, Held int
	OldestWaitingSince     *time.Time `json:"oldest_waiting_since"`
	Workers, Slots         int
	FreeSlots              int     `json:"free_slots"`
	LastHour               figures `json:"last_hour"`
	LastDay                figures `json:"last_day"`
}

type figures struct {
	Since          time.Time
	Ended          int
	EndedPerMinute float64 `json:"ended_per_minute"`
	Wait, Run      percentiles
}

type percentiles struct {
	P50 *int64 `json:"p50_ms"`
	P90 *int64 `json:"p90_ms"`
	P99 *int64 `json:"p99_ms"`
}

func (s *server) queue(parameters string) (q queue) {
	s.t.Helper()
	a := s.send("GET", "/api/v1/queue"+parameters, "")
	if a.status != http.StatusOK {
		s.t.Fatalf("%d %s", a.status, a.body)
	}
	decode(s.t, a.body, &q)
	return q
}

func (q queue) job(t *testing.T, id string) queued {
	t.Helper()
	i := slices.IndexFunc(q.Jobs, func(j queued) bool { return j.ID == id })
	if i < 0 {
		t.Fatalf("job %s is not listed: %+v", id, q.Jobs)
	}
	return q.Jobs[i]
}

// worker registers somebody of a stage who beats for an hour, as far as anybody can tell.
func (s *server) worker(stage string, slots int) (id int64) {
	s.t.Helper()
	return jobstest.Value[int64](s.t, s.db, "INSERT INTO ci_workers (stage, name, slots, lease) VALUES ($1, 'host:1', $2, '1h') RETURNING id", stage, slots)
}

// planned adds a run of a repository with one job that a runner may claim, and returns the job's id.
func (s *server) planned(repository string) string {
	s.t.Helper()
	id := jobstest.Value[string](s.t, s.db, "INSERT INTO ci_jobs (repository) VALUES ($1) RETURNING id::text", repository)
	s.db.Exec(s.t, "UPDATE ci_jobs SET status = 'initializing' WHERE id = $1::text::bigint", id)
	s.db.Exec(s.t, "UPDATE ci_jobs SET status = 'initialized', name = 'ci / test', workflow = 'ci.yml', job_key = 'test' WHERE id = $1::text::bigint", id)
	return id
}

// start claims a job as a worker does.
func (s *server) start(id string, worker int64) {
	s.t.Helper()
	s.db.Exec(s.t, "UPDATE ci_jobs SET status = 'running', worker_id = $2, deadline_at = now() + interval '1 h' WHERE id = $1::text::bigint", id, worker)
}

// tally counts what has ended. A transaction that is open anywhere on the server holds it back.
func (s *server) tally() {
	s.t.Helper()
	s.db.Await(s.t, time.Minute, "SELECT ci_tally(100000) = 0 AND NOT EXISTS (SELECT FROM ci_attempts a, ci_tally_mark m WHERE a.xid > m.xid)")
}

const one, two = "https://example.com/owner/one", "https://example.com/owner/two"

func TestQueueOfAnEmptyDatabase(t *testing.T) {
	t.Parallel()
	s := start(t)
	q := s.queue("")
	if len(q.Jobs) != 0 || len(q.Stages) != 2 {
		t.Fatalf("%+v", q)
	}
	for i, want := range []queueStage{{Name: "initializer", Takes: "new", Holds: "initializing"}, {Name: "runner", Takes: "initialized", Holds: "running"}} {
		got := q.Stages[i]
		if age := time.Since(got.LastHour.Since); age < time.Hour-time.Second || age > 66*time.Minute {
			t.Errorf("the last hour begins %s ago", age)
		}
		if age := time.Since(got.LastDay.Since); age < 24*time.Hour-time.Second || age > 25*time.Hour+time.Minute {
			t.Errorf("the last day begins %s ago", age)
		}
		got.LastHour.Since, got.LastDay.Since = time.Time{}, time.Time{}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
}

func TestQueueSaysWhyAJobWaits(t *testing.T) {
	t.Parallel()
	s := start(t)
	asked := s.create().Jobs[0].ID
	first, second, third := s.planned(one), s.planned(two), s.planned(two)
	check := func(when string, want map[string]string) {
		t.Helper()
		q := s.queue("")
		for id, reason := range want {
			if got := q.job(t, id); got.Reason != reason {
				t.Errorf("%s: job %s (%s): %q, want %q", when, id, got.Status, got.Reason, reason)
			}
		}
	}
	check("nobody works", map[string]string{asked: "no initializer is alive", first: "no runner is alive"})
	s.worker("initializer", 1)
	runner := s.worker("runner", 2)
	check("all is free", map[string]string{
		asked: "it is next; a slot is free for it", first: "it is next; a slot is free for it", second: "1 job is before it; a slot is free for it",
		third: "2 jobs are before it; 2 of 2 slots are free",
	})
	s.start(first, runner)
	check("one is busy", map[string]string{second: "it is next; a slot is free for it", third: "1 job is before it; 1 of 2 slots are free"})
	s.start(second, runner)
	check("all are busy", map[string]string{third: "it is next; 2 slots are busy, all of 1 runner"})
	s.db.Exec(t, "UPDATE ci_workers SET slots = 1")
	check("the only one is busy", map[string]string{third: "it is next; 1 slot is busy, the only one of 1 runner"})
	s.db.Exec(t, "UPDATE ci_workers SET beat_at = now() - interval '2 h'")
	check("the last sign of life is too old", map[string]string{third: "no runner is alive"})
	if q := s.queue(""); q.Stages[1].Held != 2 || q.Stages[1].Workers != 0 || q.Stages[1].Waiting != 1 || q.Stages[0].Waiting != 1 || q.Stages[1].OldestWaitingSince == nil {
		t.Errorf("%+v", q.Stages)
	}
}

func TestQueueSaysWhatBlocksAJob(t *testing.T) {
	t.Parallel()
	s := start(t)
	build := s.planned(one)
	add := func(key string, needs ...string) string {
		return jobstest.Value[string](t, s.db, `INSERT INTO ci_jobs (run_id, repository, status, name, workflow, job_key, needs)
			SELECT run_id, repository, 'blocked', 'ci / ' || $2, 'ci.yml', $2, $3 FROM ci_jobs WHERE id = $1::text::bigint RETURNING id::text`, build, key, needs)
	}
	lint := add("lint", "test")
	deploy := add("deploy", "test", "lint")
	s.db.Exec(t, "INSERT INTO ci_repositories (repository, max_running) VALUES ($1, 1)", two)
	s.planned(two)
	over := s.planned(two)
	s.db.Exec(t, "UPDATE ci_jobs SET status = 'running' WHERE id = $1::text::bigint", over)
	s.db.Exec(t, "UPDATE ci_jobs SET status = 'blocked' WHERE id = $1::text::bigint", over)
	later := s.planned("https://example.com/owner/three")
	s.db.Exec(t, "UPDATE ci_jobs SET status = 'running' WHERE id = $1::text::bigint", later)
	s.db.Exec(t, "UPDATE ci_jobs SET status = 'blocked', not_before = '2099-01-02 03:04:05Z', reason = 'the disk is full' WHERE id = $1::text::bigint", later)
	soon := s.planned("https://example.com/owner/four")
	s.db.Exec(t, "UPDATE ci_jobs SET status = 'running' WHERE id = $1::text::bigint", soon)
	s.db.Exec(t, "UPDATE ci_jobs SET status = 'blocked', not_before = now() + interval '1 h' WHERE id = $1::text::bigint", soon)
	s.db.Exec(t, "UPDATE ci_jobs SET not_before = now() - interval '1 s' WHERE id = $1::text::bigint", soon)
	q := s.queue("")
	for id, want := range map[string]string{
		lint:   `it needs "ci / test", which is initialized`,
		deploy: `it needs "ci / test", which is initialized and "ci / lint", which is blocked`,
		over:   "at most 1 job runs of this repository at once",
		later:  "it is tried again at 03:04:05 UTC: the disk is full",
		soon:   "nothing blocks it any more: it is about to be claimable",
	} {
		got := q.job(t, id)
		if got.Reason != want || got.Status != "blocked" || got.Stage != "runner" || got.Position != nil || got.ExpectedStart != nil {
			t.Errorf("%+v, want %q", got, want)
		}
	}
	if q.Stages[1].Blocked != 5 || q.Stages[0].Blocked != 0 {
		t.Errorf("%+v", q.Stages)
	}
	if some := s.queue("?limit=2"); len(some.Jobs) != 4 { // of each state
		t.Errorf("with a limit of 2 there are %+v", some.Jobs)
	}
}

func TestQueuePositionsAreTheOrderOfClaims(t *testing.T) {
	t.Parallel()
	s := start(t)
	for i := range 30 { // one repository with many, others with few, some with priority, and turns in another order than ids
		id := s.planned(fmt.Sprintf("https://example.com/owner/%d", max(0, i-20)))
		if i%7 == 0 {
			s.db.Exec(t, "UPDATE ci_jobs SET priority = 5 WHERE id = $1::text::bigint", id)
		}
		s.db.Exec(t, "UPDATE ci_jobs SET turn = $2 WHERE id = $1::text::bigint", id, i*7%11)
	}
	var expected []string
	for i, j := range s.queue("?limit=100").Jobs {
		if j.Position == nil || *j.Position != i+1 {
			t.Errorf("job %s is listed as number %d with %+v", j.ID, i+1, j.Position)
		}
		expected = append(expected, j.ID)
	}
	runner := s.db.Open(t, "runner")
	ctx, stop := context.WithCancel(t.Context())
	claimed := make(chan string, len(expected))
	worked := make(chan error, 1)
	go func() {
		worked <- runner.Work(ctx, jobs.Stage{
			Name: "runner", Takes: "initialized", Holds: "running", Gives: "success", Slots: 1, Lease: time.Minute, Beat: time.Second, Poll: 50 * time.Millisecond,
			Do: func(_ context.Context, job *jobs.Job) (jobs.Result, error) {
				claimed <- fmt.Sprint(job.ID)
				return jobs.Result{}, nil
			},
		})
	}()
	var got []string
	for range expected {
		select {
		case id := <-claimed:
			got = append(got, id)
		case <-time.After(limit):
			t.Fatalf("only %d of %d were claimed", len(got), len(expected))
		}
	}
	stop()
	if err := <-worked; err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(expected, got); diff != "" || len(got) != 30 {
		t.Errorf("(-listed +claimed)\n%s", diff)
	}
}

func TestExpectedStartGoesByTheRepositorysHistory(t *testing.T) {
	t.Parallel()
	s := start(t)
	runner := s.worker("runner", 2)
	a, b, c, d, e := s.planned(one), s.planned(two), s.planned(one), s.planned("https://example.com/owner/unknown"), s.planned(one)
	s.start(a, runner)
	s.start(b, runner)
	starts := func() (all []*time.Time) {
		q := s.queue("")
		for _, id := range []string{c, d, e} {
			all = append(all, q.job(t, id).ExpectedStart)
		}
		return all
	}
	if got := starts(); got[0] != nil || got[1] != nil || got[2] != nil {
		t.Errorf("nothing is known, and it guesses %v", got)
	}
	// One takes 100 s, two 30 s, all of them 60 s on average. What is older than a week does not count.
	s.db.Exec(t, `INSERT INTO ci_tallies (repository, kind, minutes, begins_at, name, step, outcome, ended, took_ms, buckets)
		SELECT r, 'work', 1440, date_bin('1 day', now(), 'epoch') - days * interval '1 day', 'running', '', 'success', n, n * ms, '{}'
		FROM (VALUES ($1, 5, 100000, 0), ($1, 1, 100000, 2), ($1, 1, 9e9, 9), ($2, 1, 30000, 0), ('', 1, 60000, 0)) AS v (r, n, ms, days)`, one, two)
	claimed := func(id string) time.Time {
		return jobstest.Value[time.Time](t, s.db, "SELECT claimed_at FROM ci_jobs WHERE id = $1::text::bigint", id)
	}
	secondSlot := claimed(b).Add(30 * time.Second)
	firstSlot := claimed(a).Add(100 * time.Second)
	want := []time.Time{secondSlot, firstSlot, secondSlot.Add(100 * time.Second)} // c follows b, d follows a, e follows c
	for i, got := range starts() {
		if got == nil || got.Sub(want[i]).Abs() > time.Second {
			t.Errorf("number %d is expected at %v, want %s", i+1, got, want[i])
		}
	}
	s.db.Exec(t, "UPDATE ci_workers SET slots = 3")
	if got := starts(); time.Since(*got[0]) > 5*time.Second || got[1].Sub(secondSlot).Abs() > time.Second {
		t.Errorf("with a free slot: %v", got)
	}
	s.db.Exec(t, "UPDATE ci_jobs SET claimed_at = now() - interval '1 h' WHERE id = $1::text::bigint", a)
	s.db.Exec(t, "UPDATE ci_workers SET slots = 2")
	if got := starts(); time.Since(*got[0]) > 5*time.Second {
		t.Errorf("one that should have ended long ago: %v", got)
	}
	s.db.Exec(t, "UPDATE ci_workers SET dead_at = now()")
	if got := starts(); got[0] != nil {
		t.Errorf("nobody lives, and it guesses %v", got)
	}
}

// history loads ended jobs of a repository with random durations, as time would have left them, and counts them.
func (s *server) history(repository string, n int, span string) {
	s.t.Helper()
	ctx := context.Background()
	conn, err := s.db.Pool.Acquire(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Release()
	for _, sql := range []string{
		"SET session_replication_role = replica",
		fmt.Sprintf(`INSERT INTO ci_turns (repository, status, turn) VALUES ('%s', 'new', 0)`, repository),
		fmt.Sprintf(`WITH r AS (
			INSERT INTO ci_runs (repository, event, status, created_at, finished_at)
			SELECT '%s', 'push', CASE i %% 5 WHEN 0 THEN 'failure' WHEN 1 THEN 'error' ELSE 'success' END::ci_job_status, at - interval '1 s' * exp(8 * random()), at
			FROM  (SELECT i, now() - random() * interval '%s' AS at FROM generate_series(1, %d) AS i) AS x
			RETURNING id, repository, status, created_at, finished_at
		), j AS (
			INSERT INTO ci_jobs (run_id, repository, status, turn, attempt, workflow, job_key, name)
			SELECT id, repository, status, 0, 2, 'ci.yml', 'test', 'ci / ' || CASE WHEN id %% 3 = 0 THEN 'slow' ELSE 'quick' END FROM r
			RETURNING id, run_id, status, name
		), a AS (
			INSERT INTO ci_attempts (job_id, attempt, stage, claim_token, claimable_at, claimed_at, ended_at, outcome)
			SELECT j.id, 1, 'initializing'::ci_job_status, gen_random_uuid(), r.created_at, r.created_at, r.created_at + interval '1 s', 'initialized'::ci_job_status
			FROM j JOIN r ON r.id = j.run_id
			UNION ALL
			SELECT j.id, 2, 'running', gen_random_uuid(), r.finished_at - work - interval '1 ms' * exp(12 * random()), r.finished_at - work, r.finished_at, j.status
			FROM j JOIN r ON r.id = j.run_id, LATERAL (SELECT interval '1 ms' * (CASE WHEN j.name LIKE '%%slow' THEN 1000000 ELSE 0 END + exp(13 * random())) * sign(j.id) AS work) AS w
			RETURNING job_id, attempt, claimed_at, ended_at
		)
		INSERT INTO ci_steps (job_id, attempt, number, name, status, started_at, finished_at)
		SELECT job_id, attempt, 1, 'compile', 'success', claimed_at, claimed_at + (ended_at - claimed_at) / 3 FROM a WHERE attempt = 2
		UNION ALL SELECT job_id, attempt, 2, 'check', 'failure', claimed_at + (ended_at - claimed_at) / 3, ended_at FROM a WHERE attempt = 2`, repository, span, n),
		"RESET session_replication_role",
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			s.t.Fatalf("%s: %v", sql, err)
		}
	}
	s.tally()
}

// exact wants percentiles to be those of a query's values in ms, to within 5 % or 1 ms.
func (s *server) exact(what string, got percentiles, values string, args ...any) {
	s.t.Helper()
	want := jobstest.Value[[]float64](s.t, s.db, "SELECT percentile_disc(ARRAY[0.5, 0.9, 0.99]) WITHIN GROUP (ORDER BY extract(epoch FROM v)::float8 * 1000) FROM ("+values+") AS x (v)", args...)
	for i, value := range []*int64{got.P50, got.P90, got.P99} {
		if value == nil {
			s.t.Errorf("%s: no percentile number %d, want %g", what, i, want[i])
		} else if off := math.Abs(float64(*value) - want[i]); off > max(want[i]*0.05, 1) {
			s.t.Errorf("%s: percentile number %d is %d, exactly %g", what, i, *value, want[i])
		}
	}
}

func TestFiguresOfStagesAgreeWithTheRows(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.history(one, 600, "55 minutes")
	s.history(two, 900, "23 hours")
	runner := s.queue("").Stages[1]
	for _, of := range []struct {
		name string
		figures
		since string
	}{{"hour", runner.LastHour, "1 h"}, {"day", runner.LastDay, "24 h"}} {
		const where = " FROM ci_attempts WHERE stage = 'running' AND ended_at >= $1"
		s.exact(of.name+": wait", of.Wait, "SELECT claimed_at - claimable_at"+where, of.Since)
		s.exact(of.name+": run", of.Run, "SELECT ended_at - claimed_at"+where, of.Since)
		n := jobstest.Value[int64](t, s.db, "SELECT count(*)"+where, of.Since)
		perMinute := float64(n) / time.Since(of.Since).Minutes()
		if of.Ended != int(n) || math.Abs(of.EndedPerMinute-perMinute) > 0.02+perMinute/100 {
			t.Errorf("%s: %d ended, %g a minute, want %d and %g", of.name, of.Ended, of.EndedPerMinute, n, perMinute)
		}
	}
	if runner.LastHour.Ended < 600 || runner.LastDay.Ended != 1500 {
		t.Errorf("%+v", runner)
	}
}

type stats struct {
	Repository, Window string
	Since              time.Time
	Runs               runFigures
	Stages             []struct {
		Name      string
		Ended     int
		Wait, Run percentiles
	}
	SlowestJobs  []named `json:"slowest_jobs"`
	SlowestSteps []named `json:"slowest_steps"`
	Days         []struct {
		BeginsAt time.Time `json:"begins_at"`
		Runs     runFigures
	}
}

type runFigures struct {
	Ended, Success, Failure, Error, Cancelled, Skipped int
	FailureRate                                        *float64 `json:"failure_rate"`
	Duration                                           percentiles
}

type named struct {
	Job, Step     string
	Ended, Failed int
	MeanMS        float64 `json:"mean_ms"`
	Duration      percentiles
}

func TestStatsOfARepositoryAgreeWithTheRows(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.history(one, 1000, "29 days")
	s.history(two, 50, "1 hour")
	for _, test := range []struct{ parameter, window string }{{"", "7d"}, {"?window=24h", "24h"}, {"?window=7d", "7d"}, {"?window=30d", "30d"}} {
		path := "/api/v1/repositories/example.com%2Fowner%2Fone/stats" + test.parameter
		a := s.send("GET", path, "")
		var got stats
		decode(t, a.body, &got)
		if a.status != http.StatusOK || got.Repository != one || got.Window != test.window {
			t.Fatalf("%d %s", a.status, a.body)
		}
		const runs = " FROM ci_runs WHERE repository = $1 AND finished_at >= $2"
		counts := jobstest.Value[[]int64](t, s.db, "SELECT ARRAY[count(*), count(*) FILTER (WHERE status = 'success'), count(*) FILTER (WHERE status = 'failure'), count(*) FILTER (WHERE status = 'error')]"+runs, one, got.Since)
		if diff := cmp.Diff(counts, []int64{int64(got.Runs.Ended), int64(got.Runs.Success), int64(got.Runs.Failure), int64(got.Runs.Error)}); diff != "" || counts[0] < 20 {
			t.Errorf("%s: %s", test.window, diff)
		}
		if rate := float64(counts[2]+counts[3]) / float64(counts[0]); got.Runs.FailureRate == nil || math.Abs(*got.Runs.FailureRate-rate) > 1e-9 {
			t.Errorf("%s: failure rate %v, want %g", test.window, got.Runs.FailureRate, rate)
		}
		s.exact(test.window+": runs", got.Runs.Duration, "SELECT finished_at - created_at"+runs+" AND status IN ('success', 'failure')", one, got.Since)
		const attempts = " FROM ci_attempts a JOIN ci_jobs j ON j.id = a.job_id WHERE j.repository = $1 AND a.ended_at >= $2 AND a.stage = 'running'"
		s.exact(test.window+": wait for a runner", got.Stages[1].Wait, "SELECT a.claimed_at - a.claimable_at"+attempts, one, got.Since)
		s.exact(test.window+": runner", got.Stages[1].Run, "SELECT a.ended_at - a.claimed_at"+attempts, one, got.Since)
		if len(got.SlowestJobs) != 2 || got.SlowestJobs[0].Job != "ci / slow" || len(got.SlowestSteps) != 4 || got.SlowestSteps[0].Step != "check" || got.SlowestSteps[0].Failed != got.SlowestSteps[0].Ended {
			t.Fatalf("%s: %+v, %+v", test.window, got.SlowestJobs, got.SlowestSteps)
		}
		slow := got.SlowestJobs[0]
		s.exact(test.window+": the slow job", slow.Duration, "SELECT a.ended_at - a.claimed_at"+attempts+" AND j.name = 'ci / slow'", one, got.Since)
		mean := jobstest.Value[float64](t, s.db, "SELECT avg(extract(epoch FROM a.ended_at - a.claimed_at))::float8 * 1000"+attempts+" AND j.name = 'ci / slow'", one, got.Since)
		if math.Abs(slow.MeanMS-mean) > 1 {
			t.Errorf("%s: the slow job takes %g ms, want %g", test.window, slow.MeanMS, mean)
		}
		s.exact(test.window+": its step", got.SlowestSteps[0].Duration, "SELECT s.finished_at - s.started_at FROM ci_steps s JOIN ci_attempts a USING (job_id, attempt) JOIN ci_jobs j ON j.id = job_id"+
			" WHERE j.repository = $1 AND a.ended_at >= $2 AND j.name = 'ci / slow' AND s.number = 2", one, got.Since)
		sum := 0
		for i, day := range got.Days {
			sum += day.Runs.Ended
			if i > 0 && !day.BeginsAt.After(got.Days[i-1].BeginsAt) {
				t.Errorf("%s: days are out of order: %+v", test.window, got.Days)
			}
		}
		if sum < got.Runs.Ended || test.window != "24h" && sum != got.Runs.Ended {
			t.Errorf("%s: the days have %d runs, all have %d", test.window, sum, got.Runs.Ended)
		}
	}
}

func TestStatsOfWhatIsNotThere(t *testing.T) {
	t.Parallel()
	s := start(t)
	r := s.create()
	for _, test := range []struct {
		name, path string
		status     int
		field      string
	}{
		{"a repository that nobody knows", "example.com%2Fowner%2Fnobody/stats", http.StatusNotFound, "repository"},
		{"no repository", "example.com/stats", http.StatusUnprocessableEntity, "repository"},
		{"a user in the URL", "https%3A%2F%2Fme%3Asecret%40example.com%2Fa%2Fb/stats", http.StatusUnprocessableEntity, "repository"},
		{"another window", "example.com%2Fowner%2Fname/stats?window=1h", http.StatusBadRequest, "window"},
		{"two windows", "example.com%2Fowner%2Fname/stats?window=7d&window=7d", http.StatusBadRequest, "window"},
		{"another parameter", "example.com%2Fowner%2Fname/stats?days=7", http.StatusBadRequest, "days"},
		{"slashes as they are", "example.com/owner/name/stats", http.StatusNotFound, ""},
	} {
		a := s.send("GET", "/api/v1/repositories/"+test.path, "")
		if p := a.problem(t); a.status != test.status || p.Field != test.field || strings.Contains(a.body, "secret") {
			t.Errorf("%s: %d %s", test.name, a.status, a.body)
		}
	}
	var got stats
	decode(t, s.send("GET", "/api/v1/repositories/"+strings.NewReplacer(":", "%3A", "/", "%2F").Replace(r.Repository+".git")+"/stats", "").body, &got)
	if got.Runs.Ended != 0 || got.Runs.FailureRate != nil || got.Runs.Duration.P50 != nil || len(got.Days) != 0 || len(got.Stages) != 2 {
		t.Errorf("one without an end: %+v", got)
	}
}

// token is one of the API that sees a repository only.
func (s *server) tokenOf(repository string) (authorization string) {
	s.t.Helper()
	secret := auth.Prefix + "of-" + path.Base(repository)
	s.db.Exec(s.t, "INSERT INTO ci_tokens (name, hash, hint, scope, repository) VALUES ($1, $2, '', 'read', $3)", path.Base(repository), auth.Hash(secret), repository)
	return "Bearer " + secret
}

func TestTokenOfARepositorySeesItsOwnPartOfTheQueue(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.history(one, 100, "50 minutes")
	s.history(two, 300, "50 minutes")
	runner := s.worker("runner", 1)
	s.start(s.planned(two), runner)
	s.planned(two)
	own := s.planned(one)
	s.planned(two)
	all := s.queue("")
	only := s.tokenOf(one)
	a := s.send("GET", "/api/v1/queue", "", "Authorization", only)
	var q queue
	decode(t, a.body, &q)
	if len(q.Jobs) != 1 || strings.Contains(a.body, two) {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if got, want := q.Jobs[0], all.job(t, own); *got.Position != 2 || got.Reason != want.Reason || got.ExpectedStart == nil || want.ExpectedStart == nil {
		t.Errorf("%+v, to everybody %+v", got, want)
	}
	mine, whole := q.Stages[1], all.Stages[1]
	if mine.Waiting != 1 || mine.Held != 0 || mine.LastHour.Ended != 100 || mine.Slots != 1 || mine.FreeSlots != 0 || mine.Workers != 1 {
		t.Errorf("its own: %+v", mine)
	}
	if whole.Waiting != 3 || whole.Held != 1 || whole.LastHour.Ended != 400 {
		t.Errorf("all: %+v", whole)
	}
	const stats = "/api/v1/repositories/example.com%2Fowner%2F"
	if a := s.send("GET", stats+"one/stats", "", "Authorization", only); a.status != http.StatusOK {
		t.Errorf("its own statistics: %d %s", a.status, a.body)
	}
	theirs, nobodys := s.send("GET", stats+"two/stats", "", "Authorization", only), s.send("GET", stats+"none/stats", "", "Authorization", only)
	if p := theirs.problem(t); theirs.status != http.StatusNotFound || p.Code != nobodys.problem(t).Code || p.Detail != nobodys.problem(t).Detail {
		t.Errorf("another's statistics: %d %s; of one that is none: %s", theirs.status, theirs.body, nobodys.body)
	}
}

func TestQueuePageShowsTheSame(t *testing.T) {
	t.Parallel()
	s := start(t)
	if a := s.send("GET", "/queue", ""); a.status != http.StatusOK || !strings.Contains(a.body, "Nothing waits") || !strings.Contains(a.body, "no runner is alive") {
		t.Errorf("an empty queue: %d %s", a.status, a.body)
	}
	s.worker("runner", 1)
	id := s.planned(one)
	s.db.Exec(t, "UPDATE ci_jobs SET name = $2 WHERE id = $1::text::bigint", id, hostile)
	s.db.Exec(t, "UPDATE ci_workers SET name = $1", hostile)
	s.history(two, 50, "30 minutes")
	a := s.send("GET", "/queue", "")
	for _, want := range []string{"owner/one", "it is next; a slot is free for it", "number 1 for runner", "expected <time", "<b>1</b> of 1 slots free", "<td>50</td>", "&lt;script&gt;"} {
		if !strings.Contains(a.body, want) {
			t.Errorf("the page does not show %q: %s", want, a.body)
		}
	}
	if strings.Contains(a.body, "<script>") {
		t.Errorf("the page does not escape: %s", a.body)
	}
	if a := s.send("GET", "/queue", "", "Authorization", s.tokenOf(two)); strings.Contains(a.body, "owner/one") {
		t.Errorf("a token of another repository sees it: %d %s", a.status, a.body)
	}
}
