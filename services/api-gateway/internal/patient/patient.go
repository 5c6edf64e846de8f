// Package patient serves answers that may take as long as they like, of which no single piece may.
package patient

import (
	"net/http"
	"time"
)

const patience = 30 * time.Second // for a client to take one piece

// Handler gives each piece that next writes a deadline of its own, instead of the server's one for the whole answer. In between
// there is none: HTTP/2 would end an idle stream at it.
func Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out := &writer{ResponseWriter: w, control: http.NewResponseController(w)}
		out.limit(time.Time{})
		next.ServeHTTP(out, r)
	})
}

type writer struct {
	http.ResponseWriter
	control *http.ResponseController
}

func (w *writer) Write(p []byte) (int, error) {
	w.limit(time.Now().Add(patience))
	defer w.limit(time.Time{})
	return w.ResponseWriter.Write(p)
}

// Flush is how Connect sends a message off; an error comes again with the next Write.
func (w *writer) Flush() { _ = w.FlushError() }

// FlushError is what http.ResponseController looks for.
func (w *writer) FlushError() error {
	w.limit(time.Now().Add(patience))
	defer w.limit(time.Time{})
	return w.control.Flush()
}

// Unwrap lets http.ResponseController find the rest.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// limit ends writing at a time; zero is never.
func (w *writer) limit(at time.Time) { _ = w.control.SetWriteDeadline(at) } // our server's connections can
