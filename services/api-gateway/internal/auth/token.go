package auth

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Prefix is how the secret of every API token begins, so that whatever looks for leaked secrets knows one.
const Prefix = "lst_"

//go:embed queries/token.sql
var tokenSQL string

// Hash is what is stored of a secret. It has 256 random bits, so that nobody can guess it from a fast hash either.
func Hash(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}

// token returns whose secret it is, or false. It asks each time: a revoked token stops at once, on every gateway.
func (g *Guard) token(ctx context.Context, secret string) (p Principal, id int64, found bool, err error) {
	if !strings.HasPrefix(secret, Prefix) {
		return Principal{}, 0, false, nil
	}
	var scope string
	var expires *time.Time
	err = g.pool.QueryRow(ctx, tokenSQL, pgx.NamedArgs{"hash": Hash(secret)}).Scan(&id, &scope, &p.Repository, &expires)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return Principal{}, 0, false, nil
	case err != nil:
		return Principal{}, 0, false, fmt.Errorf("look up token: %w", err)
	}
	if expires != nil {
		p.Expires = *expires
	}
	p.Name, p.Right = "token:"+strconv.FormatInt(id, 10), Scopes[scope]
	return p, id, true, nil
}
