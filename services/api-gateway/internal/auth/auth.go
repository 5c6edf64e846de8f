// Package auth decides who may read and who may write. There is one token until there are several.
package auth

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"strings"

	"go.uber.org/zap"

	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
)

// Principal is whose idempotency keys those of the admin token are.
const Principal = "admin"

// Guard lets requests pass that may.
type Guard struct {
	token     [sha256.Size]byte // comparing hashes tells nothing about the length either
	anonymous bool
	log       *zap.Logger
}

// New guards with the admin token; with anonymous, everybody may read.
func New(token string, anonymous bool, log *zap.Logger) *Guard {
	return &Guard{token: sha256.Sum256([]byte(token)), anonymous: anonymous, log: log}
}

// Read passes whoever may read: by `Authorization: Bearer`, or by HTTP Basic with the token as the password, which is
// how a browser can ask for it.
func (g *Guard) Read(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, password, basic := r.BasicAuth()
		if g.anonymous || g.bearer(r) || basic && g.is(password) {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Add("WWW-Authenticate", `Basic realm="Lockstep: any name, the token as password", charset="UTF-8"`)
		g.refuse(w, r)
	})
}

// Write passes whoever may change something: by `Authorization: Bearer` alone. A browser sends Basic credentials also when
// another site makes it post.
func (g *Guard) Write(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g.bearer(r) {
			next.ServeHTTP(w, r)
			return
		}
		g.refuse(w, r)
	})
}

func (g *Guard) bearer(r *http.Request) bool {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return strings.EqualFold(scheme, "Bearer") && g.is(token)
}

func (g *Guard) is(token string) bool {
	sum := sha256.Sum256([]byte(token))
	return subtle.ConstantTimeCompare(sum[:], g.token[:]) == 1
}

func (g *Guard) refuse(w http.ResponseWriter, r *http.Request) {
	w.Header().Add("WWW-Authenticate", `Bearer realm="Lockstep"`)
	detail := "send the header `Authorization: Bearer <token>`"
	if r.Header.Get("Authorization") != "" {
		detail = "the token is wrong, or it is not sent as `Authorization: Bearer <token>`"
	}
	problem.Write(w, r, g.log, problem.In("Authorization", http.StatusUnauthorized, "unauthorized", detail))
}
