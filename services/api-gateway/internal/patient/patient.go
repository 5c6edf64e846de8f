// Package patient serves answers that may take as long as they like, of which no single piece may.
package patient

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
)

const (
	maxBody  = 64 << 10         // bytes of a request
	patience = 30 * time.Second // for a client to take one piece
)

// ReadBody reads what a request holds.
func ReadBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, err
	case err != nil:
		return nil, problem.New(http.StatusBadRequest, "incomplete_body", "the body did not arrive")
	}
	return body, nil
}

// Handler takes the server's deadlines away from next, once the request has arrived within them.
func Handler(log *zap.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := ReadBody(w, r)
		if err != nil {
			problem.Write(w, r, log, err)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		out := &writer{ResponseWriter: w, control: http.NewResponseController(w)}
		// The deadline for reading would also end the wait for the client's going away, and by that the request.
		_ = out.control.SetReadDeadline(time.Time{}) // all servers of ours can
		out.limit(0)
		next.ServeHTTP(out, r)
	})
}

// writer gives the client some time for each piece. In between there is no deadline: HTTP/2 would end an idle stream at it.
type writer struct {
	http.ResponseWriter
	control *http.ResponseController
}

func (w *writer) Write(p []byte) (int, error) {
	w.limit(patience)
	defer w.limit(0)
	return w.ResponseWriter.Write(p)
}

// Flush is how Connect sends a message off; an error comes again with the next Write.
func (w *writer) Flush() { _ = w.FlushError() }

// FlushError is what http.ResponseController looks for.
func (w *writer) FlushError() error {
	w.limit(patience)
	defer w.limit(0)
	return w.control.Flush()
}

// Unwrap lets http.ResponseController find the rest.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *writer) limit(d time.Duration) {
	var deadline time.Time // none
	if d > 0 {
		deadline = time.Now().Add(d)
	}
	_ = w.control.SetWriteDeadline(deadline) // as above
}
