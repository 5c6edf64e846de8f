package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
)

func TestWhatMayPassIsToldFromWhatWillNot(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		err  error
		want bool
	}{
		"nothing":            {nil, false},
		"administrator":      {&pgconn.PgError{Code: "57P01"}, true},
		"starting":           {&pgconn.PgError{Code: "57P03"}, true},
		"too many":           {&pgconn.PgError{Code: "53300"}, true},
		"disk full":          {&pgconn.PgError{Code: "53100"}, true},
		"read-only":          {&pgconn.PgError{Code: "25006"}, true},
		"locked":             {&pgconn.PgError{Code: "55P03"}, true},
		"statement timeout":  {&pgconn.PgError{Code: "57014"}, true},
		"deadlock":           {&pgconn.PgError{Code: "40P01"}, true},
		"our deadline":       {context.DeadlineExceeded, true},
		"connection cut":     {io.ErrUnexpectedEOF, true},
		"a broken rule":      {&pgconn.PgError{Code: "23514"}, false},
		"no right":           {&pgconn.PgError{Code: "42501"}, false},
		"no such row":        {pgx.ErrNoRows, false},
		"a lost claim":       {jobs.ErrClaimLost, false},
		"no code":            {&pgconn.PgError{}, false},
		"the handler's own":  {errors.New("exit status 1"), false},
		"the caller's leave": {context.Canceled, false},
	} {
		if got := jobs.Unavailable(fmt.Errorf("do it: %w", test.err)); test.err != nil && got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
	if jobs.Unavailable(nil) {
		t.Error("no error is trouble")
	}
}

// openAndWatch opens the queue as a service would, and records its log.
func openAndWatch(t *testing.T, db *jobstest.Database, service string) (*jobs.DB, *observer.ObservedLogs) {
	t.Helper()
	core, logs := observer.New(zapcore.InfoLevel)
	opened, err := jobs.Open(t.Context(), db.As(service), jobs.Options{App: service, Log: zap.New(core)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(opened.Close)
	return opened, logs
}

const (
	inTrouble = "the database does not serve us"
	back      = "the database is back"
)

// awaitTrouble waits for a warning whose trouble holds the words.
func awaitTrouble(t *testing.T, logs *observer.ObservedLogs, words string) {
	t.Helper()
	awaitLog(t, logs, "a warning with "+words, func(entry observer.LoggedEntry) bool {
		return entry.Message == inTrouble && strings.Contains(fmt.Sprint(entry.ContextMap()["trouble"]), words)
	})
}

func awaitBack(t *testing.T, logs *observer.ObservedLogs) {
	t.Helper()
	awaitLog(t, logs, "that the database is back", func(entry observer.LoggedEntry) bool { return entry.Message == back })
}

func awaitLog(t *testing.T, logs *observer.ObservedLogs, what string, is func(observer.LoggedEntry) bool) {
	t.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(2 * soon); logs.Filter(is).Len() == 0; <-ticker.C {
		if time.Now().After(deadline) {
			t.Fatalf("the log does not say %s:\n%s", what, lines(logs))
		}
	}
}

func lines(logs *observer.ObservedLogs) string {
	var text strings.Builder
	for _, entry := range logs.All() {
		fmt.Fprintln(&text, entry.Time.Format(time.TimeOnly), entry.Level, entry.Message, entry.ContextMap())
	}
	return text.String()
}

// holdLock runs a statement in a transaction that stays open until the returned function is called.
func holdLock(t *testing.T, db *jobstest.Database, sql string, args ...any) (letGo func()) {
	t.Helper()
	tx, err := db.Pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
	done := false
	letGo = func() {
		if !done {
			done = true
			_ = tx.Rollback(context.WithoutCancel(t.Context()))
		}
	}
	t.Cleanup(letGo)
	return letGo
}

// Twenty jobs cannot be ended at once, at many tries each: few lines say so, and every result is there afterwards.
func TestResultsOutliveAFullDiskAndTheLogStaysShort(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	planned(t, db, 20)
	db.Exec(t, "CREATE TABLE full_disk ()")
	db.Exec(t, `
		CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			IF to_regclass('full_disk') IS NOT NULL AND NEW.status = 'success' THEN
				RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full';
			END IF;
			RETURN NEW;
		END $$`)
	db.Exec(t, "CREATE TRIGGER no_room BEFORE UPDATE ON ci_jobs FOR EACH ROW EXECUTE FUNCTION no_room()")
	opened, logs := openAndWatch(t, db, "runner")
	stage := runnerStage(20, func(context.Context, *jobs.Job) (jobs.Result, error) { return jobs.Result{}, nil })
	stage.Lease, stage.Beat = time.Minute, time.Second
	work(t, opened, stage)
	awaitTrouble(t, logs, "disk is full")
	// Many more tries than lines: a second statement fails at the latest after the longest backoff.
	tries := db.Pool.QueryRow(t.Context(), "SELECT xact_rollback FROM pg_stat_database WHERE datname = current_database()")
	var before int
	if err := tries.Scan(&before); err != nil {
		t.Fatal(err)
	}
	db.Await(t, soon, "SELECT xact_rollback > $1 + 30 FROM pg_stat_database WHERE datname = current_database()", before)
	db.Exec(t, "DROP TABLE full_disk")
	awaitBack(t, logs)
	db.Await(t, soon, "SELECT count(*) = 20 FROM ci_jobs WHERE status = 'success' AND attempt = 2 AND failures = 0 AND crashes = 0")
	if n := logs.FilterMessage(inTrouble).Len(); n != 1 {
		t.Errorf("%d warnings, want 1:\n%s", n, lines(logs))
	}
}

// LOCK TABLE stops claims, finishes and beats alike, and the reaper too: nobody may be taken for dead.
func TestALongTransactionThatLocksTheQueueCostsOnlyTime(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	job := planned(t, db, 1)[0]
	opened, logs := openAndWatch(t, db, "runner")
	holding, finish := make(chan *jobs.Job, 1), make(chan struct{})
	stage := runnerStage(2, func(_ context.Context, job *jobs.Job) (jobs.Result, error) {
		holding <- job
		<-finish
		return jobs.Result{}, nil
	})
	stage.Lease, stage.Beat = 6*time.Second, 500*time.Millisecond // less than the lock is held
	work(t, opened, stage)
	receive(t, holding, "the claim")
	reap(t, db, jobs.Reaping{Every: 200 * time.Millisecond})
	letGo := holdLock(t, db, "LOCK TABLE ci_jobs IN ACCESS EXCLUSIVE MODE")
	close(finish)
	awaitTrouble(t, logs, "locked by another session")
	letGo()
	awaitStatus(t, db, job, jobs.StatusSuccess)
	awaitBack(t, logs)
	got := jobstest.Value[string](t, db, "SELECT format('attempt %s crashes %s failures %s dead %s', attempt, crashes, failures, (SELECT count(dead_at) FROM ci_workers)) FROM ci_jobs")
	if want := "attempt 2 crashes 0 failures 0 dead 0"; got != want {
		t.Errorf("%s, want %s\n%s", got, want, lines(logs))
	}
}

func TestOneLockedRunHoldsUpNoOtherDeadWorkersJob(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	ids := planned(t, db, 3)
	for _, id := range ids {
		silentWorker(t, db, id, "200ms")
	}
	letGo := holdLock(t, db, "SELECT FROM ci_runs WHERE id = (SELECT run_id FROM ci_jobs WHERE id = $1) FOR UPDATE", ids[0])
	reap(t, db, jobs.Reaping{})
	awaitStatus(t, db, ids[1], jobs.StatusInitialized)
	awaitStatus(t, db, ids[2], jobs.StatusInitialized)
	if status := jobstest.Value[string](t, db, "SELECT status::text FROM ci_jobs WHERE id = $1", ids[0]); status != "running" {
		t.Fatalf("the locked run's job is %s", status)
	}
	letGo()
	awaitStatus(t, db, ids[0], jobs.StatusInitialized)
}

// A server that takes no more connections is waited for, at start and later.
func TestAServerWithoutRoomForConnectionsIsWaitedFor(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	job := planned(t, db, 1)[0]
	name := jobstest.Value[string](t, db, "SELECT current_database()")
	limit := func(n int) { db.Exec(t, fmt.Sprintf("ALTER DATABASE %s CONNECTION LIMIT %d", name, n)) }

	limit(0)
	core, logs := observer.New(zapcore.InfoLevel)
	type opening struct {
		db  *jobs.DB
		err error
	}
	done := make(chan opening, 1)
	go func() {
		opened, err := jobs.Open(t.Context(), db.As("runner"), jobs.Options{App: "runner", Log: zap.New(core)})
		done <- opening{opened, err}
	}()
	awaitTrouble(t, logs, "no more connections")
	limit(-1)
	opened := receive(t, done, "the opening")
	if opened.err != nil {
		t.Fatal(opened.err)
	}
	t.Cleanup(opened.db.Close)
	awaitBack(t, logs)

	logs.TakeAll()
	holding, finish := make(chan *jobs.Job, 1), make(chan struct{})
	stage := runnerStage(2, func(_ context.Context, job *jobs.Job) (jobs.Result, error) {
		holding <- job
		<-finish
		return jobs.Result{}, nil
	})
	stage.Lease = time.Minute
	work(t, opened.db, stage)
	receive(t, holding, "the claim")
	limit(0)
	db.Exec(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'runner'")
	close(finish)
	awaitTrouble(t, logs, "no more connections")
	limit(-1)
	awaitStatus(t, db, job, jobs.StatusSuccess)
	awaitBack(t, logs)
	if n := logs.FilterMessage(inTrouble).Len(); n > 3 { // restarting, no room, and at most one more
		t.Errorf("%d warnings:\n%s", n, lines(logs))
	}
}

// Slow statements may take all connections of the pool: beats have one of their own.
func TestBeatsGoOnWhenThePoolIsExhausted(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	opened, _ := openAndWatch(t, db, "runner")
	stage := runnerStage(1, func(context.Context, *jobs.Job) (jobs.Result, error) { return jobs.Result{}, nil })
	work(t, opened, stage)
	db.Await(t, soon, "SELECT count(*) = 1 FROM ci_workers")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	slow := int(opened.Pool().Config().MaxConns)
	for range slow {
		go func() {
			_, err := opened.Pool().Exec(ctx, "SELECT pg_sleep(20)")
			ended <- err
		}()
	}
	db.Await(t, soon, "SELECT count(*) = $1 FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'SELECT pg_sleep%'", slow)
	began := jobstest.Value[time.Time](t, db, "SELECT beat_at FROM ci_workers")
	db.Await(t, soon, "SELECT beat_at > $1::timestamptz + interval '1 second' FROM ci_workers WHERE dead_at IS NULL", began)
	cancel()
	for range slow {
		if err := receive(t, ended, "the end of a slow statement"); err == nil {
			t.Error("a slow statement ended by itself")
		}
	}
}

// A failover leaves a server that reads and does not write. Nobody is taken for dead in that time, however long it is.
func TestAReadOnlyWindowIsWaitedOut(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	job := planned(t, db, 1)[0]
	opened, logs := openAndWatch(t, db, "runner")
	holding, finish := make(chan *jobs.Job, 1), make(chan struct{})
	stage := runnerStage(2, func(_ context.Context, job *jobs.Job) (jobs.Result, error) {
		holding <- job
		<-finish
		return jobs.Result{Commit: func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "INSERT INTO ci_steps (job_id, attempt, number, name) VALUES ($1, $2, 1, 'step')", job.ID, job.Attempt)
			return err
		}}, nil
	})
	stage.Lease, stage.Beat = 3*time.Second, 200*time.Millisecond
	work(t, opened, stage)
	receive(t, holding, "the claim")
	reaper, reaperLogs := openAndWatch(t, db, "reaper")
	ctx, cancel := context.WithCancel(t.Context())
	reaping := make(chan error, 1)
	go func() {
		reaping <- reaper.Reap(ctx, jobs.Reaping{Every: 100 * time.Millisecond, UnownedAfter: time.Hour, MaxFailures: 3})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-reaping; err != nil {
			t.Errorf("reap: %v", err)
		}
	})

	name := jobstest.Value[string](t, db, "SELECT current_database()")
	began := time.Now()
	for _, service := range []string{"runner", "reaper"} { // the test itself may write
		db.Exec(t, fmt.Sprintf("ALTER ROLE lockstep_%s IN DATABASE %s SET default_transaction_read_only = on", service, name))
	}
	db.Exec(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name IN ('runner', 'reaper')")
	awaitTrouble(t, logs, "read-only")
	awaitTrouble(t, reaperLogs, "read-only")
	close(finish)
	// A lease passes, and a half: five seconds by the database's clock.
	db.Await(t, soon, "SELECT clock_timestamp() > $1::timestamptz + interval '5 seconds'", began)
	for _, service := range []string{"runner", "reaper"} {
		db.Exec(t, fmt.Sprintf("ALTER ROLE lockstep_%s IN DATABASE %s RESET default_transaction_read_only", service, name))
	}
	awaitStatus(t, db, job, jobs.StatusSuccess) // sessions that may not write were given up
	awaitBack(t, logs)
	awaitBack(t, reaperLogs)
	got := jobstest.Value[string](t, db, "SELECT format('attempt %s crashes %s failures %s dead %s', attempt, crashes, failures, (SELECT count(dead_at) FROM ci_workers)) FROM ci_jobs")
	if want := "attempt 2 crashes 0 failures 0 dead 0"; got != want {
		t.Errorf("%s, want %s\n%s", got, want, lines(logs))
	}
	if n := logs.FilterMessage(inTrouble).Len(); n > 3 {
		t.Errorf("%d warnings:\n%s", n, lines(logs))
	}
}

// With 5 s to begin with, four waits are at least a minute: a blip of DNS, or of GitHub, ends nobody's run.
func TestWaitsAfterFailuresDoubleUpToFiveMinutes(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	job := planned(t, db, 1)[0]
	stage := runnerStage(1, func(context.Context, *jobs.Job) (jobs.Result, error) {
		return jobs.Result{}, errors.New("no such host")
	})
	stage.RetryAfter = 5 * time.Second
	work(t, db.Open(t, "runner"), stage)
	for earlier, most := range map[int]time.Duration{0: 5 * time.Second, 3: 40 * time.Second, 6: 5 * time.Minute, 1000: 5 * time.Minute} {
		db.Await(t, soon, "SELECT status = 'blocked' FROM ci_jobs WHERE id = $1", job)
		db.Exec(t, "UPDATE ci_jobs SET status = 'initialized', failures = $2, not_before = NULL WHERE id = $1", job, earlier)
		db.Await(t, soon, "SELECT status = 'blocked' AND failures = $2 + 1 FROM ci_jobs WHERE id = $1", job, earlier)
		wait := jobstest.Value[time.Duration](t, db, "SELECT not_before - status_change_time FROM ci_jobs WHERE id = $1", job)
		if wait < most*4/5-time.Second || wait > most+time.Second {
			t.Errorf("after %d failures it waits %s, want between four fifths of %s and all of it", earlier+1, wait, most)
		}
	}
}
