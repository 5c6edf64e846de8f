package jobs_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	repository = "https://github.com/acme/widgets"
	soon       = 20 * time.Second // far above what anything here takes; reached only by a test that fails
)

// enqueue accepts n runs and returns the ids of their jobs, which are all in the database.
func enqueue(t testing.TB, db *jobstest.Database, n int) []int64 {
	t.Helper()
	gateway := db.Open(t, "api-gateway")
	for range n {
		if _, err := gateway.Enqueue(t.Context(), jobs.NewRun{Repository: repository, Event: "manual", Trusted: true}); err != nil {
			t.Fatal(err)
		}
	}
	return jobstest.Value[[]int64](t, db, "SELECT array_agg(id ORDER BY id) FROM ci_jobs")
}

// planned makes n jobs that a runner may claim, each of a run of its own.
func planned(t testing.TB, db *jobstest.Database, n int) []int64 {
	t.Helper()
	enqueue(t, db, n)
	db.Exec(t, "UPDATE ci_jobs SET status = 'initializing' WHERE status = 'new'")
	db.Exec(t, "UPDATE ci_jobs SET status = 'initialized', job_key = 'test', name = 'ci / test' WHERE status = 'initializing'")
	return jobstest.Value[[]int64](t, db, "SELECT array_agg(id ORDER BY id) FROM ci_jobs WHERE status = 'initialized'")
}

// runnerStage is the runner's stage with times fit for a test.
func runnerStage(slots int, do func(context.Context, *jobs.Job) (jobs.Result, error)) jobs.Stage {
	return jobs.Stage{
		Name: "runner", Takes: jobs.StatusInitialized, Holds: jobs.StatusRunning, Gives: jobs.StatusSuccess,
		Slots: slots, Lease: 3 * time.Second, Beat: 100 * time.Millisecond, Poll: 200 * time.Millisecond, Grace: soon, Do: do,
	}
}

// work runs a stage until the test ends or stop is called; stop waits for it.
func work(t testing.TB, db *jobs.DB, stage jobs.Stage) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- db.Work(ctx, stage) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("work: %v", err)
			}
		case <-time.After(soon):
			t.Error("the stage did not stop")
		}
	})
	t.Cleanup(stop)
	return stop
}

// reap runs a reaper until the test ends.
func reap(t testing.TB, db *jobstest.Database, reaping jobs.Reaping) {
	t.Helper()
	if reaping.Every == 0 {
		reaping.Every = 20 * time.Millisecond
	}
	if reaping.UnownedAfter == 0 {
		reaping.UnownedAfter = time.Hour
	}
	if reaping.MaxFailures == 0 {
		reaping.MaxFailures = 3
	}
	opened := db.Open(t, "reaper")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- opened.Reap(ctx, reaping) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("reap: %v", err)
		}
	})
}

// receive waits for a value.
func receive[T any](t testing.TB, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(soon):
		t.Fatalf("%s: nothing within %s", what, soon)
		panic("unreachable")
	}
}

func awaitStatus(t testing.TB, db *jobstest.Database, job int64, status jobs.Status) {
	t.Helper()
	db.Await(t, soon, "SELECT status = $2::ci_job_status FROM ci_jobs WHERE id = $1", job, string(status))
}
