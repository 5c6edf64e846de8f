package notifier

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
	"github.com/lockstep-ci/lockstep/services/github-notifier/internal/githubtest"
)

const (
	repository = "https://github.com/acme/widgets"
	soon       = 20 * time.Second // far above what anything here takes; reached only by a test that fails
)

func TestAJobsEndIsACommitStatus(t *testing.T) {
	t.Parallel()
	db, server := jobstest.New(t), githubtest.New(t)
	start(t, db, server, Config{PublicURL: "https://ci.example.com/"})
	job := planJob(t, db, repository, "test")
	awaitNotified(t, db, "test")
	moveJob(t, db, job, "running", "")
	moveJob(t, db, job, "failure", "step 3 (go test): exit status 1\n\n"+strings.Repeat("more ", 100))
	awaitNotified(t, db, "test")

	calls := server.Calls()
	if len(calls) != 2 {
		t.Fatalf("GitHub was called %d times, want twice: %+v", len(calls), calls)
	}
	run := jobstest.Value[int64](t, db, "SELECT run_id FROM ci_jobs WHERE id = $1", job)
	for i, want := range []githubtest.Call{
		{State: "pending", Description: "waiting for a runner"},
		{State: "failure", Description: "step 3 (go test): exit status 1"},
	} {
		want.Path, want.Authorization, want.At = "/repos/acme/widgets/statuses/"+sha, "Bearer a-token", calls[i].At
		want.Context, want.TargetURL = "lockstep/ci / test", fmt.Sprintf("https://ci.example.com/run/%d", run)
		if calls[i] != want {
			t.Errorf("call %d: %+v, want %+v", i+1, calls[i], want)
		}
	}
}

func TestWithoutAPublicURLThereIsNoLink(t *testing.T) {
	t.Parallel()
	db, server := jobstest.New(t), githubtest.New(t)
	start(t, db, server, Config{})
	planJob(t, db, repository, "test")
	if call := server.Next(t); call.TargetURL != "" {
		t.Errorf("it links to %q", call.TargetURL)
	}
}

func TestAWakeIsEnough(t *testing.T) {
	t.Parallel()
	db, server := jobstest.New(t), githubtest.New(t)
	start(t, db, server, Config{Poll: time.Hour})
	planJob(t, db, repository, "first")                                       // seen at the latest by the look that follows the first LISTEN
	db.Exec(t, "SELECT pg_notify('ci_jobs_status_channel', '1:initialized')") // the trigger may be off
	awaitNotified(t, db, "first")
	planJob(t, db, repository, "second")
	db.Exec(t, "SELECT pg_notify('ci_jobs_status_channel', '2:initialized')")
	awaitNotified(t, db, "second")
}

func TestOnlyTheNewestVersionIsSent(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	db, server := jobstest.New(t), githubtest.New(t, githubtest.After(release, githubtest.Created))
	job := planJob(t, db, repository, "test")
	start(t, db, server, Config{Concurrency: 4})
	if call := server.Next(t); call.State != "pending" {
		t.Fatalf("first it said %q", call.State)
	}
	// While that call is in flight: the job ends, a second run of the commit begins and ends too.
	moveJob(t, db, job, "running", "")
	moveJob(t, db, job, "failure", "exit status 1")
	again := planJob(t, db, repository, "test")
	moveJob(t, db, again, "running", "")
	moveJob(t, db, again, "success", "")
	db.Await(t, soon, "SELECT version = 4 AND status = 'notifying' AND sent_version = 0 FROM ci_reports")
	close(release)
	awaitNotified(t, db, "test")
	if said := states(server); said != "pending success" {
		t.Errorf("GitHub was told %q", said)
	}
	if n := server.Together(); n != 1 {
		t.Errorf("%d calls for one context at once", n)
	}
}

func TestAnOutageIsSurvived(t *testing.T) {
	t.Parallel()
	db, server := jobstest.New(t), githubtest.New(t, githubtest.Status(500, ""), githubtest.Status(502, "bad gateway"))
	start(t, db, server, Config{})
	planJob(t, db, repository, "test")
	server.Next(t)
	db.Await(t, soon, "SELECT status = 'pending' AND attempt = 1 AND not_before > changed_at AND reason = 'GitHub answered 500' FROM ci_reports")
	awaitNotified(t, db, "test")
	calls := server.Calls()
	if len(calls) != 3 {
		t.Fatalf("GitHub was called %d times", len(calls))
	}
	for i, least := range []time.Duration{time.Second, 2 * time.Second} {
		if wait := calls[i+1].At.Sub(calls[i].At); wait < least {
			t.Errorf("try %d came %s after the one before, want at least %s", i+2, wait, least)
		}
	}
	db.Await(t, soon, "SELECT attempt = 3 AND reason = '' FROM ci_reports")
}

func TestSilenceIsTriedAgain(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]githubtest.Answer{"no answer": githubtest.Hang, "a broken answer": githubtest.Reset} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, server := jobstest.New(t), githubtest.New(t, answer)
			g := newGitHub(t, server, "a-token")
			g.answerWithin = 300 * time.Millisecond
			startWith(t, db, g, Config{})
			job := planJob(t, db, repository, "test")
			server.Next(t)
			// Not at once: what GitHub is still working on must not overtake the next call.
			db.Await(t, soon, "SELECT status = 'pending' AND not_before > clock_timestamp() + interval '3 seconds' AND reason LIKE 'no answer from GitHub: %' FROM ci_reports")
			moveJob(t, db, job, "running", "")
			moveJob(t, db, job, "success", "") // news do not shorten the wait
			if early := jobstest.Value[bool](t, db, "SELECT version <> 2 OR not_before <= clock_timestamp() FROM ci_reports"); early {
				t.Error("the new version does not wait")
			}
			db.Exec(t, "UPDATE ci_reports SET not_before = now()")
			awaitNotified(t, db, "test")
			if said := states(server); said != "pending success" {
				t.Errorf("GitHub was told %q", said)
			}
		})
	}
}

func TestALimitIsObeyedForEveryReport(t *testing.T) {
	t.Parallel()
	db, server := jobstest.New(t), githubtest.New(t, githubtest.Status(429, "", "Retry-After", "2"))
	planJob(t, db, repository, "first")
	planJob(t, db, repository, "second")
	start(t, db, server, Config{Concurrency: 1})
	first := server.Next(t)
	db.Await(t, soon, "SELECT bool_and(status = 'pending' AND not_before > now() AND reason LIKE '%rate limit%') FROM ci_reports")
	awaitNotified(t, db, "first", "second")
	for _, call := range server.Calls()[1:] {
		if wait := call.At.Sub(first.At); wait < 2*time.Second {
			t.Errorf("GitHub was called again after %s, it asked for 2s", wait)
		}
	}
}

func TestAWrongTokenKeepsReportsWaitingWithTheReason(t *testing.T) {
	t.Parallel()
	db, server := jobstest.New(t), githubtest.New(t, githubtest.Status(401, `{"message": "Bad credentials"}`))
	planJob(t, db, repository, "first")
	planJob(t, db, repository, "second")
	start(t, db, server, Config{Concurrency: 1})
	db.Await(t, soon, `SELECT bool_and(status = 'pending' AND not_before > now() + interval '2 minutes'
		AND reason = 'GitHub refuses the token, mend GITHUB_TOKEN: GitHub answered 401: Bad credentials') FROM ci_reports`)
	if n := len(server.Calls()); n != 1 {
		t.Errorf("GitHub was called %d times with a token that it refuses", n)
	}
}

func TestARefusedStatusIsSkippedAndTheNextOneTried(t *testing.T) {
	t.Parallel()
	db, server := jobstest.New(t), githubtest.New(t, githubtest.Status(422, `{"message": "Validation Failed", "errors": [{"message": "No commit found for SHA\u0000"}]}`))
	start(t, db, server, Config{})
	job := planJob(t, db, repository, "test")
	db.Await(t, soon, "SELECT status = 'skipped' AND sent_version = 0 AND reason = 'GitHub answered 422: Validation Failed; No commit found for SHA' FROM ci_reports")
	moveJob(t, db, job, "running", "")
	moveJob(t, db, job, "success", "")
	awaitNotified(t, db, "test")
	if said := states(server); said != "pending success" {
		t.Errorf("GitHub was told %q", said)
	}
}

func TestWithoutATokenReportsAreSkippedWithTheReason(t *testing.T) {
	t.Parallel()
	db, server := jobstest.New(t), githubtest.New(t)
	startWith(t, db, newGitHub(t, server, ""), Config{})
	planJob(t, db, repository, "test")
	db.Await(t, soon, "SELECT status = 'skipped' AND reason = 'GITHUB_TOKEN is not set' FROM ci_reports")
	if calls := server.Calls(); len(calls) != 0 {
		t.Errorf("GitHub was called: %+v", calls)
	}
}

func TestARepositoryElsewhereIsSkippedWithTheReason(t *testing.T) {
	t.Parallel()
	db, server := jobstest.New(t), githubtest.New(t)
	start(t, db, server, Config{})
	for i, elsewhere := range []string{"file:///srv/git/widgets", "https://gitlab.com/acme/widgets"} {
		planJob(t, db, elsewhere, fmt.Sprint("test ", i))
		db.Await(t, soon, "SELECT status = 'skipped' AND reason = 'not a repository on https://github.com/, which GITHUB_API_URL is for' FROM ci_reports WHERE repository = $1", elsewhere)
	}
	if calls := server.Calls(); len(calls) != 0 {
		t.Errorf("GitHub was called: %+v", calls)
	}
}

func TestTwoNotifiersNeverTellOneContextAtOnce(t *testing.T) {
	t.Parallel()
	const contexts, rounds = 6, 5
	answers := make([]githubtest.Answer, 300) // more than there are calls
	for i := range answers {
		answers[i] = func(w http.ResponseWriter, r *http.Request) {
			<-time.After(20 * time.Millisecond) // GitHub takes its time: calls that may overlap do
			if i%8 == 3 {
				w.WriteHeader(http.StatusBadGateway) // so that tries and news meet
				return
			}
			githubtest.Created(w, r)
		}
	}
	db, server := jobstest.New(t), githubtest.New(t, answers...)
	start(t, db, server, Config{Concurrency: 3, Poll: 20 * time.Millisecond})
	start(t, db, server, Config{Concurrency: 3, Poll: 20 * time.Millisecond})
	var news sync.WaitGroup
	for i := range contexts {
		news.Go(func() {
			name := fmt.Sprint("test ", i)
			for round := range rounds {
				job := planJob(t, db, repository, name)
				moveJob(t, db, job, "running", "")
				// The description numbers what is said of the context.
				moveJob(t, db, job, "failure", fmt.Sprintf("round %d", round))
			}
		})
	}
	news.Wait()
	db.Await(t, soon, "SELECT count(*) = $1 AND bool_and(status = 'notified' AND sent_version = version AND version = $2) FROM ci_reports", contexts, 2*rounds)
	if n := server.Together(); n != 1 {
		t.Errorf("%d calls for one context at once", n)
	}
	last := map[string]string{}
	for _, call := range server.Calls() {
		if call.State == "failure" {
			if call.Description < last[call.Context] {
				t.Errorf("%s: %q was said after %q", call.Context, call.Description, last[call.Context])
			}
			last[call.Context] = call.Description
		}
	}
	for context, said := range last {
		if want := fmt.Sprintf("round %d", rounds-1); said != want {
			t.Errorf("%s: the last word was %q, want %q", context, said, want)
		}
	}
	if len(last) != contexts {
		t.Errorf("%d contexts were told, want %d", len(last), contexts)
	}
}

func TestAReportThatNobodyFinishedIsToldAgain(t *testing.T) {
	t.Parallel()
	db, server := jobstest.New(t), githubtest.New(t)
	planJob(t, db, repository, "test")
	// Whoever held it died, before or after the call: who can tell.
	db.Exec(t, "UPDATE ci_reports SET status = 'notifying', claim_token = gen_random_uuid(), deadline_at = now() + interval '1 hour'")
	planJob(t, db, repository, "other")
	start(t, db, server, Config{})
	awaitNotified(t, db, "other") // it has looked, and left alone what somebody holds
	if status := jobstest.Value[string](t, db, "SELECT status FROM ci_reports WHERE context = 'lockstep/ci / test'"); status != "notifying" {
		t.Errorf("it is %s before its deadline", status)
	}
	db.Exec(t, "UPDATE ci_reports SET deadline_at = now() WHERE status = 'notifying'")
	awaitNotified(t, db, "test")
}

func TestACallThatCameTooLateIsNotMade(t *testing.T) {
	t.Parallel()
	db, server := jobstest.New(t), githubtest.New(t)
	planJob(t, db, repository, "test")
	n := New(db.Open(t, "github-notifier"), newGitHub(t, server, "a-token"), Config{Concurrency: 1, Poll: time.Second}, zaptest.NewLogger(t))
	reports, err := n.claim(t.Context(), 10)
	if err != nil || len(reports) != 1 {
		t.Fatalf("claimed %v: %v", reports, err)
	}
	reports[0].claimedAt = time.Now().Add(-sendWithin) // the process stood still
	if v := n.tell(t.Context(), reports[0]); v.outcome != pending {
		t.Errorf("%+v", v)
	}
	if calls := server.Calls(); len(calls) != 0 {
		t.Errorf("GitHub was called: %+v", calls)
	}
}

func TestStoppingFinishesTheCallInFlightAndBeginsNoOther(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	db, server := jobstest.New(t), githubtest.New(t, githubtest.After(release, githubtest.Created))
	planJob(t, db, repository, "first")
	ctx, cancel := context.WithCancel(t.Context())
	stopped := run(ctx, t, db, newGitHub(t, server, "a-token"), Config{Concurrency: 1})
	server.Next(t)
	planJob(t, db, repository, "second")
	cancel()
	close(release)
	stopped()
	said := jobstest.Value[string](t, db, "SELECT string_agg(status || ' ' || attempt, ', ' ORDER BY id) FROM ci_reports")
	if said != "notified 1, pending 0" {
		t.Errorf("the reports are %s", said)
	}
}

func TestStoppingGivesBackWhatIsNotBegun(t *testing.T) {
	t.Parallel()
	db, server := jobstest.New(t), githubtest.New(t)
	planJob(t, db, repository, "test")
	// A lock in the way of its claim: ctx ends while the claim is being made.
	tx, err := db.Pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	if _, err := tx.Exec(t.Context(), "LOCK TABLE ci_reports IN SHARE MODE"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	stopped := run(ctx, t, db, newGitHub(t, server, "a-token"), Config{Concurrency: 1})
	db.Await(t, soon, "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'ci_reports'::regclass AND NOT granted)")
	cancel()
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	stopped()
	if row := jobstest.Value[string](t, db, "SELECT format('%s %s %s', status, attempt, not_before <= now()) FROM ci_reports"); row != "pending 1 t" {
		t.Errorf("the report is %q: not claimed, or not given back", row)
	}
	if calls := server.Calls(); len(calls) != 0 {
		t.Errorf("GitHub was called: %+v", calls)
	}
}

// start runs a notifier with a token until the test ends.
func start(t *testing.T, db *jobstest.Database, server *githubtest.Server, config Config) {
	t.Helper()
	startWith(t, db, newGitHub(t, server, "a-token"), config)
}

func startWith(t *testing.T, db *jobstest.Database, github *GitHub, config Config) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	stopped := run(ctx, t, db, github, config)
	t.Cleanup(func() { cancel(); stopped() })
}

// run runs a notifier under its own role until ctx ends; stopped waits for its end.
func run(ctx context.Context, t *testing.T, db *jobstest.Database, github *GitHub, config Config) (stopped func()) {
	t.Helper()
	if config.Concurrency == 0 {
		config.Concurrency = 2
	}
	if config.Poll == 0 {
		config.Poll = 100 * time.Millisecond
	}
	n := New(db.Open(t, "github-notifier"), github, config, zaptest.NewLogger(t))
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	return func() {
		t.Helper()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("run: %v", err)
			}
		case <-time.After(soon):
			t.Error("the notifier did not stop")
		}
	}
}

// planJob makes a job that waits for a runner, in a run of its own; the database makes its report.
func planJob(t *testing.T, db *jobstest.Database, repository, name string) (job int64) {
	t.Helper()
	return jobstest.Value[int64](t, db, `
		WITH run AS (INSERT INTO ci_runs (repository, event, head_sha) VALUES ($1, 'push', $2) RETURNING id, repository)
		INSERT INTO ci_jobs (run_id, repository, status, workflow, job_key, name)
		SELECT id, repository, 'initialized', '.ci/workflows/ci.yaml', $3, 'ci / ' || $3 FROM run RETURNING id`, repository, sha, name)
}

func moveJob(t *testing.T, db *jobstest.Database, job int64, status, reason string) {
	t.Helper()
	db.Exec(t, "UPDATE ci_jobs SET status = $2, reason = $3 WHERE id = $1", job, status, reason)
}

// awaitNotified waits until GitHub knows the newest state of these jobs.
func awaitNotified(t *testing.T, db *jobstest.Database, names ...string) {
	t.Helper()
	for _, name := range names {
		db.Await(t, soon, "SELECT status = 'notified' AND sent_version = version AND claim_token IS NULL FROM ci_reports WHERE context = 'lockstep/ci / ' || $1", name)
	}
}

// states are what GitHub was told, in order.
func states(server *githubtest.Server) string {
	var said []string
	for _, call := range server.Calls() {
		said = append(said, call.State)
	}
	return strings.Join(said, " ")
}
