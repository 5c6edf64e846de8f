package gateway_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
)

func payload(t testing.TB, name string) string {
	t.Helper()
	content, err := os.ReadFile("../webhook/testdata/" + name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func TestDeliveryBecomesARun(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, event := range []string{"push", "pull_request"} {
		a := s.deliver(event, "delivery-of-"+event, payload(t, event))
		var got struct {
			RunID string `json:"run_id"`
		}
		decode(t, a.body, &got)
		if a.status != http.StatusAccepted || got.RunID == "" {
			t.Fatalf("%s: %d %s", event, a.status, a.body)
		}
		if r := s.get(got.RunID); r.Event != event || r.Repository != "https://github.com/owner/name" || len(r.Jobs) != 1 {
			t.Errorf("run of %s: %+v", event, r)
		}
	}
	trusted := jobstest.Value[int64](t, s.db, "SELECT count(*) FROM ci_runs WHERE trusted AND author = 'sender' AND principal = 'github'")
	number := jobstest.Value[int64](t, s.db, "SELECT count(*) FROM ci_runs WHERE pull_request = 5 AND ref = 'refs/pull/5/head'")
	if trusted != 2 || number != 1 {
		t.Errorf("%d runs as delivered, %d of the pull request", trusted, number)
	}
}

func TestDeliveryTenTimesAtOnceIsOneRun(t *testing.T) {
	t.Parallel()
	s := start(t)
	push := payload(t, "push")
	answers := make(chan string, 10)
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			a := s.deliver("push", "one-delivery", push)
			answers <- fmt.Sprint(a.status, a.body)
		})
	}
	all.Wait()
	close(answers)
	distinct := map[string]bool{}
	for a := range answers {
		distinct[a] = true
	}
	other := s.deliver("push", "one-delivery", strings.Replace(push, "say hello", "say goodbye", 1))
	distinct[fmt.Sprint(other.status, other.body)] = true
	if len(distinct) != 1 || s.count("ci_runs") != 1 || s.count("ci_jobs") != 1 {
		t.Errorf("answers %v, %d runs, %d jobs", distinct, s.count("ci_runs"), s.count("ci_jobs"))
	}
}

func TestIgnoredDeliverySaysWhy(t *testing.T) {
	t.Parallel()
	s := start(t)
	for event, want := range map[string]string{"ping": "ping: the webhook works", "issues": "event issues starts no run"} {
		a := s.deliver(event, "some-id", `{"zen":"calm"}`)
		if a.status != http.StatusAccepted || a.body != `{"ignored":"`+want+`"}`+"\n" {
			t.Errorf("%s: %d %s", event, a.status, a.body)
		}
	}
}

func TestDeliveryMayBeSignedWithEachSecretAndComeAsAForm(t *testing.T) {
	t.Parallel()
	s := start(t)
	push := payload(t, "push")
	old := s.deliver("push", "by-the-old-secret", push, "X-Hub-Signature-256", sign("an-older-secret-of-the-tests", push))
	form := url.Values{"payload": {push}}.Encode()
	asForm := s.deliver("push", "as-a-form", form, "Content-Type", "application/x-www-form-urlencoded")
	if old.status != http.StatusAccepted || asForm.status != http.StatusAccepted || s.count("ci_runs") != 2 {
		t.Errorf("by the old secret: %d %s; as a form: %d %s", old.status, old.body, asForm.status, asForm.body)
	}
}

func TestLargeDeliveriesDoNotHoldUpSmallOnes(t *testing.T) {
	t.Parallel()
	s := start(t)
	ctx, cancel := context.WithCancel(t.Context())
	var flood sync.WaitGroup
	began := make(chan struct{}, 8)
	for range 8 { // nobody knows them yet: they have no good signature, and their bodies do not end
		flood.Go(func() {
			body := &endless{ctx: ctx, began: began, left: 2 << 20}
			request, _ := http.NewRequestWithContext(ctx, "POST", s.url+"/webhooks/github", body)
			request.Header.Set("X-Hub-Signature-256", "sha256=none")
			if response, err := http.DefaultClient.Do(request); err == nil {
				_ = response.Body.Close()
			}
		})
	}
	for range 8 {
		<-began
	}
	a := s.deliver("push", "a-small-one", payload(t, "push"))
	cancel()
	flood.Wait()
	if a.status != http.StatusAccepted {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// endless gives its first bytes and then none until its context ends.
type endless struct {
	ctx   context.Context
	began chan<- struct{}
	left  int
}

func (e *endless) Read(p []byte) (int, error) {
	if e.left > 0 {
		n := min(len(p), e.left)
		copy(p, bytes.Repeat([]byte{' '}, n))
		e.left -= n
		return n, nil
	}
	select {
	case e.began <- struct{}{}:
	default:
	}
	<-e.ctx.Done()
	return 0, e.ctx.Err()
}
