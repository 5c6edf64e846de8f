// Package redeliver finds the webhook deliveries that GitHub could not make, and asks for them again: GitHub itself tries once.
package redeliver

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/bradleyfalzon/ghinstallation/v2"
	"github.com/google/go-github/v60/github"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/statements"
)

const (
	window    = 71 * time.Hour   // GitHub redelivers what is at most three days old
	overlap   = 10 * time.Minute // attempts are listed when they have ended, not in the order in which they began
	perPage   = 100
	maxPages  = 300 // of one look
	maxAsked  = 100 // of one look: the rest waits for the next
	maxTries  = 5
	callLimit = 15 * time.Second
	lookLimit = 5 * time.Minute
	limitWait = time.Minute // after a limit that does not say how long (GitHub's advice)
	limitMost = time.Hour   // the longest that a limit is believed: GitHub's longest window
)

// Options say where to look.
type Options struct {
	APIURL string        // of GitHub's API
	AppID  int64         // of a GitHub App; 0: none
	Key    []byte        // the App's private key, PEM
	Token  string        // for Hooks
	Hooks  []string      // of repositories: owner/name/id
	Every  time.Duration // between two looks
}

// Finder looks for deliveries that failed.
type Finder struct {
	pool    *pgxpool.Pool
	sources []source
	every   time.Duration
	asked   *prometheus.CounterVec
	log     *zap.Logger
}

// source is where GitHub lists deliveries: an App, or one hook.
type source struct {
	name  string
	list  func(context.Context, *github.ListCursorOptions) ([]*github.HookDelivery, *github.Response, error)
	again func(context.Context, int64) (*github.HookDelivery, *github.Response, error)
}

//go:embed queries/*.sql
var queryFiles embed.FS

var query = statements.In(queryFiles)

// New looks where the options say. The error names the setting, and no secret's value.
func New(db *jobs.DB, options Options, log *zap.Logger) (*Finder, error) {
	f := &Finder{pool: db.Pool(), every: options.Every, log: log, asked: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "lockstep_webhook_redeliveries_total", Help: "Failed webhook deliveries that GitHub was asked for again, by outcome (asked, refused).",
	}, []string{"outcome"})}
	db.Metrics().MustRegister(f.asked)
	base, err := url.Parse(strings.TrimRight(options.APIURL, "/") + "/")
	if err != nil {
		return nil, errors.New("GITHUB_API_URL: it is no URL")
	}
	client := func(transport http.RoundTripper) *github.Client {
		c := github.NewClient(&http.Client{Transport: transport, CheckRedirect: stay, Timeout: callLimit})
		c.BaseURL, c.UserAgent = base, "lockstep"
		return c
	}
	if options.AppID != 0 {
		signed, err := ghinstallation.NewAppsTransport(http.DefaultTransport, options.AppID, options.Key)
		if err != nil {
			return nil, errors.New("GITHUB_APP_PRIVATE_KEY: it is no RSA private key in PEM")
		}
		apps := client(signed).Apps
		f.sources = append(f.sources, source{"app " + strconv.FormatInt(options.AppID, 10), apps.ListHookDeliveries, apps.RedeliverHookDelivery})
	}
	for _, hook := range options.Hooks {
		owner, name, number, err := SplitHook(hook)
		if err != nil {
			return nil, fmt.Errorf("GITHUB_HOOKS: %w", err)
		}
		repositories := client(http.DefaultTransport).WithAuthToken(options.Token).Repositories
		f.sources = append(f.sources, source{
			name: "hook " + hook,
			list: func(ctx context.Context, page *github.ListCursorOptions) ([]*github.HookDelivery, *github.Response, error) {
				return repositories.ListHookDeliveries(ctx, owner, name, number, page)
			},
			again: func(ctx context.Context, attempt int64) (*github.HookDelivery, *github.Response, error) {
				return repositories.RedeliverHookDelivery(ctx, owner, name, number, attempt)
			},
		})
	}
	return f, nil
}

// SplitHook reads owner/name/id.
func SplitHook(hook string) (owner, name string, id int64, err error) {
	parts := hookPattern.FindStringSubmatch(hook)
	if parts == nil {
		return "", "", 0, fmt.Errorf("%.100q is not owner/name/id, as in the address of the hook's page", hook)
	}
	id, err = strconv.ParseInt(parts[3], 10, 64)
	return parts[1], parts[2], id, err
}

var hookPattern = regexp.MustCompile(`^([A-Za-z0-9_.-]*[A-Za-z0-9_-][A-Za-z0-9_.-]*)/([A-Za-z0-9_.-]*[A-Za-z0-9_-][A-Za-z0-9_.-]*)/([1-9][0-9]{0,17})$`)

// stay follows no redirect to another host, where the credentials would go too.
func stay(request *http.Request, via []*http.Request) error {
	if request.URL.Host != via[0].URL.Host || len(via) > 5 {
		return http.ErrUseLastResponse
	}
	return nil
}

// Run looks until ctx ends: at once, and then whenever it is time and no other gateway was faster.
func (f *Finder) Run(ctx context.Context) {
	for len(f.sources) > 0 {
		for _, s := range f.sources {
			if err := f.look(ctx, s); err != nil && ctx.Err() == nil {
				f.log.Warn("failed deliveries were not looked for", zap.String("source", s.name), zap.Error(err))
			}
		}
		// Several gateways do not come in step, and one that died is soon replaced.
		rest := time.NewTimer(f.every/4 + rand.N(f.every/4+1))
		select {
		case <-rest.C:
		case <-ctx.Done():
			rest.Stop()
			return
		}
	}
}

// look finds what failed at a source since the last look, and asks for what is due, unless another gateway does.
func (f *Finder) look(ctx context.Context, s source) error {
	ctx, cancel := context.WithTimeout(ctx, min(f.every, lookLimit))
	defer cancel()
	var since time.Time
	err := f.pool.QueryRow(ctx, query("claim"), pgx.NamedArgs{"source": s.name, "every": f.every, "window": window, "overlap": overlap}).Scan(&since)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("claim a look: %w", err)
	}
	begun, err := f.find(ctx, s, since)
	if err == nil {
		_, err = f.pool.Exec(ctx, query("seen"), pgx.NamedArgs{"source": s.name, "seen_to": begun})
	}
	if err == nil {
		err = f.askAgain(ctx, s)
	}
	if wait := limited(err, time.Now()); wait > 0 {
		f.log.Warn("GitHub wants us to wait", zap.String("source", s.name), zap.Duration("wait", wait))
		_, err = f.pool.Exec(context.WithoutCancel(ctx), query("postpone"), pgx.NamedArgs{"source": s.name, "wait": wait})
	}
	return err
}

// find notes the deliveries that failed since, and forgets those that arrived after all. It returns up to when it has seen all.
func (f *Finder) find(ctx context.Context, s source, since time.Time) (begun time.Time, err error) {
	arrived, failed := map[string]bool{}, map[string]*github.HookDelivery{}
	page := &github.ListCursorOptions{PerPage: perPage}
	for n := 0; ; n++ {
		attempts, answer, err := s.list(ctx, page)
		if err != nil {
			return begun, fmt.Errorf("list deliveries: %w", err)
		}
		old := len(attempts) == 0
		for _, a := range attempts { // the newest first
			if begun.IsZero() {
				begun = a.GetDeliveredAt().Time
			}
			if old = a.GetDeliveredAt().Before(since); old {
				break
			}
			switch code := a.GetStatusCode(); {
			case code >= 200 && code < 300:
				arrived[a.GetGUID()] = true
			case final[code]: // the same would be said again
			case failed[a.GetGUID()] == nil:
				failed[a.GetGUID()] = a
			}
		}
		if old || answer.Cursor == "" {
			break
		}
		if n+1 == maxPages {
			f.log.Warn("more deliveries than one look takes: older ones are not looked at", zap.String("source", s.name), zap.Int("pages", maxPages))
			break
		}
		page.Cursor = answer.Cursor
	}
	var guids []string
	var attempts []int64
	var at []time.Time
	for guid, a := range failed {
		if !arrived[guid] {
			guids, attempts, at = append(guids, guid), append(attempts, a.GetID()), append(at, a.GetDeliveredAt().Time)
		}
	}
	done := make([]string, 0, len(arrived))
	for guid := range arrived {
		done = append(done, guid)
	}
	if _, err := f.pool.Exec(ctx, query("note"), pgx.NamedArgs{"source": s.name, "guids": guids, "attempts": attempts, "failed_at": at}); err != nil {
		return begun, fmt.Errorf("note failed deliveries: %w", err)
	}
	if _, err := f.pool.Exec(ctx, query("forget"), pgx.NamedArgs{"source": s.name, "arrived": done, "window": window}); err != nil {
		return begun, fmt.Errorf("forget deliveries that arrived: %w", err)
	}
	return begun, nil
}

// final are answers of ours that a delivery gets for what it says.
var final = map[int]bool{
	http.StatusBadRequest: true, http.StatusRequestEntityTooLarge: true, http.StatusUnsupportedMediaType: true, http.StatusUnprocessableEntity: true,
}

// askAgain asks for what is due. It is noted first: who dies in between has used up a try, and asks nobody twice.
func (f *Finder) askAgain(ctx context.Context, s source) error {
	for range maxAsked {
		var guid string
		var attempt int64
		var tries int
		err := f.pool.QueryRow(ctx, query("next"), pgx.NamedArgs{"source": s.name, "most": maxTries, "every": f.every}).Scan(&guid, &attempt, &tries)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("take a failed delivery: %w", err)
		}
		_, _, err = s.again(ctx, attempt)
		var accepted *github.AcceptedError // 202: GitHub will deliver it
		if err == nil || errors.As(err, &accepted) {
			f.asked.WithLabelValues("asked").Inc()
			f.log.Info("delivery asked for again", zap.String("source", s.name), zap.String("delivery_id", guid), zap.Int("attempt", tries))
			continue
		}
		f.asked.WithLabelValues("refused").Inc()
		if limited(err, time.Now()) > 0 {
			return err
		}
		f.log.Warn("delivery not to be had again", zap.String("source", s.name), zap.String("delivery_id", guid), zap.Int("attempt", tries), zap.Error(err))
	}
	return nil
}

// limited is how long GitHub wants us to wait; 0: the error says nothing of that.
func limited(err error, now time.Time) time.Duration {
	var primary *github.RateLimitError
	var secondary *github.AbuseRateLimitError
	var other *github.ErrorResponse
	wait := time.Duration(0)
	switch {
	case errors.As(err, &primary):
		wait = max(primary.Rate.Reset.Sub(now), time.Second)
	case errors.As(err, &secondary):
		wait = limitWait
		if secondary.RetryAfter != nil {
			wait = max(*secondary.RetryAfter, time.Second)
		}
	case errors.As(err, &other) && other.Response != nil:
		seconds, parse := strconv.Atoi(other.Response.Header.Get("Retry-After"))
		switch {
		case parse == nil && seconds > 0:
			wait = time.Duration(min(seconds, int(limitMost/time.Second))) * time.Second
		case other.Response.StatusCode == http.StatusTooManyRequests:
			wait = limitWait
		}
	}
	return min(wait, limitMost)
}
