package e2e_test

import (
	"bytes"
	"net/http"
	"sync"
	"testing"

	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
)

const oneJob = `
name: ci
on: [push, pull_request]
jobs:
  test:
    runs-on: ubuntu-latest
    steps:
      - run: echo "tested for $GITHUB_EVENT_NAME"
`

func TestTheSameDeliveryTenTimesIsOneRun(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.start("api-gateway")
	repo := s.repository("octo/hello", workflow(oneJob))
	payload, delivery := pushPayload(repo, "refs/heads/main", repo.head), newUUID()

	var senders sync.WaitGroup
	ids := make([]string, 10)
	for i := range ids {
		senders.Go(func() {
			code, answer := s.deliver("push", delivery, payload)
			if code != http.StatusAccepted {
				t.Errorf("delivery %d was answered with %d %+v, want 202", i, code, answer)
			}
			ids[i] = answer.RunID
		})
	}
	senders.Wait()
	for _, id := range ids {
		if id == "" || id != ids[0] {
			t.Errorf("the deliveries are runs %q, want one run", ids)
			break
		}
	}
	if runs := jobstest.Value[int](t, s.db, "SELECT count(*)::integer FROM ci_runs"); runs != 1 {
		t.Errorf("there are %d runs, want 1", runs)
	}
	s.start("initializer", "runner", "reaper")
	s.finish(ids[0], "success")
}

func TestADeliveryThatGitHubDidNotSignChangesNothing(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.start("api-gateway")
	repo := s.repository("octo/hello", workflow(oneJob))
	payload := pushPayload(repo, "refs/heads/main", repo.head)
	other := bytes.Replace(payload, []byte("octo/hello"), []byte("octo/other"), 1)
	for name, signature := range map[string]string{
		"none":                  "",
		"of another secret":     sign(payload, "another secret altogether"),
		"of another payload":    sign(other, webhookSecret),
		"of an empty secret":    sign(payload, ""),
		"without its algorithm": sign(payload, webhookSecret)[len("sha256="):],
		"that is no hex":        "sha256=zz",
	} {
		if code, answer := s.deliverSigned("push", newUUID(), payload, signature); code != http.StatusUnauthorized || answer.Code == "" {
			t.Errorf("a signature %s is answered with %d %+v, want 401 and a problem", name, code, answer)
		}
	}
	if runs := jobstest.Value[int](t, s.db, "SELECT count(*)::integer FROM ci_runs"); runs != 0 {
		t.Errorf("there are %d runs, want none", runs)
	}
}

func TestEventsThatAskForNothingAreIgnored(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.start("api-gateway")
	repo := s.repository("octo/hello", workflow(oneJob))
	for name, delivery := range map[string]struct {
		event   string
		payload []byte
	}{
		"a ping":                {"ping", []byte(`{"zen":"Speak like a human.","hook_id":1}`)},
		"an issue":              {"issues", []byte(`{"action":"opened"}`)},
		"a deleted branch":      {"push", pushPayload(repo, "refs/heads/main", noCommit)},
		"a closed pull request": {"pull_request", bytes.Replace(pullRequestPayload(repo, 1, repo.head, repo.head), []byte(`"action":"opened"`), []byte(`"action":"closed"`), 1)},
	} {
		if code, answer := s.deliver(delivery.event, newUUID(), delivery.payload); code != http.StatusAccepted || answer.Ignored == "" || answer.RunID != "" {
			t.Errorf("%s is answered with %d %+v, want 202 and why it is ignored", name, code, answer)
		}
	}
	if runs := jobstest.Value[int](t, s.db, "SELECT count(*)::integer FROM ci_runs"); runs != 0 {
		t.Errorf("there are %d runs, want none", runs)
	}
}

func TestAPullRequestRunsItsHead(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.start()
	repo := s.repository("octo/hello", workflow(oneJob))
	base := repo.head
	repo.git("checkout", "--quiet", "-b", "trick")
	head := repo.commit(map[string]string{"trick.txt": "new"})
	repo.git("checkout", "--quiet", "main")

	code, answer := s.deliver("pull_request", newUUID(), pullRequestPayload(repo, 1, head, base))
	if code != http.StatusAccepted || answer.RunID == "" {
		t.Fatalf("the pull request was answered with %d %+v, want 202 and a run", code, answer)
	}
	r := s.finish(answer.RunID, "success")
	if r.Event != "pull_request" || r.HeadSHA != head {
		t.Errorf("the run is of %s %s, want pull_request %s", r.Event, r.HeadSHA, head)
	}
	s.github.await(head, "lockstep/ci / test", "success")
}
