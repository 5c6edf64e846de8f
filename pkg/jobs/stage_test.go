package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
)

func TestClaimHandsEachJobToOneWorker(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	want := planned(t, db, 60)
	var mu sync.Mutex
	seen := map[int64]int{}
	all := make(chan struct{})
	for range 6 {
		work(t, db.Open(t, "runner"), runnerStage(3, func(_ context.Context, job *jobs.Job) (jobs.Result, error) {
			mu.Lock()
			defer mu.Unlock()
			seen[job.ID]++
			if len(seen) == len(want) {
				close(all)
			}
			return jobs.Result{}, nil
		}))
	}
	receive(t, all, "all jobs")
	db.Await(t, soon, "SELECT bool_and(status = 'success' AND attempt = 2) FROM ci_jobs") // one by the initializer, one by us
	for id, times := range seen {
		if times != 1 {
			t.Errorf("job %d was handed out %d times", id, times)
		}
	}
}

func TestClaimTakesAtMostWhatItAskedFor(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	planned(t, db, 12)
	// Plans that would run an IN (… LIMIT n) more than once.
	role := "lockstep_runner"
	database := jobstest.Value[string](t, db, "SELECT current_database()")
	for _, setting := range []string{"enable_hashjoin", "enable_mergejoin", "enable_sort", "enable_material", "enable_hashagg"} {
		db.Exec(t, fmt.Sprintf("ALTER ROLE %s IN DATABASE %s SET %s = off", role, database, setting))
	}
	held := make(chan *jobs.Job)
	work(t, db.Open(t, "runner"), runnerStage(2, func(ctx context.Context, job *jobs.Job) (jobs.Result, error) {
		select {
		case held <- job:
		case <-ctx.Done():
		}
		return jobs.Result{}, nil
	}))
	for range 6 {
		db.Await(t, soon, "SELECT count(*) = 2 FROM ci_jobs WHERE status = 'running'")
		receive(t, held, "a job")
		if n := jobstest.Value[int](t, db, "SELECT count(*)::int FROM ci_jobs WHERE status = 'running'"); n > 2 {
			t.Fatalf("%d jobs running in 2 slots", n)
		}
		receive(t, held, "another job")
	}
}

func TestClaimUsesThePartialIndexEvenWhenPreparedOnAnEmptyTable(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	conn := connect(t, db.URL)
	_, err := conn.Exec(t.Context(), `
		SET plan_cache_mode = force_generic_plan;
		PREPARE claim AS SELECT id FROM ci_jobs WHERE status = 'initialized' ORDER BY priority DESC, turn, id LIMIT 10 FOR UPDATE SKIP LOCKED`)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{0, 20000} {
		db.Exec(t, "ALTER TABLE ci_jobs DISABLE TRIGGER USER")
		db.Exec(t, "INSERT INTO ci_runs (repository, event, status, finished_at) SELECT $1, 'push', 'success', now() FROM generate_series(1, $2)", repository, size)
		db.Exec(t, "INSERT INTO ci_jobs (run_id, repository, status, turn) SELECT id, repository, 'success', 1 FROM ci_runs")
		rows, err := conn.Query(t.Context(), "EXPLAIN EXECUTE claim")
		if err != nil {
			t.Fatal(err)
		}
		plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		if text := strings.Join(plan, "\n"); !strings.Contains(text, "ci_jobs_initialized") || strings.Contains(text, "Sort") {
			t.Errorf("with %d finished rows the claim's plan is\n%s", size, text)
		}
	}
}

func TestAJobStartsAsSoonAsItIsThere(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	started := make(chan *jobs.Job, 1)
	stage := runnerStage(1, func(_ context.Context, job *jobs.Job) (jobs.Result, error) {
		started <- job
		return jobs.Result{}, nil
	})
	stage.Name, stage.Takes, stage.Holds, stage.Gives = "initializer", jobs.StatusNew, jobs.StatusInitializing, jobs.StatusSkipped
	work(t, db.Open(t, "initializer"), stage)
	gateway := db.Open(t, "api-gateway")
	for range 3 {
		enqueued, err := gateway.Enqueue(t.Context(), jobs.NewRun{Repository: repository, Event: "push", Ref: "refs/heads/main", Author: "alice", Trusted: true})
		if err != nil {
			t.Fatal(err)
		}
		job := receive(t, started, "the job's start")
		if job.RunID != enqueued.RunID || job.Ref != "refs/heads/main" || job.Author != "alice" || !job.Trusted || job.Repository != repository {
			t.Errorf("job %+v", job)
		}
		db.Await(t, soon, "SELECT status = 'skipped' FROM ci_runs WHERE id = $1", enqueued.RunID)
	}
}

func TestFinishOfALostClaimChangesNothing(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	job := planned(t, db, 1)[0]
	for name, result := range map[string]func() (jobs.Result, error){
		"finish": func() (jobs.Result, error) { return jobs.Result{Reason: "late"}, nil },
		"finish with a commit": func() (jobs.Result, error) {
			return jobs.Result{Commit: func(context.Context, pgx.Tx) error { t.Error("Commit ran without a claim"); return nil }}, nil
		},
		"fail": func() (jobs.Result, error) { return jobs.Result{}, errors.New("late") },
	} {
		holding, letGo := make(chan *jobs.Job), make(chan struct{})
		stage := runnerStage(1, func(_ context.Context, job *jobs.Job) (jobs.Result, error) {
			holding <- job
			<-letGo // a handler that does not look at its context
			return result()
		})
		stage.Beat, stage.Lease = time.Hour, 3*time.Hour // it learns of the loss by its late write alone
		stop := work(t, db.Open(t, "runner"), stage)
		receive(t, holding, "the claim")
		// Somebody takes the job away and holds it: the same state, another claim.
		db.Exec(t, "UPDATE ci_jobs SET status = 'initialized' WHERE id = $1", job)
		db.Exec(t, "UPDATE ci_jobs SET status = 'running' WHERE id = $1", job)
		before := jobstest.Value[string](t, db, "SELECT row_to_json(j)::text FROM ci_jobs j")
		close(letGo)
		stop()
		if after := jobstest.Value[string](t, db, "SELECT row_to_json(j)::text FROM ci_jobs j"); after != before {
			t.Errorf("%s: the row was\n%s\nand is\n%s", name, before, after)
		}
		db.Exec(t, "UPDATE ci_jobs SET status = 'initialized' WHERE id = $1", job)
	}
}

func TestFinishTwiceIsOneTransition(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	job := planned(t, db, 1)[0]
	// The first COMMIT is applied and its reply lost: a trigger cannot do that, so the finish is made for the worker, with
	// its own token, just before its own.
	holding, letGo := make(chan *jobs.Job), make(chan struct{})
	stop := work(t, db.Open(t, "runner"), runnerStage(1, func(_ context.Context, job *jobs.Job) (jobs.Result, error) {
		holding <- job
		<-letGo
		return jobs.Result{}, nil
	}))
	receive(t, holding, "the claim")
	db.Exec(t, "UPDATE ci_jobs SET status = 'success', reason = 'the first try' WHERE id = $1", job)
	close(letGo)
	stop()
	got := jobstest.Value[string](t, db, "SELECT format('%s %s %s', status, reason, (SELECT count(*) FROM ci_attempts WHERE job_id = j.id AND stage = 'running')) FROM ci_jobs j")
	if want := "success the first try 1"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestCommitIsPartOfTheFinish(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	job := planned(t, db, 1)[0]
	tries := make(chan int, 10)
	n := 0
	work(t, db.Open(t, "runner"), runnerStage(1, func(_ context.Context, job *jobs.Job) (jobs.Result, error) {
		n++
		try := n
		return jobs.Result{Commit: func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "INSERT INTO ci_steps (job_id, attempt, number, name) VALUES ($1, $2, 1, 'step')", job.ID, job.Attempt)
			tries <- try
			if try == 1 {
				return errors.Join(errors.New("not this time"), err)
			}
			return err
		}}, nil
	}))
	receive(t, tries, "the first commit")
	awaitStatus(t, db, job, jobs.StatusBlocked)
	if reason := jobstest.Value[string](t, db, "SELECT reason FROM ci_jobs WHERE id = $1", job); reason != "not this time" {
		t.Errorf("reason %q", reason)
	}
	if n := jobstest.Value[int](t, db, "SELECT count(*)::int FROM ci_steps"); n != 0 {
		t.Errorf("%d rows of a transaction that failed", n)
	}
	db.Exec(t, "UPDATE ci_jobs SET not_before = now() WHERE id = $1", job)
	reap(t, db, jobs.Reaping{})
	awaitStatus(t, db, job, jobs.StatusSuccess)
	if n := jobstest.Value[int](t, db, "SELECT count(*)::int FROM ci_steps"); n != 1 {
		t.Errorf("%d rows, want the second try's one", n)
	}
}

func TestErrorsAreTriedAgainAndEndAfterTooMany(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	job := planned(t, db, 1)[0]
	work(t, db.Open(t, "runner"), runnerStage(1, func(_ context.Context, job *jobs.Job) (jobs.Result, error) {
		if job.Failures == 1 {
			panic("no disk")
		}
		return jobs.Result{}, fmt.Errorf("no disk\x00, try %d", job.Failures)
	}))
	reap(t, db, jobs.Reaping{MaxFailures: 3})
	for failures := 1; failures < 3; failures++ {
		db.Await(t, soon, "SELECT status = 'blocked' AND failures = $2 AND not_before BETWEEN now() AND now() + interval '5 minutes' FROM ci_jobs WHERE id = $1", job, failures)
		db.Exec(t, "UPDATE ci_jobs SET not_before = now() WHERE id = $1", job) // the backoff is over
	}
	awaitStatus(t, db, job, jobs.StatusError)
	if reason := jobstest.Value[string](t, db, "SELECT reason FROM ci_jobs WHERE id = $1", job); reason != "no disk\uFFFD, try 2 (failure 3 of at most 3)" {
		t.Errorf("reason %q", reason)
	}
	if status := jobstest.Value[string](t, db, "SELECT status::text FROM ci_runs"); status != "error" {
		t.Errorf("the run is %s", status)
	}
}

func TestAResultThatTheRulesRefuseIsAFailure(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	job := planned(t, db, 1)[0]
	work(t, db.Open(t, "runner"), runnerStage(1, func(context.Context, *jobs.Job) (jobs.Result, error) {
		return jobs.Result{Status: jobs.StatusSkipped}, nil // no runner may skip
	}))
	reap(t, db, jobs.Reaping{MaxFailures: 2})
	db.Await(t, soon, "SELECT status = 'blocked' AND failures = 1 FROM ci_jobs WHERE id = $1", job)
	db.Exec(t, "UPDATE ci_jobs SET not_before = now() WHERE id = $1", job)
	awaitStatus(t, db, job, jobs.StatusError)
	if reason := jobstest.Value[string](t, db, "SELECT reason FROM ci_jobs WHERE id = $1", job); !strings.Contains(reason, "from running to skipped") {
		t.Errorf("reason %q", reason)
	}
}

func TestCancelReachesTheHandler(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	job := planned(t, db, 1)[0]
	holding := make(chan *jobs.Job)
	stage := runnerStage(1, func(ctx context.Context, job *jobs.Job) (jobs.Result, error) {
		holding <- job
		<-ctx.Done()
		return jobs.Result{}, context.Cause(ctx)
	})
	work(t, db.Open(t, "runner"), stage)
	run := receive(t, holding, "the claim").RunID
	gateway := db.Open(t, "api-gateway")
	if err := gateway.Cancel(t.Context(), run, ""); err != nil {
		t.Fatal(err)
	}
	awaitStatus(t, db, job, jobs.StatusCancelled)
	db.Await(t, soon, "SELECT status = 'cancelled' FROM ci_runs WHERE id = $1", run)
	if err := gateway.Cancel(t.Context(), run, ""); !errors.Is(err, jobs.ErrEnded) {
		t.Errorf("cancel of an ended run: %v", err)
	}
	if err := gateway.Cancel(t.Context(), run+1000, ""); !errors.Is(err, jobs.ErrNotFound) {
		t.Errorf("cancel of no run: %v", err)
	}
}

func TestCancelEndsAtOnceWhatNobodyHolds(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	run := insertRun(t, db)
	for index, status := range []string{"initialized", "blocked"} {
		place(t, db, run, status, "test", index, nil)
	}
	if err := db.Open(t, "api-gateway").Cancel(t.Context(), run, ""); err != nil {
		t.Fatal(err)
	}
	got := jobstest.Value[string](t, db, "SELECT string_agg(status::text, ' ') || ' run ' || (SELECT status FROM ci_runs) FROM ci_jobs")
	if want := "cancelled cancelled run cancelled"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAnAnswerToACancelledRunIsCancelled(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	job := planned(t, db, 1)[0]
	holding, letGo := make(chan *jobs.Job), make(chan struct{})
	stage := runnerStage(1, func(_ context.Context, job *jobs.Job) (jobs.Result, error) {
		holding <- job
		<-letGo
		return jobs.Result{Status: jobs.StatusInitialized, Commit: func(context.Context, pgx.Tx) error {
			t.Error("Commit ran for a cancelled job")
			return nil
		}}, nil
	})
	stage.Beat, stage.Lease = time.Hour, 3*time.Hour // the handler does not hear of it
	work(t, db.Open(t, "runner"), stage)
	run := receive(t, holding, "the claim").RunID
	if err := db.Open(t, "api-gateway").Cancel(t.Context(), run, ""); err != nil {
		t.Fatal(err)
	}
	close(letGo)
	awaitStatus(t, db, job, jobs.StatusCancelled)
}

func TestStoppingGivesJobsBack(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	planned(t, db, 2)
	holding, finish := make(chan *jobs.Job), make(chan struct{})
	stage := runnerStage(2, func(ctx context.Context, job *jobs.Job) (jobs.Result, error) {
		holding <- job
		select {
		case <-finish: // one of the two
			return jobs.Result{}, nil
		case <-ctx.Done():
			return jobs.Result{}, context.Cause(ctx)
		}
	})
	stage.Grace = 500 * time.Millisecond
	runner := db.Open(t, "runner")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- runner.Work(ctx, stage) }()
	receive(t, holding, "one claim")
	receive(t, holding, "the other claim")
	cancel()
	finish <- struct{}{} // within the grace period
	if err := receive(t, done, "the stage's end"); err != nil {
		t.Fatal(err)
	}
	got := jobstest.Value[string](t, db, "SELECT string_agg(format('%s failures %s', status, failures), ', ' ORDER BY status) FROM ci_jobs")
	if want := "initialized failures 0, success failures 0"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if alive := jobstest.Value[bool](t, db, "SELECT bool_or(dead_at IS NULL) FROM ci_workers"); alive {
		t.Error("the worker left without a goodbye")
	}
}

func TestAStageThatCannotBeRunSaysWhy(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t).Open(t, "runner")
	err := db.Work(t.Context(), jobs.Stage{Name: "broken", Takes: "new'; --", Slots: 0, Lease: time.Second, Beat: time.Second})
	for _, want := range []string{`Takes "new'; --" is not a state`, "0 slots", "lease 1s: at least three beats", "needs a Name and a Do"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
}
