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
	AnonymousRead bool // everybody may read
	Limits        *limit.Limiter
}

// Guard lets requests pass that may.
type Guard struct {
	pool      *pgxpool.Pool
	admin     [sha256.Size]byte // comparing hashes tells nothing about the length either
	anonymous bool
	limits    *limit.Limiter
	serving   serving
	log       *zap.Logger
}

// New makes a guard that finds tokens in pool. Run must run for streams to end with their token.
func New(options Options, pool *pgxpool.Pool, log *zap.Logger) *Guard {
	return &Guard{
		pool: pool, admin: sha256.Sum256([]byte(options.AdminToken)), anonymous: options.AnonymousRead, limits: options.Limits,
		serving: serving{requests: map[*request]struct{}{}, used: map[int64]bool{}}, log: log,
	}
}

// Admit returns the request with who sends it, for From, or the problem that refuses it. The pattern is the mux's. Its context
// ends when the token does: a stream is not for ever either.
//
// Write needs `Authorization: Bearer`. Read is content with HTTP Basic, the token as the password, which is how a browser can
// ask for it; a browser sends that also when another site makes it post, so it never writes.
func (g *Guard) Admit(w http.ResponseWriter, r *http.Request, pattern string) (*http.Request, error) {
	right := Needs(pattern)
	switch right {
	case Nobody:
		return nil, problem.New(http.StatusForbidden, "forbidden", "nobody may do this")
	case Anybody:
		return r, nil
	}
	p, ctx, err := g.identify(r, right)
	if err != nil {
		return nil, g.challenge(w, right, err)
	}
	if _, _, basic := r.BasicAuth(); basic { // also where what is asked for decides, as at /graphql
		p.Right = min(p.Right, Read)
	}
	ctx = With(ctx, p)
	if err := Require(ctx, right); err != nil {
		return nil, g.challenge(w, right, err)
	}
	return r.WithContext(ctx), nil
}

// challenge tells a client that is refused with 401 what it may send.
func (g *Guard) challenge(w http.ResponseWriter, right Right, err error) error {
	if problem.Of(err).Status == http.StatusUnauthorized {
		if right == Read {
			w.Header().Add("WWW-Authenticate", `Basic realm="Lockstep: any name, the token as password", charset="UTF-8"`)
		}
		w.Header().Add("WWW-Authenticate", `Bearer realm="Lockstep"`)
	}
	return err
}

// identify finds out who sends a request. Wrong credentials are refused, also where none are needed.
func (g *Guard) identify(r *http.Request, right Right) (Principal, context.Context, error) {
	header := r.Header.Get("Authorization")
	if header == "" {
		if err := g.limits.Anonymous(r); err != nil {
			return Principal{}, nil, err
		}
		p := Principal{Name: Anonymous, Right: Anybody}
		if g.anonymous {
			p.Right = Read
		}
		return p, r.Context(), nil
	}
	scheme, secret, _ := strings.Cut(header, " ")
	if _, password, basic := r.BasicAuth(); basic && right == Read {
		secret = password
	} else if !strings.EqualFold(scheme, "Bearer") {
		return Principal{}, nil, unauthorized("send the token as `Authorization: Bearer <token>`")
	}
	return g.check(r, secret)
}

// check finds out whose secret it is.
func (g *Guard) check(r *http.Request, secret string) (Principal, context.Context, error) {
	hash := sha256.Sum256([]byte(secret))
	if err := g.limits.Try(r, hash); err != nil {
		return Principal{}, nil, err
	}
	p, ctx := Principal{Name: admin, Right: Admin}, r.Context()
	if subtle.ConstantTimeCompare(hash[:], g.admin[:]) != 1 {
		of, token, found, err := g.token(r.Context(), secret)
		switch {
		case err != nil:
			return Principal{}, nil, err
		case !found:
			return Principal{}, nil, g.limits.Wrong(r, hash, unauthorized("the token is wrong, has expired or was revoked"))
		}
		p, ctx = of, g.serving.begin(r.Context(), token)
	}
	return p, ctx, g.limits.Right(r, hash)
}
