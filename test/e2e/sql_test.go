package e2e_test

import (
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
)

// The article's INSERT, with the table's name where its sample has the type's.
const articlesInsert = `INSERT INTO ci_jobs(repository, status, status_change_time) VALUES ($1, 'new', NOW())`

// The article's claim, word for word.
const articlesClaim = `
UPDATE ci_jobs SET status='initializing'
WHERE id = (
  SELECT id
  FROM ci_jobs
  WHERE status='new'
  ORDER BY id
  FOR UPDATE SKIP LOCKED
  LIMIT 1
)
RETURNING *;`

func TestAPlainInsertStartsARunOfTheDefaultBranch(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.start()
	repo := s.repository("octo/hello", workflow(oneJob))
	head := repo.head
	repo.git("checkout", "--quiet", "-b", "topic")
	repo.commit(nil)
	repo.git("checkout", "--quiet", "main")

	s.db.Exec(t, articlesInsert, repo.url())
	r := s.finish(jobstest.Value[string](t, s.db, "SELECT id::text FROM ci_runs"), "success")
	if r.HeadSHA != head || r.Event != "manual" || r.Repository != repo.url() {
		t.Errorf("the run is of %s %s %s, want %s manual %s", r.Repository, r.Event, r.HeadSHA, repo.url(), head)
	}
	if log := s.log(s.job(r, "ci / test")); !strings.Contains(log, "tested for manual") {
		t.Errorf("the log says otherwise:\n%s", log)
	}
	s.github.await(head, "lockstep/ci / test", "success")
}

func TestAClaimTypedIntoPsqlIsFencedAndTakenBack(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.more["reaper"] = []string{"UNOWNED_AFTER=1s"}
	repo := s.repository("octo/hello", workflow(oneJob))
	s.db.Exec(t, articlesInsert, repo.url())

	claimed := claimByHand(t, s)
	if len(claimed) != 1 {
		t.Fatalf("the claim took %d rows, want 1", len(claimed))
	}
	id, token := claimed[0]["id"], claimed[0]["claim_token"]
	if token == nil || claimed[0]["attempt"] != int32(1) || claimed[0]["status"] != "initializing" {
		t.Errorf("the claimed row is %v, want attempt 1 with a token", claimed[0])
	}
	if again := claimByHand(t, s); len(again) != 0 {
		t.Errorf("the same job was claimed twice: %v", again)
	}

	s.start() // the reaper takes it back from whoever sits at psql, and the suite goes on with it
	run := jobstest.Value[string](t, s.db, "SELECT id::text FROM ci_runs")
	s.finish(run, "success")
	before := s.rows(run)
	tag, err := s.db.Pool.Exec(t.Context(), "UPDATE ci_jobs SET status = 'initialized' WHERE id = $1 AND claim_token = $2", id, token)
	if err != nil || tag.RowsAffected() != 0 {
		t.Errorf("a write with the lost token changed %d rows (%v), want none", tag.RowsAffected(), err)
	}
	s.unchanged(run, before)
	attempts := jobstest.Value[string](t, s.db, "SELECT string_agg(stage || '→' || outcome, ', ' ORDER BY attempt) FROM ci_attempts")
	if want := "initializing→new, initializing→initialized, running→success"; attempts != want {
		t.Errorf("the attempts are %s, want %s", attempts, want)
	}
}

func claimByHand(t *testing.T, s *system) []map[string]any {
	t.Helper()
	rows, err := s.db.Pool.Query(t.Context(), articlesClaim)
	if err != nil {
		t.Fatal(err)
	}
	claimed, err := pgx.CollectRows(rows, pgx.RowToMap)
	if err != nil {
		t.Fatal(err)
	}
	return claimed
}

func TestIllegalTransitionsAreRefusedWhoeverAsks(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.db.Exec(t, articlesInsert, "https://github.com/octo/hello")
	for _, c := range []struct{ who, sql, want string }{
		{"", "UPDATE ci_jobs SET status = 'success'", "illegal transition from new to success"},
		{"", "UPDATE ci_jobs SET status = 'running'", "illegal transition from new to running"},
		{"runner", "UPDATE ci_jobs SET status = 'initializing'", `role "lockstep_runner" may not move a job from new to initializing`},
		{"api-gateway", "UPDATE ci_jobs SET status = 'initializing'", `role "lockstep_api_gateway" may not move a job from new to initializing`},
		{"github-notifier", "UPDATE ci_jobs SET status = 'cancelled'", "permission denied"},
		{"runner", "INSERT INTO ci_jobs (repository) VALUES ('https://github.com/octo/other')", "permission denied"},
	} {
		url := s.db.URL
		if c.who != "" {
			url = s.db.As(c.who)
		}
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatalf("log in as %s: %v", c.who, err)
		}
		if _, err := conn.Exec(t.Context(), c.sql); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s as %q: %v, want %q", c.sql, c.who, err, c.want)
		}
		_ = conn.Close(t.Context())
	}
	if status := jobstest.Value[string](t, s.db, "SELECT status::text FROM ci_jobs"); status != "new" {
		t.Errorf("the job is %s, want new", status)
	}
}

// rows is all that the database says of a run and of the last attempt of its jobs, as text.
func (s *system) rows(run string) string {
	s.t.Helper()
	return jobstest.Value[string](s.t, s.db, `
		WITH last AS (SELECT id AS job_id, attempt, run_id FROM ci_jobs WHERE run_id = $1)
		SELECT concat_ws(E'\n',
			(SELECT to_jsonb(r) FROM ci_runs r WHERE r.id = $1),
			(SELECT string_agg(to_jsonb(j)::text, E'\n' ORDER BY j.id) FROM ci_jobs j WHERE j.run_id = $1),
			(SELECT string_agg(to_jsonb(a)::text, E'\n' ORDER BY a.job_id, a.attempt) FROM ci_attempts a JOIN last USING (job_id)),
			(SELECT string_agg(to_jsonb(t)::text, E'\n' ORDER BY t.job_id, t.number) FROM ci_steps t JOIN last USING (job_id, attempt)),
			(SELECT string_agg(to_jsonb(l)::text, E'\n' ORDER BY l.job_id, l.seq) FROM ci_logs l JOIN last USING (job_id, attempt)))`, run)
}

// unchanged wants the database to say of a run what it said before.
func (s *system) unchanged(run, before string) {
	s.t.Helper()
	if after := s.rows(run); after != before {
		s.t.Errorf("a late write changed the run. Before:\n%s\nafter:\n%s", before, after)
	}
}

// within wants the claim of a run's only job that followed a lost one to have come at most lease + 2 s after a moment of
// the database's clock.
func (s *system) takenOverWithin(run string, since time.Time) {
	s.t.Helper()
	took := jobstest.Value[time.Time](s.t, s.db, `
		SELECT a.claimed_at FROM ci_attempts a JOIN ci_jobs j ON j.id = a.job_id
		WHERE j.run_id = $1 AND a.claimed_at > $2 ORDER BY a.attempt LIMIT 1`, run, since).Sub(since)
	if limit := s.lease + 2*time.Second; took > limit {
		s.t.Errorf("the job was taken over after %s, want at most %s", took, limit)
	}
}

func (s *system) now() time.Time {
	s.t.Helper()
	return jobstest.Value[time.Time](s.t, s.db, "SELECT clock_timestamp()")
}
