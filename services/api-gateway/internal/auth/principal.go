package auth

import (
	"context"
	"net/http"
	"time"

	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
)

// Principal is who sends a request.
type Principal struct {
	// Name is what the audit log calls him, and whose idempotency keys his are: "admin", "token:7", "session of github:583231",
	// "github" (signed deliveries), "anonymous".
	Name string
	// Right is the most that he may: Admin includes Write, Write includes Read.
	Right Right
	// Repository is the only one that he sees; empty: all.
	Repository string
	// Expires is when his token ends by itself; zero: never.
	Expires time.Time
}

// Anonymous is who sends no credentials.
const Anonymous = "anonymous"

// May reports whether somebody's right is enough.
func (p Principal) May(right Right) bool { return right != Nobody && p.Right >= right }

// Sees reports whether a repository, by the URL that it is stored under, is there for him. What he does not see is not found.
func (p Principal) Sees(repository string) bool {
	return p.Repository == "" || p.Repository == repository
}

type principalKey struct{}

// With is a context of a request of p.
func With(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// From is who sends the request of a context: nobody known, who may do nothing, unless the Guard has let him in.
func From(ctx context.Context) Principal {
	p, known := ctx.Value(principalKey{}).(Principal)
	if !known {
		return Principal{Name: Anonymous, Right: Anybody}
	}
	return p
}

// Require returns nil, or the problem that refuses whoever has not this right: 401 when he has shown no credentials, else 403.
// It is for what lies behind one route, as the fields of GraphQL do.
func Require(ctx context.Context, right Right) error {
	p := From(ctx)
	switch {
	case p.May(right):
		return nil
	case p.Name == Anonymous && right != Nobody:
		return unauthorized("send the header `Authorization: Bearer <token>`")
	}
	return problem.New(http.StatusForbidden, "forbidden", "your credentials have not the scope that this needs: "+right.scope())
}

func unauthorized(detail string) error {
	return problem.In("Authorization", http.StatusUnauthorized, "unauthorized", detail)
}
