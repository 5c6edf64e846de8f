package gateway_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/gateway"
)

func TestOnlyWhoMayDoes(t *testing.T) {
	t.Parallel()
	const nobody, wrong, bearer, basic, wrongBasic = "", "Bearer another-token-of-the-tests", "Bearer " + token, "basic", "wrong basic"
	closed := start(t)
	open := start(t, func(o *gateway.Options) { o.AnonymousRead = true })
	created := map[*server]run{closed: closed.create(), open: open.create()}
	const read, write = "read", "write"
	tests := []struct {
		method, path, kind string
	}{
		{"GET", "/", read},
		{"GET", "/run/{run}", read},
		{"GET", "/queue", read},
		{"GET", "/api/v1/runs", read},
		{"GET", "/api/v1/runs/{run}", read},
		{"GET", "/api/v1/jobs/{job}/log", read},
		{"GET", "/api/v1/watch?run={run}", read},
		{"POST", "/api/v1/runs", write},
		{"POST", "/api/v1/runs/{run}/rerun", write},
		{"POST", "/api/v1/runs/{run}/cancel", write},
	}
	for _, test := range tests {
		for _, s := range []*server{closed, open} {
			path := strings.NewReplacer("{run}", created[s].ID, "{job}", created[s].Jobs[0].ID).Replace(test.path)
			for _, who := range []string{nobody, wrong, wrongBasic, basic, bearer} {
				may := who == bearer || test.kind == read && (s == open && who == nobody || who == basic)
				header := who
				switch who {
				case basic:
					header = basicAuth(token)
				case wrongBasic:
					header = basicAuth("another-token-of-the-tests")
				}
				a := s.send(test.method, path, "", "Authorization", header)
				if refused := a.status == http.StatusUnauthorized; refused == may {
					t.Errorf("%s %s by %q (anonymous reading: %t): %d", test.method, test.path, who, s == open, a.status)
				}
				if a.status != http.StatusUnauthorized {
					continue
				}
				challenges := strings.Join(a.header.Values("WWW-Authenticate"), ", ")
				if p := a.problem(t); p.Code != "unauthorized" || !strings.Contains(challenges, "Bearer") || strings.Contains(challenges, "Basic") != (test.kind == read) {
					t.Errorf("%s %s is refused with %s, %+v", test.method, test.path, challenges, p)
				}
			}
		}
	}
}

func TestOperatorAndBrowserNeedNoToken(t *testing.T) {
	t.Parallel()
	s := start(t)
	for path, want := range map[string]string{
		"/healthz": "ok", "/readyz": "ok", "/metrics": "go_goroutines", "/static/style.css": "--page", "/static/run.js": "import", "/static/icons.svg": "symbol",
	} {
		if a := s.send("GET", path, "", "Authorization", ""); a.status != http.StatusOK || !strings.Contains(a.body, want) {
			t.Errorf("%s: %d %.80s", path, a.status, a.body)
		}
	}
	a := s.send("GET", "/static/style.css", "")
	if b := s.send("GET", "/static/style.css", "", "If-None-Match", a.header.Get("ETag")); b.status != http.StatusNotModified {
		t.Errorf("what the browser has is sent again: %d", b.status)
	}
	for _, path := range []string{"/static/", "/static/../pages.go", "/static/none.css", "/favicon.ico"} {
		if a := s.send("GET", path, ""); a.status != http.StatusNotFound {
			t.Errorf("%s: %d", path, a.status)
		}
	}
}

func TestEveryAnswerIsHardened(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, path := range []string{"/", "/run/1", "/api/v1/runs", "/none", "/static/run.js", "/healthz"} {
		header := s.send("GET", path, "").header
		policy := header.Get("Content-Security-Policy")
		if !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") || !strings.Contains(policy, "frame-ancestors 'none'") ||
			header.Get("X-Content-Type-Options") != "nosniff" || header.Get("Referrer-Policy") != "no-referrer" {
			t.Errorf("%s: %v", path, header)
		}
	}
}

func basicAuth(password string) string {
	request, _ := http.NewRequest(http.MethodGet, "/", nil)
	request.SetBasicAuth("anybody", password)
	return request.Header.Get("Authorization")
}
