package gateway

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
)

const (
	deliveries = "/webhooks/" // may have large bodies; package webhook limits them
	maxBody    = 256 << 10    // bytes of the body of any other request; most routes take less
)

// front is what every request passes first, whatever its route: it gets an id and a limit on its body, what no route takes is
// refused, and a handler that panics still gives an answer.
func front(next http.Handler, log *zap.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r = problem.Identify(w, r)
		out := &answer{ResponseWriter: w}
		defer func() {
			cause := recover()
			switch err, _ := cause.(error); {
			case cause == nil:
				return
			case errors.Is(err, http.ErrAbortHandler):
				panic(http.ErrAbortHandler)
			}
			log.Error("handler panicked", zap.String("request", r.Method+" "+r.URL.Path), zap.String("request_id", problem.RequestID(r.Context())),
				zap.Any("panic", cause), zap.ByteString("stack", debug.Stack()))
			if out.begun {
				panic(http.ErrAbortHandler) // half an answer must not look whole
			}
			problem.Answer(out, r, fmt.Errorf("panic: %v", cause))
		}()
		if err := takable(r); err != nil {
			problem.Write(out, r, log, err)
			return
		}
		if !strings.HasPrefix(r.URL.Path, deliveries) {
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		}
		next.ServeHTTP(out, r)
	})
}

// takable refuses what no route has a use for, and would otherwise be passed over in silence.
func takable(r *http.Request) error {
	names := parameters(r.URL.RawQuery)
	for _, secret := range []string{"access_token", "token", "api_key", "apikey", "auth", "authorization", "password", "secret"} {
		if slices.Contains(names, secret) {
			return problem.In(secret, http.StatusBadRequest, "secret_in_url",
				"URLs are logged and shared: send a token in the header Authorization, and revoke the one that was in this URL")
		}
	}
	if values := r.URL.Query(); strings.HasPrefix(r.URL.Path, problem.Procedures) && values.Get("base64") == "1" {
		if _, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(values.Get("message"), "=")); err != nil { // Connect would answer 500
			return problem.In("message", http.StatusBadRequest, "invalid_parameter", "is not base64url")
		}
	}
	switch encoding := r.Header.Get("Content-Encoding"); {
	case (r.Method == http.MethodGet || r.Method == http.MethodHead) && (r.ContentLength != 0 || strings.Trim(r.Header.Get("Content-Length"), "0") != ""):
		return problem.New(http.StatusBadRequest, "unexpected_body", r.Method+" has no body: send none")
	case encoding != "" && !strings.EqualFold(encoding, "identity") && !strings.HasPrefix(r.URL.Path, problem.Procedures): // RPC unpacks
		return problem.In("Content-Encoding", http.StatusUnsupportedMediaType, "unsupported_encoding", "send the body as it is, not packed")
	}
	return nil
}

// parameters are the names in a query in lower case, also of one that cannot be read as a whole.
func parameters(query string) []string {
	var names []string
	for _, pair := range strings.FieldsFunc(query, func(r rune) bool { return r == '&' || r == ';' }) {
		name, _, _ := strings.Cut(pair, "=")
		if plain, err := url.QueryUnescape(name); err == nil {
			names = append(names, strings.ToLower(plain))
		}
	}
	return names
}

// answer knows whether anything of it has been sent.
type answer struct {
	http.ResponseWriter
	begun bool
}

func (a *answer) WriteHeader(status int) {
	a.begun = true
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(p []byte) (int, error) {
	a.begun = true
	return a.ResponseWriter.Write(p)
}

// Flush is what Connect asks for; Unwrap is for http.ResponseController, Hijack for WebSockets.
func (a *answer) Flush() { _ = a.FlushError() }

// FlushError is what http.ResponseController looks for.
func (a *answer) FlushError() error {
	a.begun = true
	return http.NewResponseController(a.ResponseWriter).Flush()
}

// Hijack hands the connection over.
func (a *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	a.begun = true
	return http.NewResponseController(a.ResponseWriter).Hijack()
}

// Unwrap lets http.ResponseController find the rest.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }
