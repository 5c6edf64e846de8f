// Package problem answers requests that cannot be served: as application/problem+json (RFC 9457), or as an error of Connect or
// gRPC. What an error means to a client is decided here, once for all interfaces.
package problem

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"go.uber.org/zap"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/runs"
)

const (
	// KeyHeader is where REST has idempotency_key.
	KeyHeader  = "Idempotency-Key"
	retryAfter = 2 // seconds, when the database is away
)

// Problem is what went wrong, in words for people and in a code for programs. Codes are part of the API: they stay.
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Code   string `json:"code"`
	Field  string `json:"field,omitempty"` // the field, parameter or header that is wrong
	Detail string `json:"detail"`
	// RequestID is what to look for in the log.
	RequestID string `json:"request_id,omitempty"`
	// RetryAfter is in how many seconds it may go better; 0: not said.
	RetryAfter int `json:"-"`
}

// New is a problem with an HTTP status, a code and a sentence that says what to do about it.
func New(status int, code, detail string) *Problem {
	return &Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Code: code, Detail: detail}
}

// In is New with the field, parameter or header that is wrong.
func In(field string, status int, code, detail string) *Problem {
	p := New(status, code, detail)
	p.Field = field
	return p
}

const maxField = 100 // characters of a name that a client has made up

// field is the name of what is wrong, not all of a long one.
func (p *Problem) field() string {
	if name := []rune(p.Field); len(name) > maxField {
		return string(name[:maxField-1]) + "…"
	}
	return p.Field
}

// Error makes a Problem an error, so that handlers return it.
func (p *Problem) Error() string {
	if p.Field != "" {
		return p.Field + ": " + p.Detail
	}
	return p.Detail
}

// Of is the problem that an error means to a client. What is our own fault is told without its details.
func Of(err error) *Problem {
	var p *Problem
	var tooLarge *http.MaxBytesError
	var invalid *runs.Invalid
	switch {
	case errors.As(err, &p):
		return p
	case errors.As(err, &invalid):
		return In(invalid.Field, http.StatusUnprocessableEntity, "invalid_field", invalid.Reason)
	case errors.As(err, &tooLarge):
		return New(http.StatusRequestEntityTooLarge, "body_too_large", fmt.Sprintf("the body may have at most %d bytes", tooLarge.Limit))
	case errors.Is(err, jobs.ErrNotFound):
		return New(http.StatusNotFound, "not_found", "there is nothing of this id that you may see")
	case errors.Is(err, jobs.ErrEnded):
		return New(http.StatusConflict, "run_ended", "the run has ended; a final state is never left")
	case errors.Is(err, jobs.ErrKeyReused):
		return In(KeyHeader, http.StatusUnprocessableEntity, "idempotency_key_reused", "this key was used for another request; use a new one")
	case jobs.Unavailable(err):
		return New(http.StatusServiceUnavailable, "database_unavailable", "the database does not answer; try again")
	}
	return New(http.StatusInternalServerError, "internal", "something went wrong here; the log of api-gateway says what")
}

// Write answers with the problem that err means, and logs it when it is not the client's.
func Write(w http.ResponseWriter, r *http.Request, log *zap.Logger, err error) {
	Log(r.Context(), log, r.Method+" "+r.URL.Path, err)
	Answer(w, r, err)
}

// Answer is Write without the log.
func Answer(w http.ResponseWriter, r *http.Request, err error) {
	p := *Of(err)
	p.Field, p.RequestID = p.field(), RequestID(r.Context())
	Headers(w, &p)
	if isRPC(r) {
		_ = rpcErrors.Write(w, r, RPC(r.Context(), err)) // as below
		return
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false) // it is read in terminals; nosniff keeps browsers from taking it for HTML
	_ = encoder.Encode(p)        // a client that has gone needs no answer
}

// Message is a problem as WebSocket and SSE tell it: a JSON object of type "problem".
func Message(p *Problem) []byte {
	text, err := json.Marshal(struct {
		Type string `json:"type"`
		*Problem
	}{"problem", p})
	if err != nil {
		panic(err) // it is made of strings and a number
	}
	return text
}

// Headers sets what every answer with this problem carries, however its body looks.
func Headers(w http.ResponseWriter, p *Problem) {
	w.Header().Set("Cache-Control", "no-store")
	if p.Status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="Lockstep"`)
	}
	if seconds := p.retryAfter(); seconds > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(seconds))
	}
}

func (p *Problem) retryAfter() int {
	if p.Status == http.StatusServiceUnavailable {
		return retryAfter
	}
	return p.RetryAfter
}

// Log writes a problem of ours down; a client's mistake, or its going away, is not worth a line. asked is what was asked for.
func Log(ctx context.Context, log *zap.Logger, asked string, err error) {
	p := Of(err)
	if p.Status < http.StatusInternalServerError || p.Status == http.StatusNotImplemented || ctx.Err() != nil {
		return
	}
	level := zap.ErrorLevel
	if p.Status == http.StatusServiceUnavailable { // not a fault of the code: it passes
		level = zap.WarnLevel
	}
	log.Log(level, "request not served", zap.String("request", asked), zap.String("request_id", RequestID(ctx)), zap.String("code", p.Code), zap.Error(err))
}

// Handler serves a function that returns its problem instead of writing it.
func Handler(log *zap.Logger, serve func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := serve(w, r); err != nil {
			Write(w, r, log, err)
		}
	})
}
