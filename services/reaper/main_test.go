package main_test

import (
	"bytes"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
)

// The reaper as an operator sees it: the binary, its settings, its signals, and what it can do under its own role. How it
// judges is tested in pkg/jobs.

const (
	repository = "https://github.com/acme/widgets"
	soon       = 20 * time.Second // far above what anything here takes; reached only by a test that fails
)

var binary string

func TestMain(m *testing.M) { os.Exit(jobstest.RunWithBinary(m, "reaper", &binary)) }

func TestAWrongSettingEndsItWithOneLineThatNamesIt(t *testing.T) {
	t.Parallel()
	const url = "DATABASE_URL=postgres://somebody:hunter2@127.0.0.1:1/none"
	for name, test := range map[string]struct {
		env  []string
		want string
	}{
		"no database":            {nil, "DATABASE_URL is not set"},
		"an empty database":      {[]string{"DATABASE_URL="}, "DATABASE_URL is empty"},
		"an unreadable database": {[]string{"DATABASE_URL=postgres://somebody:hunter2@[::1/none"}, "DATABASE_URL: "},
		"an unknown level":       {[]string{url, "LOG_LEVEL=loud"}, "LOG_LEVEL: "},
		"no duration":            {[]string{url, "UNOWNED_AFTER=hour"}, "UNOWNED_AFTER: "},
		"no time at all":         {[]string{url, "UNOWNED_AFTER=0s"}, "UNOWNED_AFTER: 0s is not more than 0"},
		"no number":              {[]string{url, "MAX_FAILURES=many"}, "MAX_FAILURES: "},
		"no failure":             {[]string{url, "MAX_FAILURES=0"}, "MAX_FAILURES: 0 is less than 1"},
		"no crash":               {[]string{url, "MAX_CRASHES=0"}, "MAX_CRASHES: 0 is less than 1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			jobstest.Refuses(t, binary, test.env, test.want)
		})
	}
}

func TestSIGTERMEndsItWithZero(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	silent := silentWorker(t, db)
	stop := start(t, db)
	db.Await(t, soon, "SELECT dead_at IS NOT NULL FROM ci_workers WHERE id = $1", silent) // it is at work
	db.Await(t, soon, "SELECT bool_and(usename = 'lockstep_reaper') FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'reaper'")
	stop()
	db.Await(t, soon, "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'reaper'")
}

func TestItsRoleIsEnoughForWhateverIsLeftBehind(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	start(t, db, "UNOWNED_AFTER=200ms", "MAX_FAILURES=3", "MAX_CRASHES=3")
	tests := []struct {
		name    string
		prepare func(*testing.T) (job int64)
		status  string
		reason  string
	}{
		{"an initializer died", func(t *testing.T) int64 {
			job := insertJob(t, db, "new")
			hold(t, db, job, "initializing", silentWorker(t, db))
			return job
		}, "new", "worker gone:1 died while it was initializing"},

		{"a runner died", func(t *testing.T) int64 {
			job := insertJob(t, db, "initialized")
			hold(t, db, job, "running", silentWorker(t, db))
			return job
		}, "initialized", "worker gone:1 died while it was running"},

		{"the third runner died", func(t *testing.T) int64 {
			job := insertJob(t, db, "initialized")
			db.Exec(t, "UPDATE ci_jobs SET crashes = 2, failures = 2 WHERE id = $1", job)
			hold(t, db, job, "running", silentWorker(t, db))
			return job
		}, "error", "worker gone:1 died while it was running; that was crash 3 of at most 3"},

		{"a runner died before it cancelled", func(t *testing.T) int64 {
			job := insertJob(t, db, "initialized")
			hold(t, db, job, "running", silentWorker(t, db))
			db.Exec(t, "UPDATE ci_jobs SET cancel_requested_at = now(), reason = 'cancelled on request' WHERE id = $1", job)
			return job
		}, "cancelled", "cancelled on request"},

		{"a runner lives and hangs", func(t *testing.T) int64 {
			job := insertJob(t, db, "initialized")
			alive := jobstest.Value[int64](t, db, "INSERT INTO ci_workers (stage, name, slots, lease) VALUES ('runner', 'here:1', 1, '1 day') RETURNING id")
			hold(t, db, job, "running", alive)
			db.Exec(t, "UPDATE ci_jobs SET deadline_at = now() WHERE id = $1", job)
			return job
		}, "error", "not ended by its deadline, 00:15:00 after it was claimed"},

		{"somebody claimed it from psql", func(t *testing.T) int64 {
			job := insertJob(t, db, "initialized")
			db.Exec(t, "UPDATE ci_jobs SET status = 'running' WHERE id = $1", job)
			return job
		}, "initialized", "claimed by hand and not ended within 00:00:00.2"},

		{"a backoff is over", func(t *testing.T) int64 {
			job := insertJob(t, db, "blocked")
			db.Exec(t, "UPDATE ci_jobs SET failures = 1, not_before = now() WHERE id = $1", job)
			return job
		}, "initialized", ""},

		{"it failed too often", func(t *testing.T) int64 {
			job := insertJob(t, db, "blocked")
			db.Exec(t, "UPDATE ci_jobs SET failures = 3, not_before = now(), reason = 'disk full' WHERE id = $1", job)
			return job
		}, "error", "disk full (failure 3 of at most 3)"},
	}
	left := make([]int64, len(tests)) // all at once: their waits overlap
	for i, test := range tests {
		left[i] = test.prepare(t)
	}
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			job := left[i]
			db.Await(t, soon, "SELECT status = $2::ci_job_status FROM ci_jobs WHERE id = $1", job, test.status)
			if reason := jobstest.Value[string](t, db, "SELECT reason FROM ci_jobs WHERE id = $1", job); reason != test.reason {
				t.Errorf("reason %q, want %q", reason, test.reason)
			}
		})
	}
}

func TestItsRoleIsEnoughForTheChores(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	day := jobstest.Value[string](t, db, "SELECT 'ci_logs_' || to_char((now() AT TIME ZONE 'UTC')::date + 14, 'YYYYMMDD')")
	db.Exec(t, "DROP TABLE "+day)
	worker := jobstest.Value[int64](t, db, "INSERT INTO ci_workers (stage, name, slots, lease, dead_at) VALUES ('runner', 'gone:1', 1, '20s', now() - interval '2 days') RETURNING id")
	start(t, db)
	db.Await(t, soon, "SELECT to_regclass($1) IS NOT NULL", day)
	db.Await(t, soon, "SELECT count(*) = 0 FROM ci_workers WHERE id = $1", worker)
}

// start runs the binary on the test's database, under the reaper's role. stop ends it by SIGTERM and expects exit status
// 0; it is called when the test ends.
func start(t *testing.T, db *jobstest.Database, env ...string) (stop func()) {
	t.Helper()
	command := exec.Command(binary)
	command.Env = append([]string{"DATABASE_URL=" + db.As("reaper")}, env...)
	var out bytes.Buffer
	command.Stdout, command.Stderr = &out, &out
	if err := command.Start(); err != nil {
		t.Fatalf("start reaper: %v", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	stop = sync.OnceFunc(func() {
		_ = command.Process.Signal(syscall.SIGTERM) // it may have ended by itself: the exit status tells
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("reaper: %v", err)
			}
		case <-time.After(soon):
			_ = command.Process.Kill()
			t.Errorf("reaper did not end within %s of SIGTERM; killed: %v", soon, <-ended)
		}
		if t.Failed() {
			t.Logf("reaper said:\n%s", out.String())
		}
	})
	t.Cleanup(stop)
	return stop
}

// silentWorker is a worker that never beats.
func silentWorker(t *testing.T, db *jobstest.Database) (worker int64) {
	t.Helper()
	return jobstest.Value[int64](t, db, "INSERT INTO ci_workers (stage, name, slots, lease) VALUES ('runner', 'gone:1', 1, '100ms') RETURNING id")
}

// insertJob makes a job in a run of its own.
func insertJob(t *testing.T, db *jobstest.Database, status string) (job int64) {
	t.Helper()
	return jobstest.Value[int64](t, db, `
		WITH run AS (INSERT INTO ci_runs (repository, event) VALUES ($1, 'manual') RETURNING id, repository)
		INSERT INTO ci_jobs (run_id, repository, status) SELECT id, repository, $2::ci_job_status FROM run RETURNING id`, repository, status)
}

// hold claims a job for a worker.
func hold(t *testing.T, db *jobstest.Database, job int64, status string, worker int64) {
	t.Helper()
	db.Exec(t, "UPDATE ci_jobs SET status = $2, worker_id = $3, deadline_at = clock_timestamp() + timeout WHERE id = $1", job, status, worker)
}
