package audit_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/lockstep-ci/lockstep/dev/postgres"
	"github.com/lockstep-ci/lockstep/migrations"
	"github.com/lockstep-ci/lockstep/test/chaos/internal/audit"
)

// conn is to a migrated database of these tests' own. Each story is a transaction that is rolled back in the end.
var conn *pgx.Conn

func TestMain(m *testing.M) {
	code, err := testAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "audit:", err)
		code = 1
	}
	os.Exit(code)
}

func testAll(m *testing.M) (int, error) {
	ctx := context.Background()
	bin, err := postgres.FindBin(ctx)
	if err != nil {
		return 0, err
	}
	running, err := postgres.Throwaway(ctx, postgres.Source{Bin: bin}, 50, "track_commit_timestamp=on")
	if err != nil {
		return 0, err
	}
	defer running.Stop()
	if err := errors.Join(migrations.Up(ctx, running.URL), migrations.Roles(ctx, running.URL, nil)); err != nil {
		return 0, err
	}
	conn, err = pgx.Connect(ctx, running.URL)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close(ctx) }()
	if err := audit.Install(ctx, conn); err != nil {
		return 0, err
	}
	for _, login := range []string{"gateway_1", "initializer_1", "runner_1", "runner_2", "reaper_1"} {
		service, _, _ := strings.Cut(login, "_")
		role := "lockstep_" + strings.Replace(service, "gateway", "api_gateway", 1)
		_, err := conn.Exec(ctx, fmt.Sprintf("CREATE ROLE %[1]s LOGIN; GRANT %[2]s TO %[1]s; INSERT INTO chaos.logins VALUES ('%[1]s', '%[3]s')", login, role, service))
		if err != nil {
			return 0, err
		}
	}
	return m.Run(), nil
}

const (
	repository = "https://github.com/octo/hello"
	sha        = "0123456789012345678901234567890123456789"
	printed    = "printed\x00\xff"
)

// story is a system's life in one database, told by hand. It begins innocent: one run of two jobs, b needs a; both succeeded,
// a at the second attempt, since runner_1 died with the first.
type story struct {
	t       *testing.T
	history audit.History
}

func newStory(t *testing.T) *story {
	t.Helper()
	s := &story{t: t}
	s.do("BEGIN; TRUNCATE ci_runs, ci_workers, chaos.moves, chaos.workers, chaos.writes RESTART IDENTITY CASCADE")
	t.Cleanup(func() {
		if _, err := conn.Exec(context.Background(), "ROLLBACK"); err != nil {
			t.Error(err)
		}
	})
	s.history = audit.History{
		Plans: map[string]audit.Plan{repository: {Status: "success", Jobs: map[string]audit.PlannedJob{
			"a": {Status: "success", Prints: []byte(printed)}, "b": {Status: "success"},
		}}},
		Requests: []audit.Request{{Key: "key", Principal: "admin", Repository: repository, Answers: []audit.Answer{{At: time.Now(), Code: 201, Run: 1}}}},
		Logs:     map[int64][]byte{1: []byte("the log: " + printed + "!")},
	}
	return s
}

// as does something as a process would, under its login and its service's role.
func (s *story) as(login, sql string) {
	s.t.Helper()
	service, _, _ := strings.Cut(login, "_")
	role := "lockstep_" + strings.Replace(service, "gateway", "api_gateway", 1)
	s.do("SET SESSION AUTHORIZATION " + login + "; SET ROLE " + role + ";" + sql + "; RESET ROLE; RESET SESSION AUTHORIZATION")
}

// force does what the database would refuse: only the trail looks on.
func (s *story) force(login, sql string) {
	s.t.Helper()
	s.do("ALTER TABLE ci_jobs DISABLE TRIGGER ci_jobs_stamp; ALTER TABLE ci_jobs DISABLE TRIGGER ci_jobs_follow; ALTER TABLE ci_jobs DISABLE TRIGGER ci_jobs_arrive;" +
		"ALTER TABLE ci_jobs DROP CONSTRAINT IF EXISTS held_jobs_have_a_claim; GRANT ALL ON ALL TABLES IN SCHEMA public TO " + login)
	s.do("SET SESSION AUTHORIZATION " + login + ";" + sql + "; RESET SESSION AUTHORIZATION")
}

func (s *story) do(sql string) {
	s.t.Helper()
	if _, err := conn.Exec(s.t.Context(), sql); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
}

const (
	claimA   = "UPDATE ci_jobs SET status = 'running', worker_id = %d, deadline_at = now() + '1 h' WHERE id = 1"
	finishA  = "UPDATE ci_jobs SET status = 'success' WHERE id = 1"
	register = "INSERT INTO ci_workers (stage, name, slots, lease) VALUES ('%s', '', 1, '1 s')"
)

func chunk(attempt, number int, offset, bytes int64) string {
	return fmt.Sprintf("INSERT INTO ci_logs VALUES (current_date, 1, %d, %d, %d, %d, 0, '\\x%02x')", attempt, number, offset, bytes, number)
}

func step(attempt int) string {
	return fmt.Sprintf("INSERT INTO ci_steps (job_id, attempt, number, name, status) VALUES (1, %d, 1, 'work', 'success')", attempt)
}

// planned: run 1 is accepted, its jobs a (1) and b (2) are planned, and runner_1 and runner_2 are workers 2 and 3.
func (s *story) planned() *story {
	s.t.Helper()
	s.as("gateway_1", "WITH r AS (INSERT INTO ci_runs (repository, event, head_sha, principal, idempotency_key) VALUES ('"+repository+"', 'manual', '"+sha+"', 'admin', 'key') RETURNING id) "+
		"INSERT INTO ci_jobs (run_id, repository, turn) SELECT id, '"+repository+"', 1 FROM r")
	s.as("initializer_1", fmt.Sprintf(register, "initializer"))
	s.as("initializer_1", "UPDATE ci_jobs SET status = 'initializing', worker_id = 1, deadline_at = now() + '1 h' WHERE id = 1")
	s.as("initializer_1", "UPDATE ci_jobs SET workflow = 'ci', job_key = 'a', name = 'a', admit_to = 'initialized' WHERE id = 1;"+
		"INSERT INTO ci_jobs (run_id, repository, status, workflow, job_key, name, needs) VALUES (1, '"+repository+"', 'blocked', 'ci', 'b', 'b', '{a}');"+
		"UPDATE ci_jobs SET status = 'initialized' WHERE id = 1")
	s.as("runner_1", fmt.Sprintf(register, "runner"))
	s.as("runner_2", fmt.Sprintf(register, "runner"))
	return s
}

// died: runner_1 held a, and died.
func (s *story) died() *story {
	s.t.Helper()
	s.planned()
	s.as("runner_1", fmt.Sprintf(claimA, 2))
	s.as("runner_1", chunk(2, 0, 0, 5))
	s.do("UPDATE ci_workers SET beat_at = beat_at - interval '2 s' WHERE id = 2")
	s.as("reaper_1", "UPDATE ci_workers SET dead_at = clock_timestamp() WHERE id = 2")
	s.as("reaper_1", "UPDATE ci_jobs SET status = 'initialized', crashes = crashes + 1 WHERE id = 1")
	return s
}

// taken: runner_2 has it now.
func (s *story) taken() *story {
	s.t.Helper()
	s.died()
	s.as("runner_2", fmt.Sprintf(claimA, 3))
	return s
}

// ended: the whole innocent story.
func (s *story) ended() *story {
	s.t.Helper()
	s.taken()
	s.as("runner_2", chunk(3, 0, 0, 5))
	s.as("runner_2", chunk(3, 1, 5, 5))
	s.as("runner_2", step(3))
	s.as("runner_2", finishA)
	s.as("runner_2", "UPDATE ci_jobs SET status = 'running', worker_id = 3, deadline_at = now() + '1 h' WHERE id = 2")
	s.as("runner_2", "UPDATE ci_jobs SET status = 'success' WHERE id = 2")
	for _, state := range []string{"pending", "success"} {
		s.told("lockstep/a", state, 1)
		s.told("lockstep/b", state, 1)
	}
	return s
}

func (s *story) told(context, state string, run int64) {
	s.history.Calls = append(s.history.Calls, audit.Call{At: time.Now(), SHA: sha, Context: context, State: state, Run: run})
}

func (s *story) audit() *audit.Report {
	s.t.Helper()
	report, err := audit.Audit(s.t.Context(), conn, s.history)
	if err != nil {
		s.t.Fatal(err)
	}
	return report
}

func TestAnInnocentStoryIsFoundInnocent(t *testing.T) {
	s := newStory(t).ended()
	now := time.Now()
	s.history.Processes = []audit.Process{{Login: "runner_1", Killed: true, Ended: now}, {Login: "runner_2", Told: now, Ended: now}}
	s.history.Reads = []audit.Read{{Job: 1, Attempt: 3, Seen: []byte("see"), Final: []byte("seen")}}
	report := s.audit()
	for _, f := range report.Findings {
		t.Errorf("found: %s: run %d job %d: %s", f.Kind, f.Run, f.Job, f.Text)
	}
	var text strings.Builder
	report.Print(&text)
	if !strings.Contains(text.String(), "nothing found") {
		t.Errorf("the report says:\n%s", text.String())
	}
}

// Each promise is broken by hand, in a story that is innocent but for that.
func TestEachBrokenPromiseIsFound(t *testing.T) {
	for _, test := range []struct {
		name string
		kind audit.Kind
		do   func(s *story)
	}{
		{"an accepted run is gone", audit.RunLost, func(s *story) {
			s.ended()
			s.history.Requests = append(s.history.Requests, audit.Request{Key: "other", Principal: "admin", Answers: []audit.Answer{{Code: 201, Run: 7}}})
		}},
		{"a key names another's run", audit.RunLost, func(s *story) {
			s.ended()
			s.history.Requests[0].Key = "other"
		}},
		{"one key was answered with two runs", audit.RunDoubled, func(s *story) {
			s.ended()
			s.do("ALTER TABLE ci_runs DROP CONSTRAINT one_run_for_one_key; INSERT INTO ci_runs (repository, event, principal, idempotency_key) VALUES ('" + repository + "', 'manual', 'admin', 'key')")
			s.history.Requests[0].Answers = append(s.history.Requests[0].Answers, audit.Answer{Code: 201, Run: 2})
		}},
		{"nobody asked for it", audit.RunInvented, func(s *story) {
			s.ended()
			s.do("INSERT INTO ci_runs (repository, event, principal, idempotency_key) VALUES ('" + repository + "', 'manual', 'admin', 'mine')")
		}},
		{"a good request was refused", audit.RunRefused, func(s *story) {
			s.ended()
			s.history.Requests[0].Answers = append(s.history.Requests[0].Answers, audit.Answer{Code: 409})
		}},
		{"no answer at all", audit.RunUnanswered, func(s *story) {
			s.ended()
			s.history.Requests = append(s.history.Requests, audit.Request{Key: "other", Principal: "admin"})
		}},
		{"a run goes on for ever", audit.RunStuck, func(s *story) { s.taken() }},
		{"a run ended, and a job of it did not", audit.RunStuck, func(s *story) {
			s.ended()
			s.history.Requests[0].Cancelled = true
			s.force("runner_2", "UPDATE ci_jobs SET status = 'blocked' WHERE id = 2")
		}},
		{"success became failure", audit.RunWrong, func(s *story) {
			s.taken()
			s.as("runner_2", "UPDATE ci_jobs SET status = 'failure' WHERE id = 1")
		}},
		{"a job of the plan is missing", audit.RunWrong, func(s *story) {
			s.ended()
			s.history.Plans[repository].Jobs["c"] = audit.PlannedJob{Status: "success"}
		}},
		{"a final state was left", audit.IllegalMove, func(s *story) {
			s.ended()
			s.force("runner_2", "UPDATE ci_jobs SET status = 'initialized' WHERE id = 2")
		}},
		{"a state was skipped", audit.IllegalMove, func(s *story) {
			s.planned()
			s.force("runner_1", "UPDATE ci_jobs SET status = 'success' WHERE id = 1")
		}},
		{"held without a token", audit.IllegalMove, func(s *story) {
			s.planned()
			s.force("runner_1", "UPDATE ci_jobs SET status = 'running', attempt = 2, worker_id = 2 WHERE id = 1")
		}},
		{"the row was changed behind everybody's back", audit.IllegalMove, func(s *story) {
			s.ended()
			s.do("SET session_replication_role = replica; UPDATE ci_jobs SET status = 'new' WHERE id = 2; RESET session_replication_role")
		}},
		{"claimed while another holds it", audit.HeldTwice, func(s *story) {
			s.taken()
			s.force("runner_1", "UPDATE ci_jobs SET claim_token = gen_random_uuid(), attempt = 4, worker_id = 2 WHERE id = 1")
		}},
		{"a token given twice", audit.HeldTwice, func(s *story) {
			s.died()
			s.force("runner_2", "UPDATE ci_jobs SET status = 'running', claim_token = ended_token, attempt = 3, worker_id = 3 WHERE id = 1")
		}},
		{"an attempt that does not rise", audit.HeldTwice, func(s *story) {
			s.died()
			s.force("runner_2", "UPDATE ci_jobs SET status = 'running', claim_token = gen_random_uuid(), worker_id = 3 WHERE id = 1")
		}},
		{"claimed in another's name", audit.HeldTwice, func(s *story) {
			s.died()
			s.as("runner_1", fmt.Sprintf(claimA, 3))
		}},
		{"a claim ended twice", audit.MovedTwice, func(s *story) {
			s.ended()
			s.do("INSERT INTO ci_attempts SELECT 1, 9, stage, worker_id, claim_token, claimable_at, claimed_at, ended_at, outcome FROM ci_attempts WHERE job_id = 1 AND attempt = 3")
		}},
		{"an attempt of nobody", audit.MovedTwice, func(s *story) {
			s.ended()
			s.do("INSERT INTO ci_attempts SELECT 1, 9, stage, worker_id, gen_random_uuid(), claimable_at, claimed_at, ended_at, outcome FROM ci_attempts WHERE job_id = 1 AND attempt = 3")
		}},
		{"an end that was not written down", audit.MovedTwice, func(s *story) {
			s.ended()
			s.do("DELETE FROM ci_attempts WHERE job_id = 1 AND attempt = 3")
		}},
		{"a zombie's finish", audit.StaleWrite, func(s *story) {
			s.taken()
			s.as("runner_1", finishA)
		}},
		{"a step of another's attempt", audit.StaleWrite, func(s *story) {
			s.taken()
			s.as("runner_1", step(3))
		}},
		{"a log of another's attempt", audit.StaleWrite, func(s *story) {
			s.taken()
			s.as("runner_1", chunk(3, 0, 0, 5))
		}},
		{"a late row of one's own attempt", audit.StaleWrite, func(s *story) {
			s.taken()
			s.as("runner_1", step(2))
			s.do("UPDATE chaos.writes SET late = 3 WHERE what = 'step'") // nothing is committed here
		}},
		{"a zombie's plan", audit.StaleWrite, func(s *story) {
			s.planned()
			s.as("initializer_1", "INSERT INTO ci_jobs (run_id, repository, status, workflow, job_key, name) VALUES (1, '"+repository+"', 'blocked', 'ci', 'c', 'c')")
		}},
		{"taken from a worker that is not dead", audit.LivingReaped, func(s *story) {
			s.planned()
			s.as("runner_1", fmt.Sprintf(claimA, 2))
			s.as("reaper_1", "UPDATE ci_jobs SET status = 'initialized' WHERE id = 1")
		}},
		{"marked dead just after its beat", audit.LivingReaped, func(s *story) {
			s.planned()
			s.as("runner_1", fmt.Sprintf(claimA, 2))
			s.as("reaper_1", "UPDATE ci_workers SET dead_at = clock_timestamp() WHERE id = 2")
			s.as("reaper_1", "UPDATE ci_jobs SET status = 'initialized' WHERE id = 1")
		}},
		{"a dependent before its need", audit.EarlyStart, func(s *story) {
			s.taken()
			s.force("runner_2", "UPDATE ci_jobs SET status = 'initialized' WHERE id = 2; UPDATE ci_jobs SET status = 'running', claim_token = gen_random_uuid(), attempt = 1, worker_id = 3 WHERE id = 2")
		}},
		{"a claim of a cancelled run", audit.CancelIgnored, func(s *story) {
			s.planned()
			s.history.Requests[0].Cancelled, s.history.Requests[0].CancelledAt = true, time.Now().Add(-time.Minute)
			s.as("runner_1", fmt.Sprintf(claimA, 2))
		}},
		{"a chunk is gone", audit.LogLost, func(s *story) {
			s.ended()
			s.do("DELETE FROM ci_logs WHERE attempt = 3 AND seq = 1")
		}},
		{"a chunk is another", audit.LogLost, func(s *story) {
			s.ended()
			s.do("ALTER TABLE ci_logs DISABLE TRIGGER chaos_note_log; UPDATE ci_logs SET data = 'x' WHERE attempt = 3 AND seq = 1")
		}},
		{"a hole between chunks", audit.LogLost, func(s *story) {
			s.ended()
			s.do("UPDATE ci_logs SET byte_offset = 6 WHERE attempt = 3 AND seq = 1")
		}},
		{"the API serves other bytes", audit.LogLost, func(s *story) {
			s.ended()
			s.history.Logs[1] = []byte("the log: printed\x00\xfe!")
		}},
		{"the API serves them twice", audit.LogLost, func(s *story) {
			s.ended()
			s.history.Logs[1] = []byte(printed + printed)
		}},
		{"a client saw what is there no more", audit.LogLost, func(s *story) {
			s.ended()
			s.history.Reads = []audit.Read{{Job: 1, Attempt: 3, Seen: []byte("seen"), Final: []byte("see")}}
		}},
		{"a rollout cost a failure", audit.StopCosts, func(s *story) {
			s.planned()
			s.as("runner_1", fmt.Sprintf(claimA, 2))
			s.history.Processes = []audit.Process{{Login: "runner_1", Told: time.Now(), Ended: time.Now()}}
			s.as("runner_1", "UPDATE ci_jobs SET status = 'initialized', failures = failures + 1 WHERE id = 1")
		}},
		{"a service went by itself", audit.ProcessEnded, func(s *story) {
			s.ended()
			s.history.Processes = []audit.Process{{Login: "runner_1", Ended: time.Now()}}
		}},
		{"a service ended in disorder", audit.ProcessEnded, func(s *story) {
			s.ended()
			s.history.Processes = []audit.Process{{Login: "runner_1", Told: time.Now(), Ended: time.Now(), Code: 2}}
		}},
		{"GitHub was never told the end", audit.GitHubWrong, func(s *story) {
			s.ended()
			s.history.Calls = s.history.Calls[:3]
		}},
		{"GitHub was told of an older run last", audit.GitHubBackward, func(s *story) {
			s.ended()
			s.told("lockstep/a", "success", 0)
		}},
		{"GitHub was told of the middle after the end", audit.GitHubBackward, func(s *story) {
			s.ended()
			s.told("lockstep/a", "pending", 1)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newStory(t)
			test.do(s)
			report := s.audit()
			if !slices.ContainsFunc(report.Findings, func(f audit.Finding) bool { return f.Kind == test.kind }) {
				t.Errorf("not found: %s; found: %+v", test.kind, report.Findings)
			}
			var text strings.Builder
			report.Print(&text)
			if !strings.Contains(text.String(), "FOUND: "+string(test.kind)) {
				t.Errorf("the report does not say so:\n%s", text.String())
			}
		})
	}
}
