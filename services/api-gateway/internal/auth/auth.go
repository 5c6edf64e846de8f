// Package auth decides who may do what. Every request passes the one Guard, whichever interface it is for. There is one token
// until there are several.
package auth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"strings"

	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
)

// admin is whose idempotency keys those of the admin token are.
const admin = "admin"

// Guard lets requests pass that may.
type Guard struct {
	token     [sha256.Size]byte // comparing hashes tells nothing about the length either
	anonymous bool
}

// New guards with the admin token; with anonymous, everybody may read.
func New(token string, anonymous bool) *Guard {
	return &Guard{token: sha256.Sum256([]byte(token)), anonymous: anonymous}
}

// Admit returns the request with who sends it, for Principal, or the problem that refuses it. The pattern is the mux's.
//
// Write needs `Authorization: Bearer`. Read is content with HTTP Basic, the token as the password, which is how a browser can
// ask for it; a browser sends that also when another site makes it post, so it never writes.
func (g *Guard) Admit(w http.ResponseWriter, r *http.Request, pattern string) (*http.Request, error) {
	right := Needs(pattern)
	_, password, basic := r.BasicAuth()
	switch {
	case right == Nobody:
		return nil, problem.New(http.StatusForbidden, "forbidden", "nobody may do this")
	case g.bearer(r):
		return r.WithContext(context.WithValue(r.Context(), principal{}, admin)), nil
	case right == Anybody, right == Read && (g.anonymous || basic && g.is(password)):
		return r, nil
	case right == Read:
		w.Header().Add("WWW-Authenticate", `Basic realm="Lockstep: any name, the token as password", charset="UTF-8"`)
	}
	w.Header().Add("WWW-Authenticate", `Bearer realm="Lockstep"`)
	detail := "send the header `Authorization: Bearer <token>`"
	if r.Header.Get("Authorization") != "" {
		detail = "the token is wrong, or it is not sent as `Authorization: Bearer <token>`"
	}
	return nil, problem.In("Authorization", http.StatusUnauthorized, "unauthorized", detail)
}

type principal struct{}

// Principal is who sends a request that writes: whose its idempotency key is.
func Principal(ctx context.Context) string {
	name, _ := ctx.Value(principal{}).(string)
	return name
}

func (g *Guard) bearer(r *http.Request) bool {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return strings.EqualFold(scheme, "Bearer") && g.is(token)
}

func (g *Guard) is(token string) bool {
	sum := sha256.Sum256([]byte(token))
	return subtle.ConstantTimeCompare(sum[:], g.token[:]) == 1
}
