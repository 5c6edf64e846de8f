package e2e_test

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
)

// newSystemWithShortLease lets a test see a takeover soon. The bound that is tested is lease + 2 s, whatever the lease.
func newSystemWithShortLease(t *testing.T) *system {
	t.Helper()
	if testing.Short() {
		t.Skip("waits for a lease")
	}
	t.Parallel()
	s := newSystem(t)
	s.lease = 3 * time.Second
	return s
}

// stubborn is a repository whose job, at its first attempt, leaves a daemon behind that nobody can ask to go (out of the
// session, orphaned, deaf to signals) and goes on for ever; at its second it leaves another one and ends.
func (s *system) stubborn(name string) *repository {
	s.t.Helper()
	return s.repository(name, workflow(`
name: ci
on: push
jobs:
  test:
    runs-on: ubuntu-latest
    steps:
      - name: Work
        run: |
          if mkdir "$AT/first" 2>/dev/null; then n=1; else n=2; fi
          ./daemon.sh "$AT/daemon.$n"
          until [ -e "$AT/daemon.$n" ]; do sleep 0.02; done
          echo "attempt $n works"
          [ $n = 2 ] || exec ./forever.sh "$AT/step"
      - name: Rest
        run: echo rested
    env:
      AT: `+s.file(".")+`
`, map[string]string{
		"daemon.sh": `#!/bin/sh
(setsid sh -c 'trap "" TERM HUP INT QUIT; : >"$0"; while :; do sleep 1; done' "$1" </dev/null >/dev/null 2>&1 &)
`,
		"forever.sh": `#!/bin/sh
while :; do echo tick; sleep 0.05; done
`,
	}))
}

func TestAKilledRunnersJobFinishesElsewhereAndNothingOfItsStepLives(t *testing.T) {
	s := newSystemWithShortLease(t)
	s.start()
	s.start("runner")
	id := s.push(s.stubborn("octo/stubborn"))
	victim := s.holder(id, "running")
	s.lives("step")
	s.lives("daemon.1")

	killed := s.now()
	victim.kill(t)

	r := s.finish(id, "success")
	s.takenOverWithin(id, killed)
	s.gone("step", time.Second) // it was to be gone before another could start
	s.gone("daemon.1", time.Second)
	s.gone("daemon.2", time.Second) // that of the job that ended
	j := s.job(r, "ci / test")
	if j.Attempt != 3 || len(j.Steps) != 2 || j.Steps[1].Status != "success" {
		t.Errorf("the job is %s, want attempt 3 with two steps that succeeded", encode(j))
	}
	if log := s.log(j); !strings.Contains(log, "attempt 2 works") || strings.Contains(log, "tick") {
		t.Errorf("the log is not the last attempt's:\n%s", log)
	}
	cause := jobstest.Value[string](t, s.db, "SELECT cause FROM ci_attempts WHERE outcome = 'initialized' AND stage = 'running'")
	if !strings.Contains(cause, "died") {
		t.Errorf("the lost attempt's cause is %q, want that its worker died", cause)
	}
	s.github.await(r.HeadSHA, "lockstep/ci / test", "success")
}

// blockSources keeps initializers in mid-job: they wait for a lock on the table that they put the tree into.
func (s *system) blockSources() (letGo func()) {
	s.t.Helper()
	conn, err := pgx.Connect(s.t.Context(), s.db.URL)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close(s.t.Context()) })
	if _, err := conn.Exec(s.t.Context(), "BEGIN; LOCK TABLE ci_sources IN ACCESS EXCLUSIVE MODE"); err != nil {
		s.t.Fatal(err)
	}
	return func() {
		s.t.Helper()
		if _, err := conn.Exec(s.t.Context(), "COMMIT"); err != nil {
			s.t.Fatal(err)
		}
	}
}

// waitingForSources waits until a service's connection stands before that lock.
func (s *system) waitingForSources(n int) {
	s.t.Helper()
	s.db.Await(s.t, 20*time.Second, `
		SELECT count(DISTINCT pid) >= $1 FROM pg_locks WHERE NOT granted AND relation = 'ci_sources'::regclass`, n)
}

func TestAKilledInitializersJobIsPlannedByAnother(t *testing.T) {
	s := newSystemWithShortLease(t)
	s.start()
	s.start("initializer")
	letGo := s.blockSources()
	id := s.push(s.repository("octo/hello", workflow(oneJob)))
	victim := s.holder(id, "initializing")
	s.waitingForSources(1)

	killed := s.now()
	victim.kill(t)
	s.db.Await(t, 20*time.Second, "SELECT status = 'initializing' AND attempt = 2 FROM ci_jobs WHERE run_id = $1", id)
	letGo()

	r := s.finish(id, "success")
	s.takenOverWithin(id, killed)
	if len(r.Jobs) != 1 {
		t.Errorf("the run has jobs %s, want one", encode(r.Jobs))
	}
}

func TestAKilledNotifiersReportIsSentByTheNext(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.start()
	repo := s.repository("octo/hello", workflow(oneJob))
	s.github.hold() // it hears the status; nobody hears its answer
	s.finish(s.push(repo), "success")
	eventually(t, 20*time.Second, "GitHub hears a status", func() bool { return len(s.github.of(repo.head, "lockstep/ci / test")) > 0 })
	s.the("github-notifier").kill(t)
	s.github.letGo()
	s.start("github-notifier")

	if held := jobstest.Value[string](t, s.db, "SELECT status FROM ci_reports"); held != "notifying" {
		t.Fatalf("the report is %s, want it held by the killed notifier", held)
	}
	s.expireReports()
	s.db.Await(t, 20*time.Second, "SELECT status = 'notified' AND sent_version = version FROM ci_reports")
	s.github.await(repo.head, "lockstep/ci / test", "success")
}

// expireReports ends the time for which notifiers hold reports: a minute of it would be long for a test.
func (s *system) expireReports() {
	s.t.Helper()
	s.db.Exec(s.t, "UPDATE ci_reports SET deadline_at = clock_timestamp() WHERE status = 'notifying'")
}

func TestAKilledReaperIsMissedOnlyUntilTheNextOne(t *testing.T) {
	s := newSystemWithShortLease(t)
	s.start()
	s.start("runner")
	id := s.push(s.stubborn("octo/stubborn"))
	victim := s.holder(id, "running")
	s.lives("step")

	s.the("reaper").kill(t)
	victim.kill(t)
	started := s.now()
	s.start("reaper")

	s.finish(id, "success")
	s.takenOverWithin(id, started)
	s.gone("step", time.Second)
}

func TestAKilledGatewayLosesNothing(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.start()
	repo := s.repository("octo/slow", workflow(`
name: ci
on: push
jobs:
  wait:
    runs-on: ubuntu-latest
    steps:
      - run: until [ -e `+s.file("go")+` ]; do sleep 0.05; done; echo gone on
`))
	payload, delivery := pushPayload(repo, "refs/heads/main", repo.head), newUUID()
	_, first := s.deliver("push", delivery, payload)
	s.holder(first.RunID, "running")

	s.the("api-gateway").kill(t)
	s.create("go")
	s.github.await(repo.head, "lockstep/ci / wait", "success") // the others do not need it
	s.start("api-gateway")

	if _, again := s.deliver("push", delivery, payload); again.RunID != first.RunID {
		t.Errorf("GitHub's redelivery is run %s, want %s", again.RunID, first.RunID)
	}
	r := s.finish(first.RunID, "success")
	if log := s.log(r.Jobs[0]); !strings.Contains(log, "gone on") {
		t.Errorf("the log says otherwise:\n%s", log)
	}
	if !strings.Contains(s.page(r.ID), repo.head) {
		t.Error("the page does not show the run")
	}
}

// Stopping is what rollouts do all day: the job goes back at once, and no failure is counted.
func TestARunnerThatIsToldToStopGivesItsJobBack(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.more["runner"] = []string{"GRACE=100ms"}
	s.start()
	id := s.push(s.stubborn("octo/stubborn"))
	victim := s.holder(id, "running")
	s.lives("step")
	s.lives("daemon.1")

	victim.signal(t, syscall.SIGTERM)
	select {
	case <-victim.exited:
	case <-time.After(20 * time.Second):
		t.Fatal("the runner did not end within 20 s of SIGTERM")
	}
	s.gone("step", time.Second)
	s.gone("daemon.1", time.Second)
	s.db.Await(t, time.Second, "SELECT status = 'initialized' AND failures = 0 FROM ci_jobs WHERE run_id = $1", id)
	s.start("runner")
	s.finish(id, "success")
}
