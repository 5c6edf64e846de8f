package gateway_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/auth"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/gateway"
	limits "github.com/lockstep-ci/lockstep/services/api-gateway/internal/limit"
)

func limited(options limits.Options) func(*gateway.Options) {
	return func(o *gateway.Options) {
		options.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		o.Limits = options
	}
}

// exhaust repeats a request until it is refused, and returns how often it was not.
func (s *server) exhaust(headers ...string) int {
	s.t.Helper()
	for n := range 1000 {
		a := s.send("GET", "/api/v1/workers", "", headers...)
		if a.status != http.StatusTooManyRequests {
			continue
		}
		if p := a.problem(s.t); p.Code != "rate_limited" || a.header.Get("Retry-After") != "1" {
			s.t.Fatalf("refused with %v %+v", a.header, p)
		}
		return n
	}
	s.t.Fatal("a thousand requests are not too many")
	return 0
}

func TestATokenIsServedSoOften(t *testing.T) {
	t.Parallel()
	s := start(t, limited(limits.Options{Token: 1}))
	one, _ := s.issue(auth.Prefix+"one", "read", nil)
	other, _ := s.issue(auth.Prefix+"other", "read", nil)
	// From whatever address: what is counted is the token.
	if n := s.exhaust("Authorization", one, "X-Forwarded-For", "192.0.2.1"); n < 10 {
		t.Errorf("%d requests were too many", n)
	}
	for _, headers := range [][]string{{"Authorization", one, "X-Forwarded-For", "192.0.2.2"}, {"Authorization", other}, {}} {
		a := s.send("GET", "/api/v1/workers", "", headers...)
		if want := map[bool]int{true: 429, false: 200}[len(headers) == 4]; a.status != want {
			t.Errorf("%v: %d, want %d", headers, a.status, want)
		}
	}
	for path, want := range map[string]string{
		"/graphql": `"code":"rate_limited"`, "/lockstep.v1.QueueService/ListWorkers": `"code":"resource_exhausted"`,
	} {
		a := s.send("POST", path, `{}`, "Authorization", one)
		if a.status != http.StatusTooManyRequests || !strings.Contains(a.body, want) || a.header.Get("Retry-After") != "1" {
			t.Errorf("%s: %d %v %s", path, a.status, a.header, a.body)
		}
	}
	for _, path := range []string{"/healthz", "/readyz", "/static/run.js", "/api/v1/openapi.json"} {
		if a := s.send("GET", path, "", "Authorization", one); a.status != http.StatusOK {
			t.Errorf("%s is limited: %d", path, a.status)
		}
	}
	if metrics := s.send("GET", "/metrics", "").body; strings.Contains(metrics, `lockstep_requests_limited_total{kind="token"} 0`) ||
		!strings.Contains(metrics, `lockstep_requests_limited_total{kind="failed"} 0`) {
		t.Error("refused requests are not counted")
	}
}

func TestAnAddressWithoutATokenIsServedSoOften(t *testing.T) {
	t.Parallel()
	s := start(t, limited(limits.Options{Anonymous: 1}), func(o *gateway.Options) { o.AnonymousRead = true })
	if n := s.exhaust("Authorization", "", "X-Forwarded-For", "192.0.2.1, 2001:db8:1:2::7"); n < 10 {
		t.Errorf("%d requests were too many", n)
	}
	for from, want := range map[string]int{"192.0.2.1, 2001:db8:1:2:3::": 429, "2001:db8:1:3::7": 200, "2001:db8:1:2::7, 192.0.2.1": 200} {
		if a := s.send("GET", "/api/v1/workers", "", "Authorization", "", "X-Forwarded-For", from); a.status != want {
			t.Errorf("from %s: %d, want %d", from, a.status, want)
		}
	}
	if a := s.send("GET", "/api/v1/workers", "", "X-Forwarded-For", "2001:db8:1:2::7"); a.status != http.StatusOK {
		t.Errorf("with a token from the same address: %d", a.status)
	}
}

func TestWhoIsWrongTooOftenIsNotLookedAt(t *testing.T) {
	t.Parallel()
	s := start(t, limited(limits.Options{Failed: 1}))
	const here, there = "192.0.2.1", "192.0.2.2"
	known, id := s.issue(auth.Prefix+"known", "read", nil)
	fresh, _ := s.issue(auth.Prefix+"fresh", "read", nil)
	status := func(bearer, from string) int {
		return s.send("GET", "/api/v1/workers", "", "Authorization", bearer, "X-Forwarded-For", from).status
	}
	if got := status(known, here); got != http.StatusOK {
		t.Fatalf("a right token: %d", got)
	}
	wrong := func(i int) string { return fmt.Sprintf("Bearer %s%d", auth.Prefix, i) }
	refused, tries := 0, 0
	for ; refused == 0 && tries < 1000; tries++ {
		switch got := status(wrong(tries), here); got {
		case http.StatusUnauthorized:
		case http.StatusTooManyRequests:
			refused = got
		default:
			t.Fatalf("a wrong token: %d", got)
		}
	}
	if refused == 0 || tries <= 10 {
		t.Fatalf("refused after %d tries", tries)
	}
	for name, test := range map[string]struct {
		bearer, from string
		want         int
	}{
		"what was right before": {known, here, 200},
		"what was not yet":      {fresh, here, 429},
		"the admin's":           {"Bearer " + token, here, 429},
		"another address":       {fresh, there, 200},
		"wrong at another":      {wrong(1), there, 401},
	} {
		if got := status(test.bearer, test.from); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
	s.db.Exec(t, "UPDATE ci_tokens SET revoked_at = now() WHERE id = $1", id)
	if got := status(known, here); got != http.StatusUnauthorized && got != http.StatusTooManyRequests {
		t.Errorf("a revoked token: %d", got)
	}

	push := payload(t, "push")
	if a := s.deliver("push", "wrong", push, "X-Hub-Signature-256", sign("another", push), "X-Forwarded-For", here); a.status != http.StatusTooManyRequests {
		t.Errorf("a wrong signature: %d %s", a.status, a.body)
	}
	for i := range 20 { // it is fast, and from an address that is refused everything else
		if a := s.deliver("push", fmt.Sprint("right-", i), push, "X-Forwarded-For", here); a.status != http.StatusAccepted {
			t.Errorf("a right signature: %d %s", a.status, a.body)
		}
	}

	s.stop() // which reports what the next minute would
	told := jobstest.Value[string](t, s.db, `SELECT string_agg(principal || ' ' || subject || ' ' || ((details->>'times')::int > 10), ', ' ORDER BY subject)
		FROM audit_log WHERE action = 'credentials.refuse'`)
	if told != "anonymous address:192.0.2.1 true, anonymous address:192.0.2.2 false" {
		t.Errorf("the audit log has %s", told)
	}
}
