// Package graph serves the definition as GraphQL: queries and mutations by POST, subscriptions over graphql-transport-ws. It
// hands everything to api.Service, as REST and RPC do; what one request may ask for at all is bounded here.
package graph

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/99designs/gqlgen/graphql"
	"github.com/99designs/gqlgen/graphql/executor"
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"
	"go.uber.org/zap"

	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/api"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/graph/generated"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/watch"
)

//go:embed schema.graphql
var schema []byte

const (
	queryLimit = 5 * time.Second // for all that one query or mutation asks
	maxBody    = 256 << 10       // bytes of a request
)

// Handler serves /graphql.
type Handler struct {
	service *api.Service
	exec    *executor.Executor
	origin  string // of PUBLIC_URL
	log     *zap.Logger
	sockets atomic.Int64
}

// New serves what service has. Browsers may open sockets from pages of publicURL, or of the host they connect to.
func New(service *api.Service, publicURL string, log *zap.Logger) *Handler {
	h := &Handler{
		service: service, origin: publicURL, log: log,
		exec: executor.New(generated.NewExecutableSchema(generated.Config{Resolvers: root{service}})),
	}
	h.exec.SetParserTokenLimit(maxTokens)
	h.exec.SetErrorPresenter(h.present)
	h.exec.SetRecoverFunc(func(_ context.Context, value any) error { return fmt.Errorf("resolver panicked: %v", value) })
	return h
}

// Post answers POST /graphql: one query or mutation. What is no GraphQL request is a problem, as everywhere; what is one is
// answered in GraphQL's way, and with 200 once it was executed.
func (h *Handler) Post(w http.ResponseWriter, r *http.Request) error {
	if err := watch.CheckOrigin(r, h.origin); err != nil { // a browser may send credentials that its page does not have
		return err
	}
	params, err := readRequest(w, r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), queryLimit)
	defer cancel()
	operation, errs := h.open(ctx, params)
	if errs == nil && operation.Operation.Operation == ast.Subscription {
		errs = gqlerror.List{h.present(ctx, problem.New(http.StatusBadRequest, "subscription_by_post", "subscribe over a WebSocket that speaks "+protocol))}
	}
	if errs != nil {
		h.write(w, r, refusedStatus(errs), refusal{errs})
		return nil
	}
	respond, ctx := h.exec.DispatchOperation(withLookups(ctx, h.service, operation), operation)
	h.write(w, r, http.StatusOK, respond(ctx))
	return nil
}

// open reads an operation and judges it: whether it is one, what it costs, and who may. Every error is as it is told.
func (h *Handler) open(ctx context.Context, params *graphql.RawParams) (operation *graphql.OperationContext, errs gqlerror.List) {
	defer func() {
		if value := recover(); value != nil { // of the parser
			errs = gqlerror.List{h.present(ctx, fmt.Errorf("parser panicked: %v", value))}
		}
	}()
	operation, errs = h.exec.CreateOperationContext(graphql.StartOperationTrace(ctx), params)
	if len(errs) > 0 {
		return nil, h.presentAll(ctx, errs)
	}
	operation.DisableIntrospection = false
	if err := judge(operation); err != nil {
		return nil, gqlerror.List{h.present(ctx, err)}
	}
	if err := require(ctx, operation); err != nil {
		return nil, gqlerror.List{h.present(ctx, err)}
	}
	return operation, nil
}

// refusal answers what was not executed: it has no data, not even null.
type refusal struct {
	Errors gqlerror.List `json:"errors"`
}

// write answers in the media type that the client knows.
func (h *Handler) write(w http.ResponseWriter, r *http.Request, status int, answer any) {
	kind := "application/json"
	if accepted := "application/graphql-response+json"; strings.Contains(r.Header.Get("Accept"), accepted) {
		kind = accepted
	}
	w.Header().Set("Content-Type", kind)
	problem.Headers(w, &problem.Problem{Status: status})
	w.WriteHeader(status)
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(answer) // a client that has gone needs no answer
}

// Get answers GET /graphql: subscriptions to a WebSocket, the schema to anybody else. A query in a URL would be in logs, and a
// link could ask it.
func (h *Handler) Get(w http.ResponseWriter, r *http.Request) error {
	switch {
	case r.URL.RawQuery != "":
		return problem.New(http.StatusBadRequest, "unknown_parameter", "send queries by POST")
	case strings.EqualFold(r.Header.Get("Upgrade"), "websocket"):
		return h.socket(w, r)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-cache")
	_, _ = w.Write(schema)
	return nil
}
