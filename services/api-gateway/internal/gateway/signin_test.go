package gateway_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/auth"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/gateway"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/signin"
)

const form = "application/x-www-form-urlencoded"

// submit posts a form of the pages' own, as a browser does.
func (s *server) submit(path string, values url.Values, headers ...string) answer {
	s.t.Helper()
	return s.send("POST", path, values.Encode(), append([]string{"Authorization", "", "Content-Type", form, "Sec-Fetch-Site", "same-origin"}, headers...)...)
}

// cookie is what an answer sets under a name: as it is sent back, and as it was set.
func (a answer) cookie(t *testing.T, name string) (sent string, set *http.Cookie) {
	t.Helper()
	for _, cookie := range (&http.Response{Header: a.header}).Cookies() {
		if cookie.Name == name {
			return cookie.Name + "=" + cookie.Value, cookie
		}
	}
	t.Fatalf("%d sets no cookie %s: %v %s", a.status, name, a.header, a.body)
	return "", nil
}

// signIn returns the cookie of a session.
func (s *server) signIn(secret string) string {
	s.t.Helper()
	a := s.submit("/login", url.Values{"token": {secret}})
	if a.status != http.StatusSeeOther {
		s.t.Fatalf("sign in: %d %s", a.status, a.body)
	}
	sent, _ := a.cookie(s.t, "lockstep")
	return sent
}

// with sends a cookie and no token, from a page of the gateway's own.
func with(cookie string, more ...string) []string {
	return append([]string{"Authorization", "", "Cookie", cookie, "Sec-Fetch-Site", "same-origin"}, more...)
}

func TestWhoOpensAPageSignsInAndComesBackToIt(t *testing.T) {
	t.Parallel()
	s := start(t)
	created := s.create()
	for path, next := range map[string]string{"/": "%2F", "/queue": "%2Fqueue", "/run/" + created.ID + "?a=b": "%2Frun%2F" + created.ID + "%3Fa%3Db"} {
		a := s.send("GET", path, "", "Authorization", "")
		if a.status != http.StatusSeeOther || a.header.Get("Location") != "/login?next="+next {
			t.Errorf("%s: %d %s", path, a.status, a.header.Get("Location"))
		}
	}
	page := s.send("GET", "/login?next=/run/"+created.ID, "", "Authorization", "")
	if page.status != http.StatusOK || !strings.Contains(page.body, `name="next" value="/run/`+created.ID+`"`) || strings.Contains(page.body, "GitHub") ||
		!strings.Contains(page.header.Get("Content-Security-Policy"), "form-action 'self'") {
		t.Errorf("the page: %d %v %s", page.status, page.header, page.body)
	}
	a := s.submit("/login", url.Values{"token": {token}, "next": {"/run/" + created.ID}})
	if a.status != http.StatusSeeOther || a.header.Get("Location") != "/run/"+created.ID {
		t.Fatalf("signing in: %d %v", a.status, a.header)
	}
	sent, set := a.cookie(t, "lockstep")
	if !set.HttpOnly || set.Secure || set.SameSite != http.SameSiteLaxMode || set.Path != "/" || set.Domain != "" || set.MaxAge != 12*60*60 {
		t.Errorf("the cookie is set as %+v", set)
	}
	if raw, err := base64.RawURLEncoding.DecodeString(set.Value); err != nil || len(raw) != 32 {
		t.Errorf("the cookie has %d bytes, %v", len(raw), err)
	}
	run := s.send("GET", "/run/"+created.ID, "", with(sent)...)
	if run.status != http.StatusOK || !strings.Contains(run.body, "Signed in as <bdi>admin</bdi>") || !strings.Contains(run.body, `action="/logout"`) {
		t.Errorf("the page behind it: %d %s", run.status, run.body)
	}
	out := s.submit("/logout", nil, "Cookie", sent)
	if _, gone := out.cookie(t, "lockstep"); out.status != http.StatusSeeOther || gone.MaxAge >= 0 || gone.Value != "" {
		t.Errorf("signing out: %d %+v", out.status, gone)
	}
	if a := s.send("GET", "/api/v1/runs", "", with(sent)...); a.status != http.StatusUnauthorized || a.header.Get("WWW-Authenticate") != `Bearer realm="Lockstep"` {
		t.Errorf("after signing out: %d %v", a.status, a.header)
	}
	if got := jobstest.Value[string](t, s.db, "SELECT string_agg(action || ' by ' || principal, ', ' ORDER BY id) FROM audit_log WHERE action LIKE 'session.%'"); got != "session.begin by session of admin, session.end by session of admin" {
		t.Errorf("the audit log has %s", got)
	}
}

func TestAWrongTokenBeginsNoSession(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, wrong := range []string{"", "another-token-of-the-tests", auth.Prefix + "none", hostile} {
		a := s.submit("/login", url.Values{"token": {wrong}, "next": {"/queue"}})
		if a.status != http.StatusUnauthorized || a.header.Get("Set-Cookie") != "" || !strings.Contains(a.body, "the token is wrong") ||
			!strings.Contains(a.body, `value="/queue"`) || wrong != "" && strings.Contains(a.body, wrong) {
			t.Errorf("%q: %d %v %s", wrong, a.status, a.header, a.body)
		}
	}
	for _, body := range []string{"token=%zz", "token=a&token=b", "token=a&extra=b", "token=" + strings.Repeat("a", 10_000)} {
		a := s.send("POST", "/login", body, "Authorization", "", "Content-Type", form, "Sec-Fetch-Site", "same-origin")
		if a.status != http.StatusBadRequest && a.status != http.StatusRequestEntityTooLarge {
			t.Errorf("%.30s: %d %s", body, a.status, a.body)
		}
	}
	if n := s.count("ci_sessions"); n != 0 {
		t.Errorf("%d sessions", n)
	}
}

func TestNobodyIsSentToAnotherSite(t *testing.T) {
	t.Parallel()
	s := start(t)
	for next, want := range map[string]string{
		"/run/1?a=b#job-2": "/run/1?a=b#job-2", "/": "/", "": "/", "/%252Fevil": "/%252Fevil",
		"//evil.example": "/", "/\\evil.example": "/", "\\\\evil.example": "/", "https://evil.example/": "/", "https:evil.example": "/", "javascript:alert(1)": "/",
		"evil.example": "/", "run/1": "/", "/\t/evil.example": "/", "/\n/evil.example": "/", " //evil.example": "/", "/%2F/evil.example": "/", "/%5Cevil.example": "/",
		"/run\r\nSet-Cookie: a=b": "/", "///evil.example": "/", "?next=/": "/", "/%zz": "/", "/" + strings.Repeat("a", 2000): "/", "http://[::1": "/",
	} {
		a := s.submit("/login", url.Values{"token": {token}, "next": {next}})
		if got := a.header.Get("Location"); a.status != http.StatusSeeOther || got != want {
			t.Errorf("next %q leads to %q (%d), want %q", next, got, a.status, want)
		}
	}
}

func TestACookieBehindHTTPSIsOfThisHostAlone(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *gateway.Options) { o.PublicURL = "https://ci.example.com" })
	a := s.submit("/login", url.Values{"token": {token}})
	sent, set := a.cookie(t, "__Host-lockstep")
	if !set.HttpOnly || !set.Secure || set.SameSite != http.SameSiteLaxMode || set.Path != "/" || set.Domain != "" {
		t.Errorf("the cookie is set as %+v", set)
	}
	if a := s.send("GET", "/", "", with(sent)...); a.status != http.StatusOK {
		t.Errorf("with it: %d", a.status)
	}
	if a := s.send("GET", "/api/v1/runs", "", with(strings.TrimPrefix(sent, "__Host-"))...); a.status != http.StatusUnauthorized {
		t.Errorf("without its prefix: %d", a.status)
	}
}

func TestASessionMayWhatItsTokenMayAndEndsWithIt(t *testing.T) {
	t.Parallel()
	s := start(t)
	own := s.create()
	for i, end := range []string{
		"UPDATE ci_tokens SET revoked_at = now() WHERE id = $1", "UPDATE ci_tokens SET expires_at = now() WHERE id = $1", "DELETE FROM ci_tokens WHERE id = $1",
		"UPDATE ci_sessions SET expires_at = now() WHERE token_id = $1", "UPDATE ci_sessions SET ended_at = now() WHERE token_id = $1",
	} {
		secret := fmt.Sprint(auth.Prefix, "of-a-session-", i)
		_, id := s.issue(secret, "read", nil)
		cookie := s.signIn(secret)
		if a := s.send("GET", "/api/v1/runs", "", with(cookie)...); a.status != http.StatusOK {
			t.Errorf("it reads: %d %s", a.status, a.body)
		}
		if a := s.send("POST", "/api/v1/runs/"+own.ID+"/cancel", "", with(cookie)...); a.status != http.StatusForbidden || a.problem(t).Code != "forbidden" {
			t.Errorf("it writes: %d %s", a.status, a.body)
		}
		s.db.Exec(t, end, id)
		if a := s.send("GET", "/api/v1/runs", "", with(cookie)...); a.status != http.StatusUnauthorized {
			t.Errorf("after %s: %d", end, a.status)
		}
		if a := s.send("GET", "/", "", with(cookie)...); a.status != http.StatusSeeOther {
			t.Errorf("a page after %s: %d", end, a.status)
		}
	}
	_, id := s.issue(auth.Prefix+"short", "run", "https://example.com/owner/other")
	s.db.Exec(t, "UPDATE ci_tokens SET expires_at = now() + interval '1 hour' WHERE id = $1", id)
	cookie := s.signIn(auth.Prefix + "short")
	if a := s.send("GET", "/run/"+own.ID, "", with(cookie)...); a.status != http.StatusNotFound {
		t.Errorf("a run of another repository: %d", a.status)
	}
	if !jobstest.Value[bool](t, s.db, "SELECT s.expires_at = t.expires_at FROM ci_sessions s JOIN ci_tokens t ON t.id = s.token_id WHERE t.id = $1", id) {
		t.Error("the session outlives its token")
	}
	if a := s.send("POST", "/api/v1/runs", `{"repository":"https://example.com/owner/other"}`, with(cookie)...); a.status != http.StatusCreated {
		t.Errorf("it writes in its repository: %d %s", a.status, a.body)
	}
	if got := jobstest.Value[string](t, s.db, "SELECT principal FROM ci_runs ORDER BY id DESC LIMIT 1"); got != fmt.Sprint("session of token:", id) {
		t.Errorf("the run is of %q", got)
	}
}

func TestASessionOfTheAdminEndsWithItsToken(t *testing.T) {
	t.Parallel()
	s := start(t)
	cookie := s.signIn(token)
	url, _ := serve(t, s.db.Open(t, "api-gateway"), func(o *gateway.Options) { o.AdminToken = "a-newer-token-of-the-tests" })
	other := &server{t: t, db: s.db, url: url}
	if a := other.send("GET", "/api/v1/runs", "", with(cookie)...); a.status != http.StatusUnauthorized {
		t.Errorf("with another ADMIN_TOKEN: %d", a.status)
	}
	value := strings.TrimPrefix(cookie, "lockstep=")
	sum := sha256.Sum256([]byte(value))
	if n := jobstest.Value[int](t, s.db, "SELECT count(*) FROM ci_sessions WHERE hash IN ($1, $2)", sum[:], []byte(value)); n != 0 {
		t.Error("what is stored does not depend on ADMIN_TOKEN")
	}
}

func TestAStreamEndsWithItsSession(t *testing.T) {
	t.Parallel()
	s := start(t)
	run := s.create()
	for _, secret := range []string{token, func() string { s.issue(auth.Prefix+"streams", "read", nil); return auth.Prefix + "streams" }()} {
		cookie := s.signIn(secret)
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		conn, _, err := websocket.Dial(ctx, s.url+"/api/v1/watch?run="+run.ID, &websocket.DialOptions{HTTPHeader: http.Header{"Cookie": {cookie}}}) //nolint:bodyclose // a WebSocket has none
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.CloseNow() }()
		if _, _, err := conn.Read(ctx); err != nil {
			t.Fatalf("the run as it is: %v", err)
		}
		s.submit("/logout", nil, "Cookie", cookie)
		if _, told, err := conn.Read(ctx); err != nil || !strings.Contains(string(told), `"code":"unauthorized"`) {
			t.Errorf("the socket is told %s, %v", told, err)
		}
	}
}

func TestACookieServesThePagesOfThisSiteAlone(t *testing.T) {
	t.Parallel()
	s := start(t)
	cookie := s.signIn(token)
	run := s.create()
	const evil = "https://evil.example"
	writes := []struct {
		what    string
		headers []string
		may     bool
	}{
		{"our page", []string{"Sec-Fetch-Site", "same-origin", "Origin", s.url}, true},
		{"our page, an old browser", []string{"Origin", s.url}, true},
		{"our page, no Origin", []string{"Sec-Fetch-Site", "same-origin"}, true},
		{"another site", []string{"Sec-Fetch-Site", "cross-site", "Origin", evil}, false},
		{"another site, no Origin", []string{"Sec-Fetch-Site", "cross-site"}, false},
		{"another site, an old browser", []string{"Origin", evil}, false},
		{"another host of this site", []string{"Sec-Fetch-Site", "same-site", "Origin", "https://other.example.com"}, false},
		{"a sandbox", []string{"Origin", "null"}, false},
		{"a host that begins like ours", []string{"Origin", s.url + ".evil.example"}, false},
		{"nobody says", nil, false},
		{"a form of another site that is sent by navigation", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Origin", evil}, false},
	}
	requests := []struct{ method, path, body, kind string }{
		{"POST", "/api/v1/runs", `{"repository":"https://example.com/owner/name"}`, ""},
		{"POST", "/api/v1/runs/" + run.ID + "/rerun", "", ""},
		{"PATCH", "/api/v1/repositories/example.com%2Fowner%2Fname", `{"weight":2}`, ""},
		{"POST", "/graphql", question(t, "{runs{edges{node{id}}}}"), ""},
		{"POST", "/lockstep.v1.RunService/RerunRun", `{"id":"` + run.ID + `"}`, ""},
		{"POST", "/login", "token=" + token, form},
		{"POST", "/logout", "", form}, // the last one
	}
	for _, request := range requests {
		for _, test := range writes {
			if request.path == "/logout" && test.may {
				continue
			}
			headers := append([]string{"Authorization", "", "Cookie", cookie}, test.headers...)
			if request.kind != "" {
				headers = append(headers, "Content-Type", request.kind)
			}
			a := s.send(request.method, request.path, request.body, headers...)
			if refused := a.status == http.StatusForbidden && (strings.Contains(a.body, "cross_site") || strings.Contains(a.body, "permission_denied")); refused == test.may || test.may && a.status >= 400 {
				t.Errorf("%s %s from %s: %d %s", request.method, request.path, test.what, a.status, a.body)
			}
			if a.header.Get("Set-Cookie") != "" != (test.may && request.path == "/login") {
				t.Errorf("%s %s from %s sets %v", request.method, request.path, test.what, a.header["Set-Cookie"])
			}
		}
	}
	for _, test := range []struct {
		path    string
		headers []string
		status  int
	}{
		{"/api/v1/runs/" + run.ID, []string{"Sec-Fetch-Site", "same-origin"}, http.StatusOK},
		{"/api/v1/runs/" + run.ID, nil, http.StatusOK},
		{"/api/v1/runs/" + run.ID, []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors"}, http.StatusForbidden},
		{"/api/v1/runs/" + run.ID + "/events", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors"}, http.StatusForbidden},
		{"/api/v1/runs/" + run.ID + "/events", []string{"Sec-Fetch-Site", "same-site", "Sec-Fetch-Mode", "cors"}, http.StatusForbidden},
		{"/api/v1/watch?run=" + run.ID, []string{"Origin", evil, "Upgrade", "websocket", "Connection", "Upgrade"}, http.StatusForbidden},
		{"/run/" + run.ID, []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate"}, http.StatusOK}, // a link, as in GitHub's list of checks
	} {
		if a := s.send("GET", test.path, "", append([]string{"Authorization", "", "Cookie", cookie}, test.headers...)...); a.status != test.status {
			t.Errorf("GET %s with %v: %d, want %d", test.path, test.headers, a.status, test.status)
		}
	}
	// A token counts more than a cookie, and no browser sends one for another site.
	if a := s.send("POST", "/api/v1/runs", `{"repository":"https://example.com/owner/name"}`, "Cookie", cookie, "Origin", evil); a.status != http.StatusCreated {
		t.Errorf("a token beside a cookie: %d", a.status)
	}
	if a := s.send("GET", "/api/v1/runs", "", "Cookie", cookie, "Authorization", "Bearer another-token-of-the-tests"); a.status != http.StatusUnauthorized {
		t.Errorf("a wrong token beside a cookie: %d", a.status)
	}
}

func TestWhoReadsWithoutSigningInIsOfferedTo(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *gateway.Options) { o.AnonymousRead = true })
	if a := s.send("GET", "/queue", "", "Authorization", "", "Cookie", "lockstep="+strings.Repeat("a", 43)); a.status != http.StatusOK || !strings.Contains(a.body, `href="/login?next=%2Fqueue"`) {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := s.send("GET", "/login/github", "", "Authorization", ""); a.status != http.StatusNotFound {
		t.Errorf("GitHub, which is not set: %d", a.status)
	}
}

// hub stands in for GitHub's OAuth: it gives out codes, once each, and only against the secret whose challenge it was shown.
type hub struct {
	*httptest.Server
	user string // what it says of whoever signs in

	mu         sync.Mutex
	challenges map[string]string // by code
	down       bool
	asked      []string
}

const (
	clientID, clientSecret = "Iv1.of-the-tests", "canary-secret-of-the-app"
	accessToken            = "gho_canary-of-the-tests"
)

func newHub(t *testing.T) *hub {
	t.Helper()
	h := &hub{user: `{"id": 583231, "login": "octocat"}`, challenges: map[string]string{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /login/oauth/access_token", func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.down {
			http.Error(w, "canary", http.StatusBadGateway)
			return
		}
		challenge, known := h.challenges[r.FormValue("code")]
		sum := sha256.Sum256([]byte(r.FormValue("code_verifier")))
		w.Header().Set("Content-Type", "application/json")
		if !known || base64.RawURLEncoding.EncodeToString(sum[:]) != challenge || r.FormValue("client_id") != clientID || r.FormValue("client_secret") != clientSecret {
			_, _ = w.Write([]byte(`{"error":"bad_verification_code","error_description":"canary"}`))
			return
		}
		delete(h.challenges, r.FormValue("code"))
		_ = json.NewEncoder(w).Encode(map[string]string{"access_token": accessToken, "token_type": "bearer"})
	})
	mux.HandleFunc("GET /api/v3/user", func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.asked = append(h.asked, r.Header.Get("Authorization"))
		if strings.HasPrefix(h.user, "/") {
			http.Redirect(w, r, h.user, http.StatusFound)
			return
		}
		_, _ = w.Write([]byte(h.user))
	})
	h.Server = httptest.NewServer(mux)
	t.Cleanup(h.Close)
	return h
}

// agree is what a user does at GitHub: it returns the query that he comes back with.
func (h *hub) agree(t *testing.T, location string) (state, query string) {
	t.Helper()
	u, err := url.Parse(location)
	if err != nil || !strings.HasPrefix(location, h.URL+"/login/oauth/authorize?") {
		t.Fatalf("GitHub is at %s, error %v", location, err)
	}
	asked := u.Query()
	if asked.Get("client_id") != clientID || asked.Get("code_challenge_method") != "S256" || asked.Get("response_type") != "code" || len(asked.Get("state")) < 26 {
		t.Errorf("GitHub is asked %v", asked)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	code := fmt.Sprint("code-", len(h.challenges)+len(h.asked))
	h.challenges[code] = asked.Get("code_challenge")
	return asked.Get("state"), url.Values{"code": {code}, "state": {asked.Get("state")}}.Encode()
}

func startWithGitHub(t *testing.T) (*server, *hub, *observer.ObservedLogs) {
	t.Helper()
	h := newHub(t)
	db := jobstest.New(t)
	core, said := observer.New(zap.DebugLevel)
	url, stop := serveLogging(t, db.Open(t, "api-gateway"), core, func(o *gateway.Options) {
		o.GitHub = signin.GitHub{ClientID: clientID, ClientSecret: clientSecret, URL: h.URL}
		o.GitHubUsers = map[int64]auth.Right{583231: auth.Write, 7: auth.Read}
	})
	return &server{t: t, db: db, url: url, stop: stop}, h, said
}

// begin goes to GitHub, and returns the cookie that it goes with.
func (s *server) begin(h *hub, next string) (flow, state, query string) {
	s.t.Helper()
	a := s.send("GET", "/login/github?next="+url.QueryEscape(next), "", "Authorization", "")
	flow, set := a.cookie(s.t, "lockstep-github")
	if a.status != http.StatusSeeOther || !set.HttpOnly || set.SameSite != http.SameSiteLaxMode || set.MaxAge > 600 {
		s.t.Errorf("to GitHub: %d %+v", a.status, set)
	}
	state, query = h.agree(s.t, a.header.Get("Location"))
	return flow, state, query
}

func (s *server) back(query, flow string) answer {
	s.t.Helper()
	return s.send("GET", "/login/github/callback?"+query, "", "Authorization", "", "Cookie", flow, "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate")
}

func TestGitHubTellsWhoSignsIn(t *testing.T) {
	t.Parallel()
	s, h, said := startWithGitHub(t)
	if a := s.send("GET", "/login?next=/queue", "", "Authorization", ""); !strings.Contains(a.body, `href="/login/github?next=%2fqueue"`) {
		t.Errorf("the page: %s", a.body)
	}
	flow, _, query := s.begin(h, "/queue")
	a := s.back(query, flow)
	if a.status != http.StatusSeeOther || a.header.Get("Location") != "/queue" {
		t.Fatalf("back from GitHub: %d %v %s", a.status, a.header, a.body)
	}
	if _, forgotten := a.cookie(t, "lockstep-github"); forgotten.MaxAge >= 0 {
		t.Errorf("the way to GitHub is kept: %+v", forgotten)
	}
	cookie, _ := a.cookie(t, "lockstep")
	if page := s.send("GET", "/", "", with(cookie)...); !strings.Contains(page.body, "Signed in as <bdi>github:583231</bdi>") {
		t.Errorf("the page: %s", page.body)
	}
	if a := s.send("POST", "/api/v1/runs", `{"repository":"https://example.com/owner/name"}`, with(cookie)...); a.status != http.StatusCreated {
		t.Errorf("he starts a run: %d %s", a.status, a.body)
	}
	if a := s.send("GET", "/api/v1/audit", "", with(cookie)...); a.status != http.StatusForbidden {
		t.Errorf("he is no admin: %d", a.status)
	}
	if got := jobstest.Value[string](t, s.db, "SELECT principal FROM ci_runs"); got != "session of github:583231" {
		t.Errorf("the run is of %s", got)
	}
	if len(h.asked) != 1 || h.asked[0] != "Bearer "+accessToken {
		t.Errorf("GitHub was asked who he is by %q", h.asked)
	}
	for _, again := range []string{flow, ""} { // GitHub takes a code once; a browser has forgotten the cookie
		if a := s.back(query, again); a.status != http.StatusForbidden && a.status != http.StatusBadRequest || strings.Contains(a.header.Get("Set-Cookie"), "lockstep=") {
			t.Errorf("back once more with %q: %d %v", again, a.status, a.header)
		}
	}
	url, _ := serve(t, s.db.Open(t, "api-gateway"))
	if a := (&server{t: t, url: url}).send("GET", "/api/v1/runs", "", with(cookie)...); a.status != http.StatusUnauthorized {
		t.Errorf("where he is no longer on the list: %d", a.status)
	}
	noSecrets(t, said, cookie, flow, query)
}

func TestGitHubLetsNobodyElseIn(t *testing.T) {
	t.Parallel()
	s, h, said := startWithGitHub(t)
	refused := func(what string, a answer, status int, words string) {
		t.Helper()
		if a.status != status || !strings.Contains(a.body, words) || strings.Contains(a.header.Get("Content-Type"), "json") || strings.Contains(strings.Join(a.header["Set-Cookie"], " "), "lockstep=") {
			t.Errorf("%s: %d %v %s", what, a.status, a.header, a.body)
		}
		if strings.Contains(a.body, "canary") {
			t.Errorf("%s shows what is secret: %s", what, a.body)
		}
	}
	flow, _, query := s.begin(h, "/")
	refused("no cookie", s.back(query, ""), http.StatusBadRequest, "begin again")
	refused("another state", s.back("code=code-0&state=another", flow), http.StatusBadRequest, "begin again")
	refused("no state", s.back("code=code-0", flow), http.StatusBadRequest, "begin again")
	refused("an empty state", s.back("code=code-0&state=", "lockstep-github=.."), http.StatusBadRequest, "begin again")
	other, otherState, _ := s.begin(h, "/")
	refused("the state of another browser", s.back("code=code-0&state="+otherState, flow), http.StatusBadRequest, "begin again")
	refused("a code of another browser", s.back("code=code-0&state="+otherState, other), http.StatusForbidden, "begin again") // PKCE
	state, _, _ := strings.Cut(strings.TrimPrefix(flow, "lockstep-github="), ".")
	refused("no verifier", s.back(query, "lockstep-github="+state+"..Lw"), http.StatusForbidden, "begin again")
	refused("he said no", s.back("error=access_denied&state="+otherState, other), http.StatusForbidden, "agree there")

	for user, status := range map[string]int{
		`{"id": 666, "login": "octocat"}`: http.StatusForbidden,
		`{"id": 0}`:                       http.StatusBadGateway, `{"login": "octocat"}`: http.StatusBadGateway, `{"id": "583231"}`: http.StatusBadGateway,
		"<html>canary": http.StatusBadGateway, "": http.StatusBadGateway, "/api/v3/other": http.StatusBadGateway, strings.Repeat(" ", 2<<20) + `{"id": 583231}`: http.StatusBadGateway,
	} {
		h.user = user
		flow, _, query := s.begin(h, "/")
		words := "GitHub does not answer as it should"
		if status == http.StatusForbidden {
			words = "666"
		}
		refused(fmt.Sprintf("user %.30s", user), s.back(query, flow), status, words)
	}
	flow, _, query = s.begin(h, "/")
	h.down = true
	refused("GitHub is ill", s.back(query, flow), http.StatusBadGateway, "try again")
	flow, _, query = s.begin(h, "/")
	h.Close()
	refused("GitHub is away", s.back(query, flow), http.StatusBadGateway, "try again")
	if n := s.count("ci_sessions"); n != 0 {
		t.Errorf("%d sessions", n)
	}
	if said.FilterField(zap.String("code", "github_unavailable")).Len() < 5 {
		t.Error("the log does not say that GitHub was away")
	}
	noSecrets(t, said, flow, query)
}

// noSecrets wants nothing of these, and nothing that only we and GitHub know, in a log.
func noSecrets(t *testing.T, said *observer.ObservedLogs, secrets ...string) {
	t.Helper()
	secrets = append(secrets, "canary", token, "code-")
	for _, entry := range said.All() {
		text := fmt.Sprint(entry.Message, entry.ContextMap())
		for _, secret := range secrets {
			for _, part := range strings.FieldsFunc(secret, func(r rune) bool { return strings.ContainsRune("=&.", r) }) {
				if len(part) > 12 && strings.Contains(text, part) || strings.Contains(text, "canary") {
					t.Errorf("the log has %s: %s", part, text)
				}
			}
		}
	}
}
