package notifier

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/go-github/v60/github"
)

const (
	answerWithin = 10 * time.Second // hard deadline of one call, redirects and the answer's body included
	maxAnswer    = 1 << 20          // bytes read of an answer; GitHub's to a status has some 3,000
)

// What to wait before another try.
const (
	firstWait  = time.Second     // doubled with each try …
	mostWait   = time.Minute     // … up to this, so that GitHub knows a minute after its recovery
	lateWait   = 5 * time.Second // on top, after a call that we gave up: it may still go through, and must not overtake a newer one
	limitWait  = time.Minute     // after a limit that does not say how long (GitHub's advice for secondary limits)
	limitMost  = time.Hour       // the longest that a limit is believed: GitHub's longest window
	refusedFor = 3 * time.Minute // what only an operator can mend
)

// The states that a report goes to.
const (
	pending  = "pending" // try again, after a wait
	notified = "notified"
	skipped  = "skipped" // for good
)

// verdict is how telling GitHub went.
type verdict struct {
	outcome string
	wait    time.Duration // before the next try; up to a fifth is added, so that tries do not come in step
	reason  string
	shared  bool // holds for all that this token does, not for this report alone
	echo    bool // of a shared verdict before, without a call
}

// GitHub is one API and one token.
type GitHub struct {
	client       *github.Client
	host         string // of its repositories' URLs
	hasToken     bool
	answerWithin time.Duration

	mu     sync.Mutex
	opens  time.Time // until then GitHub wants no call with this token
	closed string    // why
}

// NewGitHub takes the base URL of GitHub's API, with or without its final slash: https://api.github.com/,
// https://api.<host>/ or, for GitHub Enterprise Server, https://<host>/api/v3/. A loopback address, where http will do,
// stands in for github.com. An empty token is allowed: every status is skipped then. The error does not show the URL.
func NewGitHub(apiURL, token string) (*GitHub, error) {
	base, err := url.Parse(strings.TrimRight(apiURL, "/") + "/")
	if err != nil {
		return nil, errURL
	}
	host, ok := hostOf(base)
	if !ok {
		return nil, errURL
	}
	client := github.NewClient(&http.Client{Transport: bounded{http.DefaultTransport}, CheckRedirect: stayHere, Timeout: answerWithin})
	if token != "" {
		client = client.WithAuthToken(token)
	}
	client.BaseURL, client.UserAgent = base, "lockstep"
	return &GitHub{client: client, host: host, hasToken: token != "", answerWithin: answerWithin}, nil
}

var errURL = errors.New("it is not of the form https://api.github.com/ or https://<host>/api/v3/")

// hostOf tells where the repositories of an API are.
func hostOf(api *url.URL) (host string, ok bool) {
	if api.Host == "" || api.User != nil || api.RawQuery != "" || api.Fragment != "" {
		return "", false
	}
	ip := net.ParseIP(api.Hostname())
	loopback := api.Hostname() == "localhost" || ip.IsLoopback()
	bare, isAPI := strings.CutPrefix(api.Host, "api.")
	switch {
	case loopback && (api.Scheme == "http" || api.Scheme == "https"):
		return "github.com", true
	case api.Scheme != "https":
		return "", false
	case api.Path == "/" && isAPI && bare != "":
		return bare, true
	case api.Path == "/api/v3/":
		return api.Host, true
	}
	return "", false
}

var (
	repositoryURL = regexp.MustCompile(`^https://([^/]+)/([^/]+)/([^/]+)$`)
	// What GitHub allows in the name of an owner or a repository. The library puts them into the path as they are.
	pathName = regexp.MustCompile(`^[A-Za-z0-9._-]*[A-Za-z0-9_-][A-Za-z0-9._-]*$`)
)

// locate splits the URL of a repository that this API knows.
func (g *GitHub) locate(repository string) (owner, name string, ok bool) {
	parts := repositoryURL.FindStringSubmatch(repository)
	if parts == nil || !strings.EqualFold(parts[1], g.host) || !pathName.MatchString(parts[2]) || !pathName.MatchString(parts[3]) {
		return "", "", false
	}
	return parts[2], parts[3], true
}

// create creates a commit status. attempt counts the tries: 1, 2, 3 …
func (g *GitHub) create(ctx context.Context, repository, sha string, status *github.RepoStatus, attempt int) verdict {
	owner, name, ok := g.locate(repository)
	switch {
	case !ok:
		return verdict{outcome: skipped, reason: "not a repository on https://" + g.host + "/, which GITHUB_API_URL is for"}
	case !g.hasToken:
		return verdict{outcome: skipped, reason: "GITHUB_TOKEN is not set"}
	}
	if v, is := g.isClosed(); is {
		return v
	}
	ctx, cancel := context.WithTimeout(ctx, g.answerWithin)
	defer cancel()
	_, answer, err := g.client.Repositories.CreateStatus(ctx, owner, name, sha, status)
	v := judge(answer, err, attempt, time.Now())
	if v.shared {
		g.close(v)
	}
	return v
}

// judge decides what becomes of a report by GitHub's answer; nil when there was none.
func judge(answer *github.Response, err error, attempt int, now time.Time) verdict {
	again := min(firstWait<<min(max(attempt-1, 0), 10), mostWait)
	if answer == nil {
		if errors.Is(err, errRedirected) {
			return verdict{outcome: pending, wait: refusedFor, reason: "GitHub " + errRedirected.Error() + "; does GITHUB_API_URL name the API itself?"}
		}
		return verdict{outcome: pending, wait: lateWait + again, reason: "no answer from GitHub: " + cause(err)}
	}
	var (
		primary   *github.RateLimitError
		secondary *github.AbuseRateLimitError
		said      = fmt.Sprintf("GitHub answered %d%s", answer.StatusCode, message(err))
	)
	limited := func(wait time.Duration) verdict {
		if wait <= 0 {
			wait = limitWait
		}
		return verdict{outcome: pending, wait: min(wait, limitMost), reason: "GitHub's rate limit: " + said, shared: true}
	}
	switch code := answer.StatusCode; {
	case err == nil && code == http.StatusCreated:
		return verdict{outcome: notified}
	case errors.As(err, &primary):
		return limited(primary.Rate.Reset.Sub(now))
	case errors.As(err, &secondary):
		return limited(secondary.GetRetryAfter())
	case code == http.StatusTooManyRequests || code == http.StatusForbidden && answer.Header.Get("Retry-After") != "":
		// The library knows 403 only. Without the header, the reset of the primary limit.
		wait := answer.Rate.Reset.Sub(now)
		if header := answer.Header.Get("Retry-After"); header != "" {
			seconds, _ := strconv.Atoi(header) // 0 for what makes no sense
			wait = time.Duration(min(max(seconds, 0), int(limitMost.Seconds()))) * time.Second
		}
		return limited(wait)
	case code == http.StatusUnauthorized:
		return verdict{outcome: pending, wait: refusedFor, reason: "GitHub refuses the token, mend GITHUB_TOKEN: " + said, shared: true}
	case code == http.StatusForbidden:
		return verdict{outcome: pending, wait: refusedFor, reason: "GitHub forbids it, may the token write commit statuses of this repository? " + said}
	case code >= 400 && code < 500 && code != http.StatusRequestTimeout:
		return verdict{outcome: skipped, reason: said}
	default: // its servers' errors, and answers that make no sense
		return verdict{outcome: pending, wait: again, reason: said}
	}
}

// message is what GitHub said beside the status code.
func message(err error) string {
	var answer *github.ErrorResponse
	if !errors.As(err, &answer) {
		if err == nil {
			return ""
		}
		return ": " + cause(err)
	}
	text := ""
	if answer.Message != "" {
		text = ": " + answer.Message
	}
	for _, e := range answer.Errors {
		if e.Message == "" {
			e.Message = e.Error()
		}
		text += "; " + e.Message
	}
	return text
}

// cause is an error without the URL that net/http puts before it.
func cause(err error) string {
	var wrapped *url.Error
	switch {
	case errors.As(err, &wrapped) && wrapped.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return "the time for it was over"
	case errors.As(err, &wrapped):
		return wrapped.Err.Error()
	}
	return err.Error()
}

// close keeps the token from being used for a while: each call would get the same answer, and calls against a limit
// prolong it. Other processes learn for themselves.
func (g *GitHub) close(v verdict) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.opens, g.closed = time.Now().Add(v.wait), v.reason
}

func (g *GitHub) isClosed() (verdict, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	wait := time.Until(g.opens)
	return verdict{outcome: pending, wait: wait, reason: g.closed, echo: true}, wait > 0
}

var errRedirected = errors.New("redirected the call elsewhere")

// stayHere follows a redirect only to the same host and with the same method: GitHub sends one for a renamed repository.
// The token is set on every request of the client, so a redirect elsewhere would give it away.
func stayHere(next *http.Request, via []*http.Request) error {
	first := via[0]
	if len(via) > 3 || next.URL.Scheme != first.URL.Scheme || next.URL.Host != first.URL.Host || next.Method != first.Method {
		return errRedirected
	}
	return nil
}

// bounded limits what is read of an answer: the library reads all of it.
type bounded struct{ http.RoundTripper }

func (b bounded) RoundTrip(request *http.Request) (*http.Response, error) {
	answer, err := b.RoundTripper.RoundTrip(request)
	if err == nil {
		answer.Body = http.MaxBytesReader(nil, answer.Body, maxAnswer)
	}
	return answer, err
}

// maxDescription is GitHub's limit, in characters; a longer description is refused with 422.
const maxDescription = 140

// description is the first line of a reason as GitHub takes it: at most maxDescription characters, none beyond U+FFFF
// ("description doesn't accept 4-byte Unicode", 422).
func description(reason string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(reason), "\n")
	runes := []rune(strings.TrimRight(line, "\r"))
	for i, r := range runes {
		if r > 0xFFFF {
			runes[i] = '\uFFFD'
		}
	}
	if len(runes) > maxDescription {
		runes = append(runes[:maxDescription-1], '…')
	}
	return string(runes)
}
