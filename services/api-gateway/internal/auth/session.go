package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
)

const (
	// SessionOf is how the name of a principal begins who has signed in to the pages.
	SessionOf = "session of "

	sessionCookie = "lockstep"
	sessionLasts  = 12 * time.Hour // at most: it also ends with its token
	secretBytes   = 32             // of a cookie
)

var (
	//go:embed queries/session.sql
	sessionSQL string
	//go:embed queries/begin_session.sql
	beginSessionSQL string
	//go:embed queries/end_session.sql
	endSessionSQL string
)

// Cookie is one for the pages at publicURL, that no script reads and no other site's request carries but a link. Behind https its
// name makes browsers refuse it from anybody but this very host (RFC 6265bis, the prefix __Host-). Without a value it goes.
func Cookie(publicURL, name, value string, lasts time.Duration) *http.Cookie {
	secure := strings.HasPrefix(publicURL, "https://")
	if secure {
		name = "__Host-" + name
	}
	age := int(lasts / time.Second)
	if value == "" {
		age = -1
	}
	return &http.Cookie{Name: name, Value: value, Path: "/", MaxAge: age, HttpOnly: true, Secure: secure, SameSite: http.SameSiteLaxMode}
}

// SignIn begins a session of whoever has this token, and returns its cookie; a problem (401) if nobody has.
func (g *Guard) SignIn(r *http.Request, secret string) (*http.Cookie, error) {
	p, token, err := g.check(r, secret)
	if err != nil {
		return nil, err
	}
	return g.beginSession(r.Context(), p.Name, token, 0)
}

// SignInGitHub begins a session of the user that GitHub has told us, by his number, if he is one who may come in.
func (g *Guard) SignInGitHub(ctx context.Context, user int64) (*http.Cookie, error) {
	if g.users[user] == Nobody {
		return nil, problem.New(http.StatusForbidden, "forbidden", fmt.Sprintf("GitHub knows you as user %d, who may not come in here; "+
			"whoever runs this Lockstep can add that number to GITHUB_OAUTH_USERS", user))
	}
	return g.beginSession(ctx, "github:"+strconv.FormatInt(user, 10), 0, user)
}

func (g *Guard) beginSession(ctx context.Context, of string, token, github int64) (*http.Cookie, error) {
	random := make([]byte, secretBytes)
	_, _ = rand.Read(random) // it never fails
	value := base64.RawURLEncoding.EncodeToString(random)
	hash := Hash(value)
	if of == admin {
		hash = g.adminHash(value)
	}
	if _, err := g.pool.Exec(ctx, beginSessionSQL, pgx.NamedArgs{
		"hash": hash, "principal": SessionOf + of, "token": token, "github": github, "lasts": sessionLasts,
	}); err != nil {
		return nil, fmt.Errorf("begin session of %s: %w", of, err)
	}
	return Cookie(g.publicURL, sessionCookie, value, sessionLasts), nil
}

// adminHash is what is stored of a session of ADMIN_TOKEN: with another ADMIN_TOKEN it is not found, and so has ended.
func (g *Guard) adminHash(value string) []byte { return Hash(value + string(g.admin[:])) }

// SignOut ends the session of a request, if it has one, and returns the cookie that makes the browser forget it.
func (g *Guard) SignOut(r *http.Request) (*http.Cookie, error) {
	if value := g.cookieOf(r); value != "" {
		if _, err := g.pool.Exec(r.Context(), endSessionSQL, pgx.NamedArgs{"hashes": g.hashes(value)}); err != nil {
			return nil, fmt.Errorf("end session: %w", err)
		}
	}
	return Cookie(g.publicURL, sessionCookie, "", 0), nil
}

// cookieOf is the value of a request's cookie, or empty where it has none that could be ours.
func (g *Guard) cookieOf(r *http.Request) string {
	for _, cookie := range r.CookiesNamed(g.cookie) {
		if len(cookie.Value) == base64.RawURLEncoding.EncodedLen(secretBytes) {
			return cookie.Value
		}
	}
	return ""
}

func (g *Guard) hashes(value string) [][]byte { return [][]byte{Hash(value), g.adminHash(value)} }

// session returns whose cookie a request has, or false. It asks each time, as for a token.
func (g *Guard) session(r *http.Request) (p Principal, h holds, found bool, err error) {
	value := g.cookieOf(r)
	if value == "" {
		return Principal{}, holds{}, false, g.limits.Anonymous(r)
	}
	hash := sha256.Sum256([]byte(value))
	if err := g.limits.Cookie(r, hash); err != nil {
		return Principal{}, holds{}, false, err
	}
	var user int64
	var scope string
	var expires *time.Time
	err = g.pool.QueryRow(r.Context(), sessionSQL, pgx.NamedArgs{"hashes": g.hashes(value)}).
		Scan(&h.session, &p.Name, &h.token, &user, &scope, &p.Repository, &expires)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return Principal{}, holds{}, false, nil
	case err != nil:
		return Principal{}, holds{}, false, fmt.Errorf("look up session: %w", err)
	}
	switch {
	case h.token != 0:
		p.Right = Scopes[scope]
	case user != 0:
		p.Right = g.users[user]
	default:
		p.Right = Admin
	}
	if expires != nil {
		p.Expires = *expires
	}
	if p.Right == Nobody { // no longer in the settings
		return Principal{}, holds{}, false, nil
	}
	if err := g.limits.Right(r, hash); err != nil {
		return Principal{}, holds{}, false, err
	}
	return p, h, true, g.OwnPage(r)
}

// OwnPage refuses what a browser sends for a page of another site: it adds the cookie without asking whose page it is. A link from
// there may show a page; nothing else may read, and nothing may write, also when nobody says which page it comes from.
func (g *Guard) OwnPage(r *http.Request) error {
	site := r.Header.Get("Sec-Fetch-Site")
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		if site == "" || site == "same-origin" || site == "none" || r.Header.Get("Sec-Fetch-Mode") == "navigate" {
			return nil
		}
	default:
		if (site != "" || r.Header.Get("Origin") != "") && g.origins.Check(r) == nil {
			return nil
		}
	}
	return problem.New(http.StatusForbidden, "cross_site", "with a cookie only the pages of this site may do this; programs send the header `Authorization: Bearer <token>`")
}
