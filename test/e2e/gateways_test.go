package e2e_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
)

// startGateway starts one more gateway at an address, and waits until it is ready.
func (s *system) startGateway(addr string) *process {
	s.t.Helper()
	s.addr = addr // what the test asks from now on, it asks this one
	s.start("api-gateway")
	return s.the("api-gateway")
}

// counting is a job that prints a line every 20 ms until it may end.
func (s *system) counting() map[string]string {
	return workflow(`
name: ci
on: push
jobs:
  count:
    runs-on: ubuntu-latest
    steps:
      - run: n=0; until [ -e ` + s.file("go") + ` ]; do n=$((n+1)); echo "line $n"; sleep 0.02; done; echo "counted to $n"
`)
}

// Rollouts and crashes of a gateway cost watchers a reconnect: what they see has no gap, and nothing comes twice.
func TestWatchersOfAGatewayThatGoesAreServedByAnother(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	first, second := s.addr, freeAddress(t)
	s.start()
	killed := s.the("api-gateway")
	repo := s.repository("octo/count", s.counting())
	id := s.push(repo)
	s.holder(id, "running")
	s.db.Await(t, 20*time.Second, "SELECT EXISTS (SELECT FROM ci_logs)")
	followers := s.followers(s.run(id), s.run(id).Jobs[0], first, second)
	wait := s.follow(followers)
	allHave := func(what string, have func(*follower) bool) {
		t.Helper()
		eventually(t, 20*time.Second, what, func() bool {
			for _, f := range followers {
				if !have(f) {
					return false
				}
			}
			return true
		})
	}
	allHave("everybody is told something", func(f *follower) bool { return f.told.Load() > 0 })
	stopped := s.startGateway(second)
	killed.kill(t)
	allHave("everybody is at the second gateway", func(f *follower) bool { return f.connections.Load() == 2 })
	s.startGateway(first)
	stopped.signal(t, syscall.SIGTERM)
	allHave("everybody is at the first gateway again", func(f *follower) bool { return f.connections.Load() == 3 })
	s.create("go")
	r := s.finish(id, "success")
	wait()

	log := s.log(r.Jobs[0])
	for _, f := range followers {
		if f.name != "Connect's WatchRun" && string(f.log) != log {
			t.Errorf("%s: %d bytes of a log of %d", f.name, len(f.log), len(log))
		}
		if f.name != "Connect's FollowLog" && !f.final() {
			t.Errorf("%s: the run's last state was not told: %v", f.name, f.statuses)
		}
	}
	<-stopped.exited // it ends in order, whoever watches
	if code := stopped.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("the gateway that was told to stop ended with %s", stopped.cmd.ProcessState)
	}
	for _, f := range followers { // and says so to everybody whose protocol has a word for it
		said := false
		for _, end := range f.ends {
			said = said || end != nil && strings.Contains(end.Error(), "unavailable") || websocket.CloseStatus(end) == websocket.StatusGoingAway
		}
		if f.name != "server-sent events" && !said {
			t.Errorf("%s: nobody said that the gateway stops: %v", f.name, f.ends)
		}
	}
}

// A gateway that is killed with requests in hand has told nobody of a run that is not there, and what is sent again to another
// one is the same run.
func TestWhatAKilledGatewayHasAcknowledgedIsInTheTable(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	second := freeAddress(t)
	s.start("api-gateway")
	first, victim := s.addr, s.the("api-gateway")
	s.startGateway(second)
	repo := s.repository("octo/hello", workflow(oneJob))
	payload := pushPayload(repo, "refs/heads/main", repo.head)

	// Requests with even numbers are deliveries, the others come by the API.
	ask := func(addr string, n int) (id string, accepted bool) {
		path, body, headers := "/webhooks/github", payload, map[string]string{
			"X-GitHub-Event": "push", "X-GitHub-Delivery": fmt.Sprintf("delivery-%d", n), "X-Hub-Signature-256": sign(payload, webhookSecret),
		}
		if n%2 == 1 {
			path, body, headers = "/api/v1/runs", encode(map[string]string{"repository": "https://github.com/octo/hello"}), map[string]string{
				"Authorization": "Bearer " + adminToken, "Idempotency-Key": fmt.Sprintf("key-%d", n),
			}
		}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+addr+path, bytes.NewReader(body))
		if err != nil {
			t.Error(err)
			return "", false
		}
		request.Header.Set("Content-Type", "application/json")
		for name, value := range headers {
			request.Header.Set(name, value)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return "", false // it is being killed
		}
		defer func() { _ = response.Body.Close() }()
		var answer struct {
			ID    string `json:"id"`
			RunID string `json:"run_id"`
		}
		if response.StatusCode/100 != 2 {
			t.Errorf("request %d was answered with %s", n, response.Status)
			return "", false
		}
		err = json.NewDecoder(response.Body).Decode(&answer)
		return answer.ID + answer.RunID, err == nil // the whole answer has arrived
	}

	const requests, senders = 400, 16
	var next, acknowledged atomic.Int64
	var told [requests]string
	var all sync.WaitGroup
	for range senders {
		all.Go(func() {
			for n := next.Add(1) - 1; n < requests; n = next.Add(1) - 1 {
				id, accepted := ask(first, int(n))
				if !accepted {
					return
				}
				told[n] = id
				if acknowledged.Add(1) == requests/4 {
					victim.kill(t)
				}
			}
		})
	}
	all.Wait()
	sent := int(min(next.Load(), requests))
	if sent == requests {
		t.Error("the gateway was killed when all was done")
	}
	for n := range sent {
		again, accepted := ask(second, n)
		if !accepted || told[n] != "" && told[n] != again {
			t.Errorf("request %d was run %q, and sent again it is run %q", n, told[n], again)
		}
		if told[n] == "" {
			continue
		}
		if !jobstest.Value[bool](t, s.db, "SELECT EXISTS (SELECT FROM ci_runs WHERE id = $1::text::bigint)", told[n]) {
			t.Errorf("run %s was acknowledged, and is not there", told[n])
		}
	}
	if runs := jobstest.Value[int](t, s.db, "SELECT count(*)::integer FROM ci_runs"); runs != sent {
		t.Errorf("%d runs of %d requests", runs, sent)
	}
}
