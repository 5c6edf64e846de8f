package service

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
)

// OpsHandler serves /healthz (the process runs), /readyz (the database answers and its schema is new enough) and
// /metrics (Prometheus).
func OpsHandler(db *jobs.DB) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := db.Ready(r.Context()); err != nil {
			w.Header().Set("Retry-After", "2")
			http.Error(w, "the database is not ready", http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, "ok")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(db.Metrics(), promhttp.HandlerOpts{}))
	return mux
}

// ServeOps serves OpsHandler on addr until ctx ends, in the background. It returns an error when it cannot listen;
// an empty addr is off.
func ServeOps(ctx context.Context, addr string, db *jobs.DB, log *zap.Logger) error {
	if addr == "" {
		return nil
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("OPS_ADDR: %w", err)
	}
	server := &http.Server{Handler: OpsHandler(db), ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("stopped serving OPS_ADDR", zap.Error(err))
		}
	}()
	log.Info("serving health and metrics", zap.String("addr", listener.Addr().String()))
	return nil
}
