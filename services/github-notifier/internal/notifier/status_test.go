package notifier

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-github/v60/github"

	"github.com/lockstep-ci/lockstep/services/github-notifier/internal/githubtest"
)

const sha = "0123456789abcdef0123456789abcdef01234567"

func TestTheAPIsURLTellsWhereItsRepositoriesAre(t *testing.T) {
	t.Parallel()
	for api, want := range map[string]string{
		"https://api.github.com/":               "github.com",
		"https://api.github.com":                "github.com",
		"https://api.octo.ghe.com/":             "octo.ghe.com",
		"https://git.example.com/api/v3/":       "git.example.com",
		"https://git.example.com:8443/api/v3":   "git.example.com:8443",
		"http://127.0.0.1:4000/":                "github.com",
		"http://localhost:4000":                 "github.com",
		"http://[::1]:4000/":                    "github.com",
		"http://api.github.com/":                "", // would show the token to everybody on the way
		"https://github.com/":                   "",
		"https://git.example.com/":              "",
		"https://git.example.com/api/v4/":       "",
		"https://api./":                         "",
		"https://user:secret@api.github.com/":   "",
		"https://api.github.com/?token=secret":  "",
		"https://api.github.com/#secret":        "",
		"ftp://127.0.0.1/":                      "",
		"api.github.com":                        "",
		"https://api.github.com:secret/":        "",
		"":                                      "",
		"http://127.0.0.1.secret.example.com:1": "",
	} {
		g, err := NewGitHub(api, "a-token")
		switch {
		case want == "" && err == nil:
			t.Errorf("%q is taken", api)
		case want == "" && strings.Contains(err.Error(), "secret"):
			t.Errorf("%q: the error shows what it should not: %v", api, err)
		case want != "" && err != nil:
			t.Errorf("%q: %v", api, err)
		case want != "" && g.host != want:
			t.Errorf("%q: repositories are on %q, want %q", api, g.host, want)
		}
	}
}

func TestOnlyARepositoryOfThisGitHubIsTold(t *testing.T) {
	t.Parallel()
	server := githubtest.New(t)
	g := newGitHub(t, server, "a-token")
	for repository, told := range map[string]bool{
		"https://github.com/acme/widgets":            true,
		"https://GitHub.com/acme/widgets":            true,
		"https://github.com/acme/.github":            true,
		"https://github.com/a-b/w_i.d-g2":            true,
		"https://gitlab.com/acme/widgets":            false,
		"https://github.com.example.org/acme/w":      false,
		"https://github.com:8443/acme/widgets":       false,
		"https://github.com/acme":                    false,
		"https://github.com/acme/widgets/more":       false,
		"https://github.com/../widgets":              false,
		"https://github.com/acme/..":                 false,
		"https://github.com/acme/widgets?x=1":        false,
		"https://github.com/acme/%2e%2e%2fother":     false,
		"https://github.com/acme/widgets#":           false,
		"https://github.com/acme\\x/widgets":         false,
		"https://github.com/acme/w\u00efdgets":       false,
		"file:///srv/git/github.com/acme/widgets":    false,
		"https://example.org/https://github.com/a/b": false,
	} {
		v := g.create(t.Context(), repository, sha, &github.RepoStatus{State: github.String("success")}, 1)
		if told && v.outcome != notified {
			t.Errorf("%s: %s (%s)", repository, v.outcome, v.reason)
		}
		if !told && (v.outcome != skipped || !strings.Contains(v.reason, "not a repository on https://github.com/")) {
			t.Errorf("%s: %s (%s)", repository, v.outcome, v.reason)
		}
	}
	for _, call := range server.Calls() {
		if !strings.HasPrefix(call.Path, "/repos/") || !strings.HasSuffix(call.Path, "/statuses/"+sha) {
			t.Errorf("called %s", call.Path)
		}
	}
}

func TestJudgement(t *testing.T) {
	t.Parallel()
	const secondary = `{"message": "You have exceeded a secondary rate limit.", "documentation_url": "https://docs.github.com/rest/overview/rate-limits-for-the-rest-api#about-secondary-rate-limits"}`
	inAnHour := "4102444800" // 2100: far more than is believed
	for name, test := range map[string]struct {
		answer  githubtest.Answer
		attempt int
		want    verdict // the reason: a part of it
	}{
		"created":                       {githubtest.Created, 1, verdict{outcome: notified}},
		"an answer without a sense":     {githubtest.Status(201, "<html>"), 1, verdict{outcome: pending, wait: time.Second, reason: "GitHub answered 201: invalid character"}},
		"an answer of somebody else":    {githubtest.Status(200, `{}`), 1, verdict{outcome: pending, wait: time.Second, reason: "GitHub answered 200"}},
		"accepted, not created":         {githubtest.Status(202, `{}`), 1, verdict{outcome: pending, wait: time.Second, reason: "GitHub answered 202"}},
		"an endless answer":             {githubtest.Status(500, `{"message": "`+strings.Repeat("x", maxAnswer)+`"}`), 1, verdict{outcome: pending, wait: time.Second, reason: "GitHub answered 500"}},
		"a server's error":              {githubtest.Status(502, "bad gateway"), 1, verdict{outcome: pending, wait: time.Second, reason: "GitHub answered 502"}},
		"the fourth in a row":           {githubtest.Status(502, ""), 4, verdict{outcome: pending, wait: 8 * time.Second, reason: "GitHub answered 502"}},
		"the thousandth":                {githubtest.Status(502, ""), 1000, verdict{outcome: pending, wait: time.Minute, reason: "GitHub answered 502"}},
		"a request that took too long":  {githubtest.Status(408, ""), 1, verdict{outcome: pending, wait: time.Second, reason: "GitHub answered 408"}},
		"no more calls":                 {githubtest.Status(429, "", "Retry-After", "7"), 1, verdict{outcome: pending, wait: 7 * time.Second, reason: "rate limit", shared: true}},
		"no more, for how long":         {githubtest.Status(429, ""), 1, verdict{outcome: pending, wait: time.Minute, reason: "rate limit", shared: true}},
		"no more, for ever":             {githubtest.Status(429, "", "Retry-After", "99999999999999999999"), 1, verdict{outcome: pending, wait: time.Hour, reason: "rate limit", shared: true}},
		"no more, in words":             {githubtest.Status(429, "", "Retry-After", "Wed, 21 Oct 2026 07:28:00 GMT"), 1, verdict{outcome: pending, wait: time.Minute, reason: "rate limit", shared: true}},
		"no more until a time":          {githubtest.Status(429, "", "X-RateLimit-Reset", inAnHour), 1, verdict{outcome: pending, wait: time.Hour, reason: "rate limit", shared: true}},
		"the primary limit":             {githubtest.Status(403, `{"message": "API rate limit exceeded"}`, "X-RateLimit-Remaining", "0", "X-RateLimit-Reset", inAnHour), 1, verdict{outcome: pending, wait: time.Hour, reason: "rate limit", shared: true}},
		"a secondary limit":             {githubtest.Status(403, secondary), 1, verdict{outcome: pending, wait: time.Minute, reason: "rate limit", shared: true}},
		"a secondary limit with a time": {githubtest.Status(403, secondary, "Retry-After", "30"), 1, verdict{outcome: pending, wait: 30 * time.Second, reason: "rate limit", shared: true}},
		"a limit by its header alone":   {githubtest.Status(403, `{}`, "Retry-After", "30"), 1, verdict{outcome: pending, wait: 30 * time.Second, reason: "rate limit", shared: true}},
		"a wrong token":                 {githubtest.Status(401, `{"message": "Bad credentials"}`), 1, verdict{outcome: pending, wait: refusedFor, reason: "mend GITHUB_TOKEN: GitHub answered 401: Bad credentials", shared: true}},
		"a wrong token, one-time":       {githubtest.Status(401, `{}`, "X-GitHub-OTP", "required; app"), 1, verdict{outcome: pending, wait: refusedFor, reason: "mend GITHUB_TOKEN", shared: true}},
		"a token that may not":          {githubtest.Status(403, `{"message": "Resource not accessible by personal access token"}`), 1, verdict{outcome: pending, wait: refusedFor, reason: "may the token write commit statuses of this repository? GitHub answered 403: Resource not accessible"}},
		"no such repository":            {githubtest.Status(404, `{"message": "Not Found"}`), 1, verdict{outcome: skipped, reason: "GitHub answered 404: Not Found"}},
		"a repository that is gone":     {githubtest.Status(410, ""), 1, verdict{outcome: skipped, reason: "GitHub answered 410"}},
		"a status too many": {githubtest.Status(422, `{"message": "Validation Failed", "errors": [{"resource": "Status", "code": "custom", "message": "This SHA and context has reached the maximum number of statuses."}]}`), 1,
			verdict{outcome: skipped, reason: "GitHub answered 422: Validation Failed; This SHA and context has reached the maximum"}},
		"a field that cannot be": {githubtest.Status(422, `{"message": "Validation Failed", "errors": [{"resource": "Status", "field": "context", "code": "invalid"}]}`), 1,
			verdict{outcome: skipped, reason: "invalid error caused by context field on Status resource"}},
		"no answer":       {githubtest.Hang, 1, verdict{outcome: pending, wait: lateWait + time.Second, reason: "no answer from GitHub: the time for it was over"}},
		"half an answer":  {githubtest.Stall, 1, verdict{outcome: pending, wait: time.Second, reason: "GitHub answered 201: the time for it was over"}},
		"a broken answer": {githubtest.Reset, 2, verdict{outcome: pending, wait: lateWait + 2*time.Second, reason: "no answer from GitHub: "}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGitHub(t, githubtest.New(t, test.answer), "a-token")
			g.answerWithin = 2 * time.Second
			got := g.create(t.Context(), "https://github.com/acme/widgets", sha, &github.RepoStatus{State: github.String("success")}, test.attempt)
			if got.outcome != test.want.outcome || got.shared != test.want.shared || !strings.Contains(got.reason, test.want.reason) {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
			if len(got.reason) > maxReason {
				t.Errorf("a reason of %d bytes", len(got.reason))
			}
			if lag := test.want.wait - got.wait; lag < 0 || lag > time.Second {
				t.Errorf("it waits for %s, want %s", got.wait, test.want.wait)
			}
		})
	}
}

func TestNobodyIsCalledAgainstALimit(t *testing.T) {
	t.Parallel()
	server := githubtest.New(t, githubtest.Status(429, "", "Retry-After", "600"))
	g := newGitHub(t, server, "a-token")
	status := &github.RepoStatus{State: github.String("success")}
	first := g.create(t.Context(), "https://github.com/acme/widgets", sha, status, 1)
	other := g.create(t.Context(), "https://github.com/acme/other", sha, status, 1)
	if other.outcome != pending || other.reason != first.reason || other.wait < 590*time.Second || !other.echo {
		t.Errorf("another repository: %+v after %+v", other, first)
	}
	if n := len(server.Calls()); n != 1 {
		t.Errorf("GitHub was called %d times", n)
	}
}

func TestTheTokenStaysWithItsHost(t *testing.T) {
	t.Parallel()
	elsewhere := githubtest.New(t)
	for name, test := range map[string]struct {
		code    int
		to      string // empty: the same host
		outcome string
	}{
		"a renamed repository":           {http.StatusTemporaryRedirect, "", notified},
		"a renamed repository, for good": {http.StatusPermanentRedirect, "", notified},
		"another host":                   {http.StatusTemporaryRedirect, elsewhere.URL, pending},
		"a call that became a GET":       {http.StatusFound, "", pending},
	} {
		t.Run(name, func(t *testing.T) {
			server := githubtest.New(t, githubtest.Status(test.code, "", "Location", test.to+"/repositories/1/statuses/"+sha))
			v := newGitHub(t, server, "a-token").create(t.Context(), "https://github.com/acme/widgets", sha, &github.RepoStatus{State: github.String("success")}, 1)
			if v.outcome != test.outcome {
				t.Errorf("%+v", v)
			}
			if test.outcome == pending && (!strings.Contains(v.reason, "GITHUB_API_URL") || v.wait != refusedFor) {
				t.Errorf("%+v", v)
			}
			for _, call := range server.Calls() {
				if call.Authorization != "Bearer a-token" {
					t.Errorf("%s came with %q", call.Path, call.Authorization)
				}
			}
		})
	}
	if calls := elsewhere.Calls(); len(calls) != 0 {
		t.Errorf("the other host was called: %+v", calls)
	}
}

func TestNoAnswerIsShortAndWithoutItsURL(t *testing.T) {
	t.Parallel()
	v := judge(nil, &url.Error{Op: "Post", URL: "https://api.github.com/repos/acme/widgets/statuses/" + sha, Err: errors.New("connection refused")}, 1, time.Now())
	if v.reason != "no answer from GitHub: connection refused" {
		t.Errorf("reason %q", v.reason)
	}
}

func TestDescriptionIsWhatGitHubTakes(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ü", 141)
	for reason, want := range map[string]string{
		"":                             "",
		"success":                      "success",
		"exit status 1\nand then some": "exit status 1",
		"\n  exit status 1\r\nmore":    "exit status 1",
		strings.Repeat("ü", 140):       strings.Repeat("ü", 140),
		long:                           strings.Repeat("ü", 139) + "…",
		"build 🐳 failed":               "build \uFFFD failed",
	} {
		got := description(reason)
		if got != want || utf8.RuneCountInString(got) > 140 {
			t.Errorf("description(%q) = %q, want %q", reason, got, want)
		}
	}
}

func TestAnyReasonCanBeStored(t *testing.T) {
	t.Parallel()
	for reason, want := range map[string]string{
		"a\x00b":                        "ab",
		"a\xffb":                        "ab",
		strings.Repeat("ü", 5000):       strings.Repeat("ü", maxReason/2),
		"x" + strings.Repeat("ü", 5000): "x" + strings.Repeat("ü", maxReason/2-1),
	} {
		if got := clean(reason); got != want {
			t.Errorf("clean(%.20q…) = %q", reason, got)
		}
	}
}

func newGitHub(t *testing.T, server *githubtest.Server, token string) *GitHub {
	t.Helper()
	g, err := NewGitHub(server.URL, token)
	if err != nil {
		t.Fatal(err)
	}
	return g
}
