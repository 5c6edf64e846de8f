package jobs_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/lockstep-ci/lockstep/migrations"
	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
)

func TestTheBuildWantsTheNewestSchema(t *testing.T) {
	latest, err := migrations.Latest()
	if err != nil {
		t.Fatal(err)
	}
	if latest != jobs.SchemaVersion {
		t.Errorf("jobs.SchemaVersion is %d, the newest migration is %d", jobs.SchemaVersion, latest)
	}
}

func TestMigrationsGoUpAndDown(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	if err := migrations.Down(t.Context(), db.URL, jobs.SchemaVersion); err != nil {
		t.Fatal(err)
	}
	left := jobstest.Value[[]string](t, db, `
		SELECT coalesce(array_agg(relname::text), '{}') FROM pg_class
		WHERE  relnamespace = 'public'::regnamespace AND relname NOT LIKE 'schema_migrations%'`)
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	// Several at once are safe.
	failures := make(chan error, 4)
	for range cap(failures) {
		go func() { failures <- migrations.Up(context.Background(), db.URL) }()
	}
	for range cap(failures) {
		if err := receive(t, failures, "migrate up"); err != nil {
			t.Error(err)
		}
	}
	version, dirty, err := migrations.Version(t.Context(), db.URL)
	if err != nil || dirty || version != jobs.SchemaVersion {
		t.Errorf("version %d, dirty %v, error %v", version, dirty, err)
	}
}

// The two statements of the article, to the letter but for its slip of naming the type instead of the table.
const (
	articleInsert = `INSERT INTO ci_jobs(repository, status, status_change_time) VALUES ('https://github.com/colinchartier/layerci-color-test', 'new', NOW())`
	articleClaim  = `UPDATE ci_jobs SET status='initializing'
WHERE id = (
  SELECT id
  FROM ci_jobs
  WHERE status='new'
  ORDER BY id
  FOR UPDATE SKIP LOCKED
  LIMIT 1
)
RETURNING *;`
	articleDead = `SELECT * FROM ci_jobs WHERE status='initializing' AND NOW() - status_change_time > '1 hour'::interval`
)

func TestTheArticlesInsertStartsARun(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	db.Exec(t, articleInsert)
	got := jobstest.Value[string](t, db, `
		SELECT format('%s %s %s %s %s', j.repository, j.status, r.event, r.trusted, r.ref IS NULL)
		FROM   ci_jobs j JOIN ci_runs r ON r.id = j.run_id`)
	if want := "https://github.com/colinchartier/layerci-color-test new manual t t"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestTheArticlesClaimIsFencedLikeOurs(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	db.Exec(t, articleInsert)
	db.Exec(t, "UPDATE ci_jobs SET reason = 'a change that is no transition'")
	db.Exec(t, articleClaim)
	got := jobstest.Value[string](t, db, `
		SELECT format('%s %s %s %s', status, attempt, claim_token IS NOT NULL, worker_id IS NULL) FROM ci_jobs`)
	if want := "initializing 1 t t"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	token := jobstest.Value[string](t, db, "SELECT claim_token::text FROM ci_jobs")
	db.Exec(t, "UPDATE ci_jobs SET status = 'new'")
	db.Exec(t, articleClaim)
	if again := jobstest.Value[string](t, db, "SELECT claim_token::text FROM ci_jobs"); again == token {
		t.Error("the second claim has the first one's token")
	}
	if attempt := jobstest.Value[int](t, db, "SELECT attempt FROM ci_jobs"); attempt != 2 {
		t.Errorf("attempt %d, want 2", attempt)
	}
}

func TestTheArticlesDeadJobQueryIsTrue(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	// Queued for two hours, claimed just now: not dead. (In the article's design the claim does not stamp.)
	db.Exec(t, articleInsert)
	db.Exec(t, "ALTER TABLE ci_jobs DISABLE TRIGGER ci_jobs_stamp")
	db.Exec(t, "UPDATE ci_jobs SET status_change_time = now() - interval '2 hours'")
	db.Exec(t, "ALTER TABLE ci_jobs ENABLE TRIGGER ci_jobs_stamp")
	db.Exec(t, articleClaim)
	if dead := jobstest.Value[int](t, db, "SELECT count(*)::int FROM ("+articleDead+") AS dead"); dead != 0 {
		t.Errorf("%d dead jobs just after the claim", dead)
	}
}

func TestEveryTransitionStampsItsTime(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	db.Exec(t, articleInsert)
	last := jobstest.Value[string](t, db, "SELECT status_change_time::text FROM ci_jobs")
	for _, status := range []string{"initializing", "initialized", "running", "success"} {
		db.Exec(t, "UPDATE ci_jobs SET status = $1::ci_job_status, status_change_time = 'epoch'", status)
		stamped := jobstest.Value[string](t, db, "SELECT status_change_time::text FROM ci_jobs")
		if stamped <= last {
			t.Errorf("%s: stamped %s, not after %s", status, stamped, last)
		}
		last = stamped
	}
}

func TestOnlyLegalTransitionsAreMade(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	owner := connect(t, db.URL)
	all := jobstest.Value[[]string](t, db, "SELECT enum_range(NULL::ci_job_status)::text[]")
	legal := jobstest.Value[[]string](t, db, "SELECT array_agg(DISTINCT from_status || '>' || to_status) FROM ci_transitions WHERE from_status IS NOT NULL")
	for _, from := range all {
		for _, to := range all {
			if from == to {
				continue
			}
			err := move(t, owner, owner, from, to)
			if slices.Contains(legal, from+">"+to) {
				if err != nil {
					t.Errorf("%s > %s: %v", from, to, err)
				}
				continue
			}
			var refused *pgconn.PgError
			if !errors.As(err, &refused) || refused.ConstraintName != "ci_transitions" || !strings.Contains(refused.Message, "illegal transition from "+from+" to "+to) {
				t.Errorf("%s > %s: got %v, want it refused by name", from, to, err)
			}
		}
	}
}

func TestARoleMakesOnlyItsOwnTransitions(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	owner := connect(t, db.URL)
	for _, c := range []struct {
		service, from, to string
		ok                bool
	}{
		{"initializer", "new", "initializing", true},
		{"initializer", "initialized", "running", false},
		{"runner", "initialized", "running", true},
		{"runner", "running", "success", true},
		{"runner", "new", "initializing", false},
		{"runner", "running", "new", false},
		{"api-gateway", "new", "cancelled", true},
		{"api-gateway", "running", "success", false},
		{"reaper", "running", "initialized", true},
		{"reaper", "running", "success", false},
		{"github-notifier", "new", "cancelled", false},
	} {
		err := move(t, owner, connect(t, db.As(c.service)), c.from, c.to)
		var refused *pgconn.PgError
		switch {
		case c.ok && err != nil:
			t.Errorf("%s, %s > %s: %v", c.service, c.from, c.to, err)
		case !c.ok && !(errors.As(err, &refused) && (refused.Code == "42501" || refused.ConstraintName == "ci_transitions")):
			t.Errorf("%s, %s > %s: got %v, want it refused", c.service, c.from, c.to, err)
		}
	}
}

// move puts a job into a state without asking the rules, as the owner, then tries one transition by them.
func move(t *testing.T, owner, conn *pgx.Conn, from, to string) error {
	t.Helper()
	ctx := t.Context()
	// session_replication_role = replica: no triggers.
	if _, err := owner.Exec(ctx, "SET session_replication_role = replica"); err != nil {
		t.Fatal(err)
	}
	var job int64
	err := owner.QueryRow(ctx, `
		WITH run AS (INSERT INTO ci_runs (repository, event) VALUES ($2, 'manual') RETURNING id)
		INSERT INTO ci_jobs (run_id, repository, status, turn, claim_token)
		SELECT id, $2, $1, 1, CASE WHEN ci_is_held($1) THEN gen_random_uuid() END FROM run
		RETURNING id`, from, repository).Scan(&job)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := owner.Exec(ctx, "SET session_replication_role = origin"); err != nil {
		t.Fatal(err)
	}
	_, err = conn.Exec(ctx, "UPDATE ci_jobs SET status = $2::ci_job_status WHERE id = $1", job, to)
	return err
}

func TestDependentsStartOnceWhenParentsEndTogether(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	for round := range 20 {
		run := fanIn(t, db)
		// Both parents end in transactions that overlap: the second waits for the first one's commit.
		ctx := t.Context()
		one, two := connect(t, db.URL), connect(t, db.URL)
		tx1, err := one.Begin(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx1.Exec(ctx, "UPDATE ci_jobs SET status = 'success' WHERE run_id = $1 AND job_key = 'a'", run); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() {
			_, err := two.Exec(context.Background(), "UPDATE ci_jobs SET status = 'success' WHERE run_id = $1 AND job_key = 'b'", run)
			ended <- err
		}()
		db.Await(t, soon, "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND NOT granted)", two.PgConn().PID())
		if err := tx1.Commit(ctx); err != nil {
			t.Fatal(err)
		}
		if err := receive(t, ended, "the second parent's end"); err != nil {
			t.Fatal(err)
		}
		got := jobstest.Value[string](t, db, "SELECT format('%s %s', status, turn IS NOT NULL) FROM ci_jobs WHERE run_id = $1 AND job_key = 'c'", run)
		if got != "initialized t" {
			t.Fatalf("round %d: the child is %q", round, got)
		}
	}
}

func TestWhatNeedsAFailedJobIsSkipped(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	run := fanIn(t, db)
	db.Exec(t, "UPDATE ci_runs SET head_sha = repeat('a', 40)")
	db.Exec(t, "INSERT INTO ci_jobs (run_id, repository, status, workflow, job_key, name, needs) VALUES ($1, $2, 'blocked', 'ci.yml', 'd', 'ci / d', '{c}')", run, repository)
	db.Exec(t, "UPDATE ci_jobs SET status = 'failure' WHERE run_id = $1 AND job_key = 'a'", run)
	if got := jobstest.Value[string](t, db, "SELECT status::text FROM ci_runs WHERE id = $1", run); got != "running" {
		t.Errorf("with b still running the run is %s", got)
	}
	db.Exec(t, "UPDATE ci_jobs SET status = 'success' WHERE run_id = $1 AND job_key = 'b'", run)
	got := jobstest.Value[string](t, db, `
		SELECT (SELECT string_agg(status::text, ' ' ORDER BY job_key) FROM ci_jobs WHERE run_id = r.id) || ' run ' || r.status || ' ' || (r.finished_at IS NOT NULL)
		FROM   ci_runs r WHERE r.id = $1`, run)
	if want := "failure success skipped skipped run failure true"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if green := jobstest.Value[int](t, db, "SELECT count(*)::int FROM ci_reports WHERE state = 'success' AND context IN ('lockstep/ci / c', 'lockstep/ci / d')"); green != 0 {
		t.Errorf("%d skipped jobs look green on GitHub", green)
	}
	if reason := jobstest.Value[string](t, db, "SELECT reason FROM ci_jobs WHERE run_id = $1 AND job_key = 'c'", run); reason != `needs "ci / a", which ended with failure` {
		t.Errorf("reason %q", reason)
	}
}

func TestFailFastCancelsTheRestOfTheMatrix(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	run := insertRun(t, db)
	for index, status := range []string{"running", "running", "initialized"} {
		place(t, db, run, status, "test", index, nil)
	}
	db.Exec(t, "UPDATE ci_jobs SET fail_fast = true WHERE run_id = $1", run)
	db.Exec(t, "UPDATE ci_jobs SET status = 'failure' WHERE run_id = $1 AND matrix_index = 0", run)
	got := jobstest.Value[string](t, db, "SELECT string_agg(status || ' ' || (cancel_requested_at IS NOT NULL), ', ' ORDER BY matrix_index) FROM ci_jobs WHERE run_id = $1", run)
	if want := "failure false, running true, cancelled true"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestARepositorysLimitHoldsJobsBack(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	db.Exec(t, "INSERT INTO ci_repositories (repository, max_running) VALUES ($1, 2)", repository)
	run := insertRun(t, db)
	for index := range 5 {
		place(t, db, run, "blocked", "test", index, nil)
	}
	db.Exec(t, "SELECT ci_admit(ARRAY[$1::bigint])", run)
	states := func() string {
		return jobstest.Value[string](t, db, "SELECT string_agg(status::text, ' ' ORDER BY matrix_index) FROM ci_jobs WHERE run_id = $1", run)
	}
	if got, want := states(), "initialized initialized blocked blocked blocked"; got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
	db.Exec(t, "UPDATE ci_jobs SET status = 'running' WHERE run_id = $1 AND status = 'initialized'", run)
	db.Exec(t, "UPDATE ci_jobs SET status = 'success' WHERE run_id = $1 AND matrix_index = 0", run)
	if got, want := states(), "success running initialized blocked blocked"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestALaterRunOfTheCommitTakesTheReportOver(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	sha := strings.Repeat("a", 40)
	first, second := insertRun(t, db), insertRun(t, db)
	db.Exec(t, "UPDATE ci_runs SET head_sha = $1", sha)
	for _, run := range []int64{first, second} {
		place(t, db, run, "running", "test", 0, nil)
	}
	report := func() string {
		return jobstest.Value[string](t, db, "SELECT format('%s %s v%s %s', context, state, version, run_id = $1) FROM ci_reports", second)
	}
	db.Exec(t, "UPDATE ci_jobs SET status = 'success' WHERE run_id = $1", second)
	db.Exec(t, "UPDATE ci_jobs SET status = 'failure' WHERE run_id = $1", first) // old news: v3 was the second run's success
	if got, want := report(), "lockstep/ci / test success v3 t"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// fanIn makes a run whose jobs a and b are running and whose job c needs both.
func fanIn(t *testing.T, db *jobstest.Database) (run int64) {
	t.Helper()
	run = insertRun(t, db)
	place(t, db, run, "running", "a", 0, nil)
	place(t, db, run, "running", "b", 0, nil)
	place(t, db, run, "blocked", "c", 0, []string{"a", "b"})
	return run
}

func insertRun(t testing.TB, db *jobstest.Database) int64 {
	t.Helper()
	return jobstest.Value[int64](t, db, "INSERT INTO ci_runs (repository, event) VALUES ($1, 'push') RETURNING id", repository)
}

// place inserts a job and moves it to a state by legal steps.
func place(t testing.TB, db *jobstest.Database, run int64, status, key string, index int, needs []string) {
	t.Helper()
	first := "blocked"
	if status != "blocked" {
		first = "initialized"
	}
	job := jobstest.Value[int64](t, db, `
		INSERT INTO ci_jobs (run_id, repository, status, workflow, job_key, matrix_index, name, needs)
		VALUES ($1, $2, $3, 'ci.yml', $4, $5, 'ci / ' || $4::text, coalesce($6::text[], '{}')) RETURNING id`, run, repository, first, key, index, needs)
	if status == "running" {
		db.Exec(t, "UPDATE ci_jobs SET status = 'running' WHERE id = $1", job)
	}
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}
