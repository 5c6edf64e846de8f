package e2e_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
)

// What is stopped for longer than its lease has lost its jobs, and does not know it when it goes on: a machine that was
// suspended, a disk that hung. Every write that it then tries must be refused.

func TestAStoppedRunnerWritesNothingAfterItsLease(t *testing.T) {
	s := newSystemWithShortLease(t)
	s.start()
	s.start("runner")
	id := s.push(s.stubborn("octo/stubborn"))
	stopped := s.holder(id, "running")
	s.lives("step")
	s.lives("daemon.1")

	since := s.now()
	stopped.freeze(t)
	r := s.finish(id, "success")
	s.takenOverWithin(id, since)
	before := s.rows(id)
	log := s.log(s.job(r, "ci / test"))

	stopped.thaw(t)
	s.lost(stopped)
	s.gone("step", 5*time.Second)
	s.gone("daemon.1", 5*time.Second)
	s.unchanged(id, before)
	if after := s.log(s.job(s.run(id), "ci / test")); after != log || strings.Contains(after, "tick") {
		t.Errorf("the log was\n%s\nand is now\n%s", log, after)
	}
}

func TestAStoppedInitializerPlansNothingAfterItsLease(t *testing.T) {
	s := newSystemWithShortLease(t)
	s.start()
	s.start("initializer")
	letGo := s.blockSources()
	id := s.push(s.repository("octo/hello", workflow(oneJob)))
	stopped := s.holder(id, "initializing")
	s.waitingForSources(1)

	since := s.now()
	stopped.freeze(t)
	s.db.Await(t, 20*time.Second, "SELECT status = 'initializing' AND attempt = 2 FROM ci_jobs WHERE run_id = $1", id)
	letGo()
	s.finish(id, "success")
	s.takenOverWithin(id, since)
	before := s.rows(id)

	stopped.thaw(t)
	s.lost(stopped)
	s.unchanged(id, before)
}

func TestAStoppedNotifierReportsNothingAfterItsLease(t *testing.T) {
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
      - run: until [ -e `+s.file("go")+` ]; do sleep 0.05; done
`))
	s.github.hold()
	id := s.push(repo)
	eventually(t, 20*time.Second, "GitHub hears a status", func() bool { return len(s.github.of(repo.head, "lockstep/ci / wait")) > 0 })
	stopped := s.the("github-notifier")
	stopped.freeze(t)
	s.github.letGo() // its answer waits in the stopped process's socket
	s.expireReports()
	s.start("github-notifier")
	s.create("go")
	s.finish(id, "success")
	s.db.Await(t, 20*time.Second, "SELECT status = 'notified' AND state = 'success' FROM ci_reports")
	s.github.await(repo.head, "lockstep/ci / wait", "success")
	const report = "SELECT to_jsonb(r)::text FROM ci_reports r"
	before := jobstest.Value[string](t, s.db, report)

	stopped.thaw(t)
	eventually(t, 20*time.Second, "the notifier counts a lost report", func() bool {
		return stopped.metric(t, `lockstep_reports_total{outcome="lost"}`) >= 1
	})
	if after := jobstest.Value[string](t, s.db, report); after != before {
		t.Errorf("a late write changed the report. Before:\n%s\nafter:\n%s", before, after)
	}
	s.github.await(repo.head, "lockstep/ci / wait", "success") // still the last word
}

// A reaper that was stopped saw nobody's silence but its own.
func TestAStoppedReaperKillsNobodyWhenItGoesOn(t *testing.T) {
	s := newSystemWithShortLease(t)
	s.start()
	repo := s.repository("octo/slow", workflow(`
name: ci
on: push
jobs:
  wait:
    runs-on: ubuntu-latest
    steps:
      - run: until [ -e `+s.file("go")+` ]; do sleep 0.05; done
`))
	id := s.push(repo)
	s.holder(id, "running")
	reaper := s.the("reaper")

	since := s.now()
	reaper.freeze(t)
	s.db.Await(t, 20*time.Second, "SELECT beat_at > $1::timestamptz + lease FROM ci_workers WHERE stage = 'runner'", since)
	reaper.thaw(t)
	// A worker that never beats: once it is marked, the reaper has been watching for longer than a second.
	s.db.Exec(t, "INSERT INTO ci_workers (stage, name, slots, lease) VALUES ('runner', 'bait:0', 1, '1 second')")
	s.db.Await(t, 20*time.Second, "SELECT dead_at IS NOT NULL FROM ci_workers WHERE name = 'bait:0'")
	if dead := jobstest.Value[int](t, s.db, "SELECT count(*)::integer FROM ci_workers WHERE dead_at IS NOT NULL AND name <> 'bait:0'"); dead != 0 {
		t.Errorf("the reaper marked %d living workers", dead)
	}
	s.create("go")
	if r := s.finish(id, "success"); r.Jobs[0].Attempt != 2 {
		t.Errorf("the job ended at attempt %d, want 2: nobody was to take it over", r.Jobs[0].Attempt)
	}
}

func TestAStoppedGatewayAnswersWhenItGoesOn(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.start()
	repo := s.repository("octo/hello", workflow(oneJob))
	first := s.push(repo)
	gateway := s.the("api-gateway")
	gateway.freeze(t)
	payload, delivery := pushPayload(repo, "refs/heads/main", repo.head), newUUID()
	answers := make(chan delivered, 2)
	for range 2 { // GitHub gave up on the first and sent it again
		go func() {
			_, answer := s.deliver("push", delivery, payload)
			answers <- answer
		}()
	}
	s.github.await(repo.head, "lockstep/ci / test", "success") // the others go on
	gateway.thaw(t)

	one, two := <-answers, <-answers
	if one.RunID == "" || one.RunID != two.RunID || one.RunID == first {
		t.Errorf("the delivery is runs %q and %q, want one, and not %s", one.RunID, two.RunID, first)
	}
	s.finish(first, "success")
	s.finish(one.RunID, "success")
	s.ask(http.MethodGet, "/readyz", nil, http.StatusOK, nil)
}

// lost waits until a process has counted a claim that it lost.
func (s *system) lost(p *process) {
	s.t.Helper()
	eventually(s.t, 20*time.Second, p.service+" counts a lost claim", func() bool {
		return p.metric(s.t, "lockstep_claims_lost_total") >= 1
	})
}
