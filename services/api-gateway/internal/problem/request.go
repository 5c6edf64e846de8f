package problem

import (
	"context"
	"crypto/rand"
	"net/http"
	"regexp"
)

// RequestIDHeader names a request, in its answer and in our log. What a client or proxy calls it is kept.
const RequestIDHeader = "X-Request-Id"

var requestID = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,64}$`)

type requestKey struct{}

// Identify gives a request the name that it came with, if that can be one, or a new one, and tells the client.
func Identify(w http.ResponseWriter, r *http.Request) *http.Request {
	id := r.Header.Get(RequestIDHeader)
	if !requestID.MatchString(id) {
		id = rand.Text()
	}
	w.Header().Set(RequestIDHeader, id)
	return r.WithContext(context.WithValue(r.Context(), requestKey{}, id))
}

// RequestID is the name of the request that a context is of.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestKey{}).(string)
	return id
}
