// Package gateway puts the ways in together: which route leads where, and who may take it.
package gateway

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/service"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/api"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/auth"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/graph"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/limit"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/openapi"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/pages"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/patient"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/rest"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/rpc"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/runs"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/signin"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/watch"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/webhook"
)

const requestLimit = 10 * time.Second // for what the database does for one request

// Options are the gateway's settings.
type Options struct {
	AdminToken     string
	WebhookSecrets []string
	AppID          int64  // of the GitHub App whose deliveries are taken; 0: any
	PublicURL      string // where people find it, without a final slash
	AnonymousRead  bool
	Limits         limit.Options
	GitHub         signin.GitHub        // the OAuth App that people sign in with, if any
	GitHubUsers    map[int64]auth.Right // who may, by GitHub's number, and what
}

// Gateway serves all routes.
type Gateway struct {
	hub     *watch.Hub
	guard   *auth.Guard
	limits  *limit.Limiter
	handler http.Handler
	log     *zap.Logger
}

// New serves from db.
func New(db *jobs.DB, options Options, log *zap.Logger) *Gateway {
	runs := runs.New(db, options.PublicURL)
	hub := watch.NewHub(db, runs, log)
	limits := limit.New(options.Limits, db, log)
	guard := auth.New(auth.Options{
		AdminToken: options.AdminToken, AnonymousRead: options.AnonymousRead, GitHubUsers: options.GitHubUsers, PublicURL: options.PublicURL, Limits: limits,
	}, db.Pool(), log)
	return &Gateway{hub: hub, guard: guard, limits: limits, handler: routes(db, runs, hub, guard, limits, options, log), log: log}
}

// routes puts a handler behind each way in. What each of them needs is in package auth; what is missing there is refused.
func routes(db *jobs.DB, runs *runs.Service, hub *watch.Hub, guard *auth.Guard, limits *limit.Limiter, options Options, log *zap.Logger) http.Handler {
	var (
		calls    = api.New(runs, hub, db, log)
		json     = rest.New(calls, hub, options.PublicURL, log)
		receiver = webhook.New(db, options.WebhookSecrets, options.AppID, log)
		graphql  = graph.New(calls, options.PublicURL, log)
		socket   = watch.NewSocket(hub, runs, options.PublicURL, log)
		page     = pages.New(runs, calls, log)
		sign     = signin.New(guard, page, options.PublicURL, options.GitHub, log)
		ops      = service.OpsHandler(db)
		mux      = http.NewServeMux()
	)
	type serve = func(http.ResponseWriter, *http.Request) error
	plain := func(s serve) http.Handler { return problem.Handler(log, s) }
	quick := func(s serve) http.Handler { return within(plain(s)) }
	stream := func(s serve) http.Handler { return patient.Handler(plain(s)) }

	mux.Handle("POST /api/v1/runs", quick(json.CreateRun))
	mux.Handle("GET /api/v1/runs", quick(json.ListRuns))
	mux.Handle("GET /api/v1/runs/{id}", quick(json.GetRun))
	mux.Handle("GET /api/v1/runs/{id}/events", stream(json.RunEvents))
	mux.Handle("POST /api/v1/runs/{id}/cancel", quick(json.CancelRun))
	mux.Handle("POST /api/v1/runs/{id}/rerun", quick(json.RerunRun))
	mux.Handle("GET /api/v1/jobs/{id}", quick(json.GetJob))
	mux.Handle("GET /api/v1/jobs/{id}/log", stream(json.JobLog))
	mux.Handle("GET /api/v1/queue", quick(json.ListQueue))
	mux.Handle("GET /api/v1/workers", quick(json.ListWorkers))
	mux.Handle("GET /api/v1/repositories", quick(json.ListRepositories))
	mux.Handle("GET /api/v1/repositories/{repository}", quick(json.GetRepository))
	mux.Handle("PATCH /api/v1/repositories/{repository}", quick(json.UpdateRepository))
	mux.Handle("GET /api/v1/approvals", quick(json.ListApprovals))
	mux.Handle("GET /api/v1/approvals/{id}", quick(json.GetApproval))
	mux.Handle("POST /api/v1/approvals/{id}/approve", quick(json.Approve))
	mux.Handle("POST /api/v1/approvals/{id}/reject", quick(json.Reject))
	mux.Handle("GET /api/v1/repositories/{repository}/stats", quick(json.GetRepositoryStats))
	mux.Handle("GET /api/v1/watch", plain(socket.Serve))
	mux.Handle("POST /api/v1/tokens", quick(json.CreateToken))
	mux.Handle("GET /api/v1/tokens", quick(json.ListTokens))
	mux.Handle("GET /api/v1/tokens/{id}", quick(json.GetToken))
	mux.Handle("POST /api/v1/tokens/{id}/revoke", quick(json.RevokeToken))
	mux.Handle("GET /api/v1/audit", quick(json.ListAudit))
	mux.Handle("GET /api/v1/openapi.json", quick(openapi.Serve))
	for _, p := range rpc.Procedures(calls, log) {
		if p.Streams {
			mux.Handle(p.Path, patient.Handler(p.Handler))
		} else {
			mux.Handle(p.Path, within(p.Handler))
		}
	}
	mux.Handle("POST /graphql", plain(graphql.Post)) // it has a deadline of its own
	mux.Handle("GET /graphql", plain(graphql.Get))
	mux.Handle("POST /webhooks/github", quick(limits.Signed(receiver.Receive)))
	mux.Handle("GET /{$}", within(http.HandlerFunc(page.Index)))
	mux.Handle("GET /run/{id}", within(http.HandlerFunc(page.Run)))
	mux.Handle("GET /queue", within(http.HandlerFunc(page.Queue)))
	mux.Handle("GET /login", quick(sign.Page))
	mux.Handle("POST /login", quick(sign.Token))
	mux.Handle("POST /logout", quick(sign.Out))
	mux.Handle("GET /login/github", quick(sign.ToGitHub))
	mux.Handle("GET /login/github/callback", plain(limits.ByAddress(sign.FromGitHub))) // it has a deadline of its own
	mux.Handle("GET /static/{file}", quick(page.Static))
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		mux.Handle("GET "+path, ops)
	}
	return harden(front(admit(mux, guard, log), log), strings.HasPrefix(options.PublicURL, "https:"))
}

// within ends a request's context in time.
func within(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), requestLimit)
		defer cancel()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// forPeople are the pages: who may not see them is asked to sign in.
var forPeople = []string{"GET /{$}", "GET /run/{id}", "GET /queue"}

// admit passes what the guard lets pass, and says 404 and 405 as everything else here says what is wrong.
func admit(mux *http.ServeMux, guard *auth.Guard, log *zap.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		refuse, pattern := mux.Handler(r)
		if pattern != "" {
			admitted, err := guard.Admit(r, pattern)
			if err != nil {
				if slices.Contains(forPeople, pattern) && problem.Of(err).Status == http.StatusUnauthorized && r.Header.Get("Authorization") == "" {
					signin.Redirect(w, r)
					return
				}
				problem.Write(w, r, log, err)
				return
			}
			mux.ServeHTTP(w, admitted)
			return
		}
		answer := unsent{header: http.Header{}}
		refuse.ServeHTTP(&answer, r)
		if answer.status == http.StatusMethodNotAllowed {
			allowed := answer.header.Get("Allow")
			w.Header().Set("Allow", allowed)
			problem.Write(w, r, log, problem.New(answer.status, "method_not_allowed", "use "+allowed))
			return
		}
		if strings.HasPrefix(r.URL.Path, problem.Procedures) {
			problem.Write(w, r, log, problem.New(http.StatusNotImplemented, "unimplemented", "there is no such procedure"))
			return
		}
		problem.Write(w, r, log, problem.New(http.StatusNotFound, "not_found", "there is no such route"))
	})
}

// unsent keeps the head of an answer and drops the rest.
type unsent struct {
	header http.Header
	status int
}

func (u *unsent) Header() http.Header         { return u.header }
func (u *unsent) WriteHeader(status int)      { u.status = status }
func (u *unsent) Write(p []byte) (int, error) { return len(p), nil }

// harden tells browsers to run nothing that is not a file of ours, to show none of it elsewhere, to keep nothing unless a handler
// says so, and, where people come by https, to come by nothing else.
func harden(next http.Handler, https bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "+
			"base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin") // with no-referrer browsers hide a form's Origin also from ourselves
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Permissions-Policy", "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()")
		h.Set("Cache-Control", "no-store")
		if https {
			h.Set("Strict-Transport-Security", "max-age=31536000") // a year; what else lives below the host's name is not ours to say
		}
		next.ServeHTTP(w, r)
	})
}
