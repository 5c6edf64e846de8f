package jobs_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
)

// silentWorker makes a worker that holds a job and never beats.
func silentWorker(t *testing.T, db *jobstest.Database, job int64, lease string) (worker int64) {
	t.Helper()
	worker = jobstest.Value[int64](t, db, "INSERT INTO ci_workers (stage, name, slots, lease) VALUES ('runner', 'lost:1', 1, $1::interval) RETURNING id", lease)
	db.Exec(t, "UPDATE ci_jobs SET status = 'running', worker_id = $1, deadline_at = clock_timestamp() + timeout WHERE id = $2", worker, job)
	return worker
}

func TestReaperReturnsADeadWorkersJobs(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	job := planned(t, db, 1)[0]
	worker := silentWorker(t, db, job, "300ms")
	began := time.Now()
	reap(t, db, jobs.Reaping{})
	awaitStatus(t, db, job, jobs.StatusInitialized)
	if waited := time.Since(began); waited < 300*time.Millisecond {
		t.Errorf("taken back after %s, before its lease was over", waited)
	}
	got := jobstest.Value[string](t, db, `
		SELECT format('%s %s, %s, %s', j.failures, j.crashes, j.reason, (SELECT outcome || ' ' || cause FROM ci_attempts WHERE job_id = j.id AND stage = 'running'))
		FROM   ci_jobs j`)
	if want := "0 1, worker lost:1 died while it was running, initialized worker lost:1 died while it was running"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if dead := jobstest.Value[bool](t, db, "SELECT dead_at IS NOT NULL FROM ci_workers WHERE id = $1", worker); !dead {
		t.Error("the worker is not marked")
	}
}

func TestReaperLeavesAWorkerThatBeats(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	job := planned(t, db, 1)[0]
	holding, finish := make(chan *jobs.Job), make(chan struct{})
	stage := runnerStage(1, func(context.Context, *jobs.Job) (jobs.Result, error) {
		holding <- nil
		<-finish
		return jobs.Result{}, nil
	})
	stage.Lease, stage.Beat = 1500*time.Millisecond, 100*time.Millisecond
	work(t, db.Open(t, "runner"), stage)
	receive(t, holding, "the claim")
	reap(t, db, jobs.Reaping{})
	// A dead worker beside it is the clock: when it has been marked, a whole lease has passed.
	other := jobstest.Value[int64](t, db, "INSERT INTO ci_workers (stage, name, slots, lease) VALUES ('runner', 'lost:1', 1, '2s') RETURNING id")
	db.Await(t, soon, "SELECT dead_at IS NOT NULL FROM ci_workers WHERE id = $1", other)
	close(finish)
	awaitStatus(t, db, job, jobs.StatusSuccess)
}

func TestReaperEndsAJobWhoseWorkersKeepDying(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	job := planned(t, db, 1)[0]
	reap(t, db, jobs.Reaping{MaxCrashes: 2})
	silentWorker(t, db, job, "100ms")
	awaitStatus(t, db, job, jobs.StatusInitialized)
	silentWorker(t, db, job, "100ms")
	awaitStatus(t, db, job, jobs.StatusError)
	if reason := jobstest.Value[string](t, db, "SELECT reason FROM ci_jobs"); reason != "worker lost:1 died while it was running; that was crash 2 of at most 2" {
		t.Errorf("reason %q", reason)
	}
}

func TestReaperEndsAJobPastItsDeadlineThoughItsWorkerBeats(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	job := planned(t, db, 1)[0]
	holding, lost := make(chan *jobs.Job), make(chan error, 1)
	hang := make(chan struct{})
	work(t, db.Open(t, "runner"), runnerStage(1, func(ctx context.Context, _ *jobs.Job) (jobs.Result, error) {
		holding <- nil
		<-ctx.Done()
		lost <- context.Cause(ctx)
		<-hang // it does not even then return
		return jobs.Result{}, nil
	}))
	receive(t, holding, "the claim")
	reap(t, db, jobs.Reaping{})
	db.Exec(t, "UPDATE ci_jobs SET deadline_at = now() WHERE id = $1", job)
	awaitStatus(t, db, job, jobs.StatusError)
	if err := receive(t, lost, "the handler's end"); !errors.Is(err, jobs.ErrClaimLost) {
		t.Errorf("the handler heard %v", err)
	}
	close(hang)
}

func TestReaperTakesBackWhatIsHeldByHandForTooLong(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	db.Exec(t, articleInsert)
	db.Exec(t, articleClaim)
	reap(t, db, jobs.Reaping{UnownedAfter: 200 * time.Millisecond})
	db.Await(t, soon, "SELECT status = 'new' AND failures = 0 FROM ci_jobs")
}

func TestReaperForgivesItsOwnSilence(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	job := planned(t, db, 1)[0]
	// A worker whose last beat is old, because the database was away: nobody watched that silence.
	worker := silentWorker(t, db, job, "1 hour")
	db.Exec(t, "UPDATE ci_workers SET beat_at = now() - interval '1 day' WHERE id = $1", worker)
	other := silentWorkerWithoutJob(t, db)
	reap(t, db, jobs.Reaping{})
	db.Await(t, soon, "SELECT dead_at IS NOT NULL FROM ci_workers WHERE id = $1", other)
	if dead := jobstest.Value[bool](t, db, "SELECT dead_at IS NOT NULL FROM ci_workers WHERE id = $1", worker); dead {
		t.Error("marked for a silence that no reaper watched")
	}
}

func silentWorkerWithoutJob(t *testing.T, db *jobstest.Database) int64 {
	t.Helper()
	return jobstest.Value[int64](t, db, "INSERT INTO ci_workers (stage, name, slots, lease) VALUES ('runner', 'lost:2', 1, '200ms') RETURNING id")
}

// The look's answer tells of a beat that is younger than the look.
func TestReaperCountsNoSilenceFromBeforeAnAnswer(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	worker := silentWorkerWithoutJob(t, db)
	watch := jobs.NewWatch(db.Open(t, "reaper"), jobs.Reaping{Every: time.Hour, UnownedAfter: time.Hour, MaxFailures: 3, MaxCrashes: 3})
	tx, err := db.Pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	if _, err := tx.Exec(t.Context(), "LOCK TABLE ci_jobs IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	looked := make(chan struct{})
	go func() { watch.Look(t.Context()); close(looked) }()
	db.Await(t, soon, "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'ci_jobs'::regclass AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))")
	<-time.After(time.Second) // longer than the lease, which is what must not count
	db.Exec(t, "UPDATE ci_workers SET beat_at = clock_timestamp(), lease = '500 ms'")
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-looked

	watch.Look(t.Context())
	if dead := jobstest.Value[bool](t, db, "SELECT dead_at IS NOT NULL FROM ci_workers WHERE id = $1", worker); dead {
		t.Error("marked dead just after its beat")
	}
}

func TestReaperCancelsADeadWorkersJobThatWasToBeCancelled(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	job := planned(t, db, 1)[0]
	silentWorker(t, db, job, "200ms")
	if err := db.Open(t, "api-gateway").Cancel(t.Context(), jobstest.Value[int64](t, db, "SELECT run_id FROM ci_jobs"), ""); err != nil {
		t.Fatal(err)
	}
	reap(t, db, jobs.Reaping{})
	awaitStatus(t, db, job, jobs.StatusCancelled)
}

func TestBeatOfAMarkedWorkerIsRefused(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	job := planned(t, db, 1)[0]
	claims, lost := make(chan *jobs.Job, 2), make(chan error, 1)
	work(t, db.Open(t, "runner"), runnerStage(1, func(ctx context.Context, job *jobs.Job) (jobs.Result, error) {
		claims <- job
		if job.Attempt == 2 { // the first was made by hand, in place of the initializer
			<-ctx.Done()
			lost <- context.Cause(ctx)
			return jobs.Result{}, context.Cause(ctx)
		}
		return jobs.Result{}, nil
	}))
	first := receive(t, claims, "the first claim")
	reap(t, db, jobs.Reaping{})
	db.Exec(t, "UPDATE ci_workers SET dead_at = clock_timestamp()") // as if it had been stopped for a lease
	if err := receive(t, lost, "the handler's end"); !errors.Is(err, jobs.ErrClaimLost) {
		t.Errorf("the handler heard %v", err)
	}
	second := receive(t, claims, "the claim of the worker that registered anew")
	if second.ID != job || second.Attempt != first.Attempt+1 {
		t.Errorf("second claim %+v", second)
	}
	awaitStatus(t, db, job, jobs.StatusSuccess)
	if n := jobstest.Value[int](t, db, "SELECT count(*)::int FROM ci_workers"); n != 2 {
		t.Errorf("%d workers registered, want 2", n)
	}
}

func TestAClaimWhoseReplyWasLostIsGivenBack(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	runner := db.Open(t, "runner")
	started := make(chan *jobs.Job, 1)
	work(t, runner, runnerStage(1, func(_ context.Context, job *jobs.Job) (jobs.Result, error) {
		started <- job
		return jobs.Result{}, nil
	}))
	db.Await(t, soon, "SELECT count(*) = 1 FROM ci_workers")
	enqueue(t, db, 1)
	// The claim is made in the worker's name, and the worker never hears of it.
	db.Exec(t, "UPDATE ci_jobs SET status = 'initializing', job_key = 'test'")
	tx, err := db.Pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{
		"UPDATE ci_jobs SET status = 'initialized'",
		"UPDATE ci_jobs SET status = 'running', worker_id = (SELECT id FROM ci_workers), deadline_at = now() + interval '1 hour'",
	} {
		if _, err := tx.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if job := receive(t, started, "the second claim"); job.Attempt != 3 || job.Failures != 0 {
		t.Errorf("claimed %+v", job)
	}
}

// What cannot be reaped yet must not stand in the way of what can (rows are looked at in batches).
func TestReaperFindsOneDeadWorkersJobBehindManyThatLive(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	db.Exec(t, "ALTER TABLE ci_jobs DISABLE TRIGGER USER")
	db.Exec(t, "INSERT INTO ci_runs (repository, event) SELECT $1, 'push' FROM generate_series(1, 40000)", repository)
	db.Exec(t, "INSERT INTO ci_workers (stage, name, slots, lease) VALUES ('runner', 'here:1', 20000, '1 day')")
	db.Exec(t, `
		INSERT INTO ci_jobs (run_id, repository, status, turn, claim_token, worker_id, deadline_at, attempt)
		SELECT r.id, r.repository, 'running', 1, gen_random_uuid(), w.id, now() + interval '1 day', 1
		FROM   ci_runs r, ci_workers w WHERE r.id <= (SELECT min(id) FROM ci_runs) + 19999`)
	db.Exec(t, `
		INSERT INTO ci_jobs (run_id, repository, status, turn, not_before)
		SELECT r.id, r.repository, 'blocked', 0, now() + interval '1 day' FROM ci_runs r WHERE NOT EXISTS (SELECT FROM ci_jobs j WHERE j.run_id = r.id)`)
	db.Exec(t, "ALTER TABLE ci_jobs ENABLE TRIGGER USER")
	job := planned(t, db, 1)[0]
	due := planned(t, db, 2)[1]
	silentWorker(t, db, job, "300ms")
	db.Exec(t, "UPDATE ci_jobs SET status = 'running' WHERE id = $1", due)
	db.Exec(t, "UPDATE ci_jobs SET status = 'blocked', not_before = now() WHERE id = $1", due)
	reap(t, db, jobs.Reaping{Every: time.Second})
	awaitStatus(t, db, job, jobs.StatusInitialized)
	awaitStatus(t, db, due, jobs.StatusInitialized)
}

// A repository at its limit holds jobs back for hours: that is nothing to see to.
func TestReaperLeavesAloneWhatALimitHoldsBack(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	db.Exec(t, "INSERT INTO ci_repositories (repository, max_running) VALUES ($1, 1)", repository)
	ids := planned(t, db, 3)
	db.Exec(t, "UPDATE ci_jobs SET status = 'running' WHERE id <> $1", ids[0])
	db.Exec(t, "UPDATE ci_jobs SET status = 'blocked', not_before = now() WHERE id <> $1", ids[0]) // one slot, and it is taken
	reap(t, db, jobs.Reaping{})
	other := silentWorkerWithoutJob(t, db) // a clock: it is marked after many looks
	db.Await(t, soon, "SELECT dead_at IS NOT NULL FROM ci_workers WHERE id = $1", other)
	if waiting := jobstest.Value[int](t, db, "SELECT count(*)::int FROM ci_jobs WHERE status = 'blocked'"); waiting != 2 {
		t.Errorf("%d jobs wait, want 2", waiting)
	}
	db.Exec(t, "UPDATE ci_repositories SET max_running = 3") // nobody else notices
	db.Await(t, soon, "SELECT bool_and(status = 'initialized') FROM ci_jobs")
}

// A crash and a failure have a limit each; to be told to stop is neither; a new stage begins with none.
func TestCrashesAndFailuresAreCountedApart(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	job := planned(t, db, 1)[0]
	reap(t, db, jobs.Reaping{MaxFailures: 3, MaxCrashes: 3})
	counts := func(want string) {
		t.Helper()
		db.Await(t, soon, "SELECT format('%s %s %s', status, failures, crashes) = $1 FROM ci_jobs", want)
	}
	crash := func(want string) {
		t.Helper()
		silentWorker(t, db, job, "100ms")
		counts(want)
	}
	crash("initialized 0 1")

	outcome := make(chan error)
	stage := runnerStage(1, func(ctx context.Context, _ *jobs.Job) (jobs.Result, error) {
		select {
		case err := <-outcome:
			return jobs.Result{}, err
		case <-ctx.Done():
			return jobs.Result{}, context.Cause(ctx)
		}
	})
	stage.RetryAfter, stage.Grace = time.Millisecond, time.Millisecond
	stop := work(t, db.Open(t, "runner"), stage)
	outcome <- errors.New("no disk")
	db.Await(t, soon, "SELECT status = 'running' AND failures = 1 AND crashes = 1 FROM ci_jobs") // a dead worker and an error: of neither too many
	outcome <- errors.New("no disk")
	db.Await(t, soon, "SELECT status = 'running' AND failures = 2 AND crashes = 1 FROM ci_jobs")
	stop()
	counts("initialized 2 1")
	crash("initialized 2 2")
	crash("error 2 3")
	if reason := jobstest.Value[string](t, db, "SELECT reason FROM ci_jobs"); reason != "worker lost:1 died while it was running; that was crash 3 of at most 3" {
		t.Errorf("reason %q", reason)
	}
}
