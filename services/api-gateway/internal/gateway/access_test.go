package gateway_test

import (
	"cmp"
	"net/http"
	"strings"
	"testing"

	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/gateway"
)

func TestOnlyWhoMayDoes(t *testing.T) {
	t.Parallel()
	const nobody, wrong, bearer = "", "Bearer another-token-of-the-tests", "Bearer " + token
	basic := basicAuth(token)
	closed := start(t)
	open := start(t, func(o *gateway.Options) { o.AnonymousRead = true })
	created := map[*server]run{closed: closed.create(), open: open.create()}
	const read, write = "read", "write"
	tests := []struct {
		method, path, kind string
		page               bool
	}{
		{"GET", "/", read, true},
		{"GET", "/metrics", read, false},
		{"GET", "/run/{run}", read, true},
		{"GET", "/queue", read, true},
		{"GET", "/api/v1/runs", read, false},
		{"GET", "/api/v1/runs/{run}", read, false},
		{"GET", "/api/v1/jobs/{job}/log", read, false},
		{"GET", "/api/v1/watch?run={run}", read, false},
		{"POST", "/api/v1/runs", write, false},
		{"POST", "/api/v1/runs/{run}/rerun", write, false},
		{"POST", "/api/v1/runs/{run}/cancel", write, false},
	}
	for _, test := range tests {
		for _, s := range []*server{closed, open} {
			path := strings.NewReplacer("{run}", created[s].ID, "{job}", created[s].Jobs[0].ID).Replace(test.path)
			for _, who := range []string{nobody, wrong, basic, bearer} {
				may := who == bearer || test.kind == read && s == open && who == nobody
				a := s.send(test.method, path, "", "Authorization", who)
				if a.status == http.StatusSeeOther && test.page && who == nobody && !may {
					continue
				}
				if refused := a.status == http.StatusUnauthorized; refused == may {
					t.Errorf("%s %s by %q (anonymous reading: %t): %d", test.method, test.path, who, s == open, a.status)
				}
				if a.status != http.StatusUnauthorized {
					continue
				}
				challenges := strings.Join(a.header.Values("WWW-Authenticate"), ", ")
				if p := a.problem(t); p.Code != "unauthorized" || !strings.Contains(challenges, "Bearer") || strings.Contains(challenges, "Basic") {
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
		"/healthz": "ok", "/readyz": "ok", "/static/style.css": "--page", "/static/run.js": "import", "/static/icons.svg": "symbol",
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
	s := start(t, func(o *gateway.Options) { o.PublicURL = "https://ci.example.com" })
	plain := start(t)
	run := s.create()
	const kept, keptByOne = "no-cache", "private, no-cache"
	for name, test := range map[string]struct {
		method, path, body string
		header             []string
		status             int
		kept               string // what may be kept; empty: nothing
	}{
		"page":               {"GET", "/run/" + run.ID, "", nil, 200, ""},
		"page that is none":  {"GET", "/run/999", "", nil, 404, ""},
		"API":                {"GET", "/api/v1/runs", "", nil, 200, keptByOne},
		"API, unchanged":     {"GET", "/api/v1/runs/" + run.ID, "", []string{"If-None-Match", "*"}, 304, keptByOne},
		"API, written":       {"POST", "/api/v1/runs/" + run.ID + "/rerun", "", nil, 201, ""},
		"log":                {"GET", "/api/v1/jobs/" + run.Jobs[0].ID + "/log", "", nil, 200, ""},
		"refused":            {"GET", "/api/v1/runs", "", []string{"Authorization", ""}, 401, ""},
		"no route":           {"GET", "/none", "", nil, 404, ""},
		"no method":          {"DELETE", "/api/v1/runs", "", nil, 405, ""},
		"static":             {"GET", "/static/run.js", "", nil, 200, kept},
		"health":             {"GET", "/healthz", "", nil, 200, ""},
		"readiness":          {"GET", "/readyz", "", nil, 200, ""},
		"metrics":            {"GET", "/metrics", "", nil, 200, ""},
		"OpenAPI":            {"GET", "/api/v1/openapi.json", "", nil, 200, kept},
		"RPC":                {"POST", "/lockstep.v1.RunService/ListRuns", "{}", nil, 200, ""},
		"RPC, refused":       {"POST", "/lockstep.v1.RunService/ListRuns", "{}", []string{"Authorization", ""}, 401, ""},
		"GraphQL":            {"POST", "/graphql", `{"query":"{__typename}"}`, nil, 200, ""},
		"GraphQL schema":     {"GET", "/graphql", "", nil, 200, kept},
		"webhook, unsigned":  {"POST", "/webhooks/github", "{}", []string{"Authorization", ""}, 401, ""},
		"no WebSocket":       {"GET", "/api/v1/watch", "", nil, 426, ""},
		"what is not served": {"GET", "/?token=x", "", nil, 400, ""},
	} {
		for _, server := range []*server{s, plain} {
			if server == plain && strings.Contains(test.path, "/"+run.ID) {
				continue
			}
			a := server.send(test.method, test.path, test.body, test.header...)
			policy := a.header.Get("Content-Security-Policy")
			if server == s && a.status != test.status || !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") || !strings.Contains(policy, "frame-ancestors 'none'") {
				t.Errorf("%s: %d, Content-Security-Policy: %s", name, a.status, policy)
			}
			secure := ""
			if server == s {
				secure = "max-age=31536000"
			}
			for field, want := range map[string]string{
				"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin",
				"Cross-Origin-Resource-Policy": "same-origin", "Strict-Transport-Security": secure, "Cache-Control": cmp.Or(test.kept, "no-store"),
			} {
				if got := strings.Join(a.header.Values(field), " and "); got != want {
					t.Errorf("%s: %s: %q, want %q", name, field, got, want)
				}
			}
			if !strings.Contains(a.header.Get("Permissions-Policy"), "camera=()") {
				t.Errorf("%s: Permissions-Policy: %s", name, a.header.Get("Permissions-Policy"))
			}
		}
	}
}

func TestARedirectIsHardenedToo(t *testing.T) {
	t.Parallel()
	s := start(t)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"//run/1", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	answer, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusTemporaryRedirect || answer.Header.Get("Location") != "/run/1" ||
		!strings.Contains(answer.Header.Get("Content-Security-Policy"), "default-src 'none'") || answer.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%d %v", answer.StatusCode, answer.Header)
	}
}

func basicAuth(password string) string {
	request, _ := http.NewRequest(http.MethodGet, "/", nil)
	request.SetBasicAuth("anybody", password)
	return request.Header.Get("Authorization")
}
