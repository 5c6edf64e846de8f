// Package auth decides who may do what. Every request passes the one Guard, whichever interface it is for; behind it From tells
// who asks.
package auth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/limit"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
)

// admin is the name of whoever sends ADMIN_TOKEN.
const admin = "admin"

// Options say who may come in, beside those with a token in the database.
type Options struct {
	AdminToken    string
	AnonymousRead bool            // everybody may read
	GitHubUsers   map[int64]Right // whom GitHub may tell us, by his number, and what he may
	PublicURL     string          // where the pages are, without a final slash
	Limits        *limit.Limiter
}

// Guard lets requests pass that may.
type Guard struct {
	pool      *pgxpool.Pool
	admin     [sha256.Size]byte // comparing hashes tells nothing about the length either
	anonymous bool
	users     map[int64]Right
	cookie    string // its name
	publicURL string
	origins   *http.CrossOriginProtection
	limits    *limit.Limiter
	serving   serving
	log       *zap.Logger
}

// New makes a guard that finds tokens in pool. Run must run for streams to end with their token.
func New(options Options, pool *pgxpool.Pool, log *zap.Logger) *Guard {
	origins := http.NewCrossOriginProtection()
	if err := origins.AddTrustedOrigin(options.PublicURL); err != nil {
		panic(err) // the settings were checked
	}
	return &Guard{
		pool: pool, admin: sha256.Sum256([]byte(options.AdminToken)), anonymous: options.AnonymousRead, users: options.GitHubUsers,
		cookie: Cookie(options.PublicURL, sessionCookie, "", 0).Name, publicURL: options.PublicURL, origins: origins, limits: options.Limits,
		serving: serving{requests: map[*request]struct{}{}, used: map[int64]bool{}}, log: log,
	}
}

// Admit returns the request with who sends it, for From, or the problem that refuses it. The pattern is the mux's. Its context
// ends when the token or the session does: a stream is not for ever either.
func (g *Guard) Admit(r *http.Request, pattern string) (*http.Request, error) {
	right := Needs(pattern)
	switch right {
	case Nobody:
		return nil, problem.New(http.StatusForbidden, "forbidden", "nobody may do this")
	case Anybody:
		return r, nil
	}
	p, ctx, err := g.identify(r)
	if err != nil {
		return nil, err
	}
	ctx = With(ctx, p)
	if err := Require(ctx, right); err != nil {
		return nil, err
	}
	return r.WithContext(ctx), nil
}

// identify finds out who sends a request. A wrong token is refused, also where none is needed; a cookie that has had its time
// counts as none, for a browser sends it without being asked. A token counts more than a cookie.
func (g *Guard) identify(r *http.Request) (Principal, context.Context, error) {
	header := r.Header.Get("Authorization")
	if header == "" {
		p, holds, found, err := g.session(r)
		switch {
		case err != nil:
			return Principal{}, nil, err
		case found:
			return p, g.serving.begin(r.Context(), holds), nil
		}
		p = Principal{Name: Anonymous, Right: Anybody}
		if g.anonymous {
			p.Right = Read
		}
		return p, r.Context(), nil
	}
	scheme, secret, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return Principal{}, nil, unauthorized("send the token as `Authorization: Bearer <token>`")
	}
	p, token, err := g.check(r, secret)
	if err != nil || token == 0 {
		return p, r.Context(), err
	}
	return p, g.serving.begin(r.Context(), holds{token: token}), nil
}

// check finds out whose secret it is, and the id of his token, 0 for ADMIN_TOKEN.
func (g *Guard) check(r *http.Request, secret string) (p Principal, token int64, err error) {
	hash := sha256.Sum256([]byte(secret))
	if err := g.limits.Try(r, hash); err != nil {
		return Principal{}, 0, err
	}
	p = Principal{Name: admin, Right: Admin}
	if subtle.ConstantTimeCompare(hash[:], g.admin[:]) != 1 {
		var found bool
		p, token, found, err = g.token(r.Context(), secret)
		switch {
		case err != nil:
			return Principal{}, 0, err
		case !found:
			return Principal{}, 0, g.limits.Wrong(r, hash, unauthorized("the token is wrong, has expired or was revoked"))
		}
	}
	return p, token, g.limits.Right(r, hash)
}
