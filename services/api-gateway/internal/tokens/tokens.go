// Package tokens makes, shows and ends API tokens. Package auth recognises them.
package tokens

import (
	"context"
	"crypto/rand"
	"embed"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	lockstepv1 "github.com/lockstep-ci/lockstep/services/api-gateway/gen/lockstep/v1"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/auth"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/runs"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/statements"
)

const (
	maxName    = 100 // characters
	secretSize = 32  // random bytes
	secretText = 43  // characters that hold them in base 62, which a double click selects as one word
	hintSize   = 4   // of those characters that are stored
)

//go:embed queries/*.sql
var queryFiles embed.FS

var query = statements.In(queryFiles)

// newSecret is a secret that nobody can guess.
func newSecret() string {
	random := make([]byte, secretSize)
	_, _ = rand.Read(random) // never fails
	text := new(big.Int).SetBytes(random).Text(62)
	return auth.Prefix + strings.Repeat("0", secretText-len(text)) + text
}

// Create makes the token that is asked for, unless it may more, sees more or lives longer than by, who asks. The secret is
// nowhere else.
func Create(ctx context.Context, pool *pgxpool.Pool, by auth.Principal, request *lockstepv1.CreateTokenRequest) (*lockstepv1.Token, string, error) {
	repository, expires, err := wanted(by, request)
	if err != nil {
		return nil, "", err
	}
	secret := newSecret()
	token, err := one(ctx, pool, "create", pgx.NamedArgs{
		"name": request.GetName(), "hash": auth.Hash(secret), "hint": secret[:len(auth.Prefix)+hintSize], "scope": request.GetScope(),
		"repository": repository, "created_by": by.Name, "expires_at": expires,
	})
	var refused *pgconn.PgError
	switch {
	case errors.As(err, &refused) && refused.ConstraintName == "one_token_of_a_name":
		return nil, "", problem.In("name", http.StatusConflict, "name_taken",
			"there is a token of this name: revoke it, or use another name; if its secret was lost with an answer, nobody has it")
	case errors.Is(err, pgx.ErrNoRows):
		return nil, "", invalid("expires_at", "is in the past")
	case err != nil:
		return nil, "", fmt.Errorf("create token %q: %w", request.GetName(), err)
	}
	return token, secret, nil
}

// wanted checks a request and what it may ask for.
func wanted(by auth.Principal, request *lockstepv1.CreateTokenRequest) (repository *string, expires *time.Time, err error) {
	name, right := request.GetName(), auth.Scopes[request.GetScope()]
	switch {
	case name == "" || len([]rune(name)) > maxName || strings.TrimSpace(name) != name || strings.ContainsFunc(name, func(c rune) bool { return !unicode.IsPrint(c) || c == unicode.ReplacementChar }):
		return nil, nil, invalid("name", fmt.Sprintf("give 1 to %d printable characters without spaces around them", maxName))
	case right == auth.Nobody:
		return nil, nil, invalid("scope", "is read, run or admin")
	case !by.May(right):
		return nil, nil, tooMuch("scope", "it may not do more than the one that makes it")
	}
	if request.Repository != nil {
		canonical, err := runs.Repository(request.GetRepository())
		if err != nil {
			return nil, nil, invalid("repository", err.Error())
		}
		repository = &canonical
	}
	if by.Repository != "" && (repository == nil || *repository != by.Repository) {
		return nil, nil, tooMuch("repository", "it must be "+by.Repository+", as for the one that makes it")
	}
	if request.ExpiresAt != nil {
		if err := request.ExpiresAt.CheckValid(); err != nil {
			return nil, nil, invalid("expires_at", "is no time")
		}
		at := request.ExpiresAt.AsTime()
		expires = &at
	}
	if !by.Expires.IsZero() && (expires == nil || expires.After(by.Expires)) {
		return nil, nil, tooMuch("expires_at", "it must end by "+by.Expires.UTC().Format(time.RFC3339)+", with the one that makes it")
	}
	return repository, expires, nil
}

func invalid(field, detail string) error {
	return problem.In(field, http.StatusUnprocessableEntity, "invalid_field", detail)
}

func tooMuch(field, detail string) error {
	return problem.In(field, http.StatusForbidden, "token_exceeds_its_maker", detail)
}

// List returns tokens whose id is below before, the newest first, at most limit of them; of repository only, unless it is empty.
func List(ctx context.Context, pool *pgxpool.Pool, repository string, before int64, limit int) ([]*lockstepv1.Token, error) {
	rows, err := pool.Query(ctx, query("list"), pgx.NamedArgs{"repository": repository, "before": before, "limit": limit})
	if err != nil {
		return nil, fmt.Errorf("list tokens: %w", err)
	}
	found, err := pgx.CollectRows(rows, scan)
	if err != nil {
		return nil, fmt.Errorf("list tokens: %w", err)
	}
	return found, nil
}

// Get returns a token, or jobs.ErrNotFound.
func Get(ctx context.Context, pool *pgxpool.Pool, id int64) (*lockstepv1.Token, error) {
	token, err := one(ctx, pool, "get", pgx.NamedArgs{"id": id})
	if errors.Is(err, pgx.ErrNoRows) {
		err = jobs.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("read token %d: %w", id, err)
	}
	return token, nil
}

// Revoke ends a token. One that was revoked before stays as it is.
func Revoke(ctx context.Context, pool *pgxpool.Pool, id int64, by string) (*lockstepv1.Token, error) {
	if _, err := pool.Exec(ctx, query("revoke"), pgx.NamedArgs{"id": id, "revoked_by": by}); err != nil {
		return nil, fmt.Errorf("revoke token %d: %w", id, err)
	}
	return Get(ctx, pool, id)
}

func one(ctx context.Context, pool *pgxpool.Pool, name string, args pgx.NamedArgs) (*lockstepv1.Token, error) {
	rows, err := pool.Query(ctx, query(name), args)
	if err != nil {
		return nil, err
	}
	return pgx.CollectExactlyOneRow(rows, scan)
}

func scan(row pgx.CollectableRow) (*lockstepv1.Token, error) {
	t := &lockstepv1.Token{}
	var created time.Time
	var expires, used, revoked *time.Time
	err := row.Scan(&t.Id, &t.Name, &t.Hint, &t.Scope, &t.Repository, &created, &t.CreatedBy, &expires, &used, &revoked, &t.RevokedBy)
	t.CreatedAt, t.ExpiresAt, t.LastUsedAt, t.RevokedAt = timestamppb.New(created), timestamp(expires), timestamp(used), timestamp(revoked)
	return t, err
}

func timestamp(at *time.Time) *timestamppb.Timestamp {
	if at == nil {
		return nil
	}
	return timestamppb.New(*at)
}
