// Package gateway puts the ways in together: which route leads where, and who may take it.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/service"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/auth"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/pages"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/rest"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/runs"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/watch"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/webhook"
)

const (
	requestLimit  = 10 * time.Second // for what the database does for one request
	shutdownLimit = 10 * time.Second // for requests in flight
)

// Options are the gateway's settings.
type Options struct {
	AdminToken     string
	WebhookSecrets []string
	PublicURL      string // where people find it, without a final slash
	AnonymousRead  bool
}

// Gateway serves all routes.
type Gateway struct {
	hub     *watch.Hub
	handler http.Handler
	log     *zap.Logger
}

// New serves from db.
func New(db *jobs.DB, options Options, log *zap.Logger) *Gateway {
	runs := runs.New(db, options.PublicURL)
	hub := watch.NewHub(db, runs, log)
	return &Gateway{hub: hub, handler: routes(db, runs, hub, options, log), log: log}
}

func routes(db *jobs.DB, runs *runs.Service, hub *watch.Hub, options Options, log *zap.Logger) http.Handler {
	var (
		guard    = auth.New(options.AdminToken, options.AnonymousRead, log)
		api      = rest.New(runs, hub, db.Pool(), log)
		receiver = webhook.New(db, options.WebhookSecrets, log)
		socket   = watch.NewSocket(hub, runs, options.PublicURL, log)
		page     = pages.New(runs, log)
		ops      = service.OpsHandler(db)
		mux      = http.NewServeMux()
	)
	type serve = func(http.ResponseWriter, *http.Request) error
	stream := func(s serve) http.Handler { return problem.Handler(log, s) }
	quick := func(s serve) http.Handler { return within(requestLimit, stream(s)) }

	mux.Handle("POST /api/v1/runs", guard.Write(quick(api.CreateRun)))
	mux.Handle("GET /api/v1/runs", guard.Read(quick(api.ListRuns)))
	mux.Handle("GET /api/v1/runs/{id}", guard.Read(quick(api.GetRun)))
	mux.Handle("POST /api/v1/runs/{id}/cancel", guard.Write(quick(api.Cancel)))
	mux.Handle("POST /api/v1/runs/{id}/rerun", guard.Write(quick(api.Rerun)))
	mux.Handle("GET /api/v1/jobs/{id}/log", guard.Read(stream(api.JobLog)))
	mux.Handle("GET /api/v1/watch", guard.Read(stream(socket.Serve)))
	mux.Handle("POST /webhooks/github", quick(receiver.Receive)) // guarded by its signature
	mux.Handle("GET /{$}", guard.Read(within(requestLimit, http.HandlerFunc(page.Index))))
	mux.Handle("GET /run/{id}", guard.Read(within(requestLimit, http.HandlerFunc(page.Run))))
	mux.Handle("GET /static/{file}", quick(page.Static))
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		mux.Handle("GET "+path, ops)
	}
	return harden(withProblems(mux, log))
}

// within ends a request's context in time.
func within(limit time.Duration, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), limit)
		defer cancel()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// withProblems makes the mux say 404 and 405 as everything else here says what is wrong.
func withProblems(mux *http.ServeMux, log *zap.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		refuse, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r)
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

// harden tells browsers to run nothing that is not a file of ours, and to show none of it elsewhere.
func harden(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "+
			"base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		next.ServeHTTP(w, r)
	})
}

// Serve answers on listener until ctx ends; then it sends watchers away, finishes the requests in flight and returns nil.
func (g *Gateway) Serve(ctx context.Context, listener net.Listener) error {
	server := &http.Server{
		Handler:           g.handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      60 * time.Second, // followed logs set their own, for each piece
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          zap.NewStdLog(g.log),
	}
	hubDone := make(chan struct{})
	go func() { defer close(hubDone); g.hub.Run(ctx) }()

	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve %s: %w", listener.Addr(), err)
	case <-ctx.Done():
	}
	<-hubDone
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownLimit)
	defer cancel()
	if err := server.Shutdown(closing); err != nil {
		g.log.Warn("requests in flight were cut off", zap.Error(err))
		return errors.Join(server.Close(), nil)
	}
	return nil
}
