// Package repositories keeps what is known of repositories, and their settings.
package repositories

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"net/http"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/statements"
)

// What a fork's pull request does.
const (
	ForksRun    = "run"
	ForksAsk    = "ask"
	ForksIgnore = "ignore"
)

// Repository is what is known of one, and its settings.
type Repository struct {
	URL        string  `db:"repository"`
	MaxRunning *int32  `db:"max_running"` // jobs at once; nil: no limit
	Weight     float64 `db:"weight"`      // its share, beside that of others
	ForkPolicy string  `db:"fork_policy"`
	GitHubID   *int64  `db:"github_id"` // GitHub's number of it; nil: none has come in a delivery
}

//go:embed queries/*.sql
var queryFiles embed.FS

var query = statements.In(queryFiles)

// Service keeps repositories.
type Service struct{ pool *pgxpool.Pool }

// New keeps them in pool.
func New(pool *pgxpool.Pool) *Service { return &Service{pool} }

// Meet returns what is known of a repository that a delivery is about. GitHub's number of it is remembered when it is seen
// first; later another number under the same URL is a problem: what lies there now is somebody else's, or was made anew.
func (s *Service) Meet(ctx context.Context, url string, githubID int64) (Repository, error) {
	known, err := s.find(ctx, url)
	if err == nil && known.GitHubID == nil || errors.Is(err, pgx.ErrNoRows) {
		if _, err = s.pool.Exec(ctx, query("meet"), pgx.NamedArgs{"repository": url, "github_id": githubID}); err == nil {
			known, err = s.find(ctx, url)
		}
	}
	if err != nil {
		return Repository{}, fmt.Errorf("meet repository %s: %w", url, err)
	}
	if known.GitHubID == nil || *known.GitHubID != githubID {
		return Repository{}, problem.In("repository.id", http.StatusConflict, "another_repository", fmt.Sprintf(
			"%s is repository %d at GitHub as it is known here, and the delivery is about repository %d; if it was made anew, an operator says so with forget_github_id", url, deref(known.GitHubID), githubID))
	}
	return known, nil
}

func deref(n *int64) int64 {
	if n == nil { // forgotten a moment ago
		return 0
	}
	return *n
}

// Move gives a repository's settings and history a new URL, once. It reports whether there was anything to move: what is not
// known by the old URL and GitHub's number stays as it is.
func (s *Service) Move(ctx context.Context, from, to string, githubID int64) (moved bool, err error) {
	err = s.pool.QueryRow(ctx, "SELECT ci_move_repository(@from, @to, @github_id)", pgx.NamedArgs{"from": from, "to": to, "github_id": githubID}).Scan(&moved)
	if err != nil {
		return false, fmt.Errorf("move repository %s to %s: %w", from, to, err)
	}
	return moved, nil
}

// Get returns one repository; a problem says when nothing is known of it.
func (s *Service) Get(ctx context.Context, url string) (Repository, error) {
	found, err := s.find(ctx, url)
	if errors.Is(err, pgx.ErrNoRows) {
		return Repository{}, problem.New(http.StatusNotFound, "not_found", "nothing is set for this repository, and no delivery was about it")
	}
	if err != nil {
		return Repository{}, fmt.Errorf("read repository %s: %w", url, err)
	}
	return found, nil
}

func (s *Service) find(ctx context.Context, url string) (Repository, error) {
	rows, err := s.pool.Query(ctx, query("find"), pgx.NamedArgs{"repository": url})
	if err != nil {
		return Repository{}, err
	}
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Repository])
}

// List returns at most limit repositories by their URLs, those behind after; only, when it is not empty, is the one that may
// be seen.
func (s *Service) List(ctx context.Context, after, only string, limit int) ([]Repository, error) {
	rows, err := s.pool.Query(ctx, query("list"), pgx.NamedArgs{"after": after, "only": only, "limit": limit})
	if err != nil {
		return nil, fmt.Errorf("list repositories: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[Repository])
	if err != nil {
		return nil, fmt.Errorf("list repositories: %w", err)
	}
	return found, nil
}

// Change is what somebody wants of a repository; nil leaves as it is.
type Change struct {
	MaxRunning     *int32 // 0: no limit
	Weight         *float64
	ForkPolicy     *string
	ForgetGitHubID bool // the next delivery tells it anew
	By             string
}

// Change changes settings. A repository that was not known is known then.
func (s *Service) Change(ctx context.Context, url string, change Change) (changed Repository, err error) {
	args := pgx.NamedArgs{
		"repository": url, "max_running": change.MaxRunning, "weight": change.Weight, "fork_policy": change.ForkPolicy,
		"forget_github_id": change.ForgetGitHubID, "changed_by": change.By,
	}
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, query("know"), args); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, query("change"), args)
		if err != nil {
			return err
		}
		changed, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Repository])
		return err
	})
	if err != nil {
		return Repository{}, fmt.Errorf("change repository %s: %w", url, err)
	}
	return changed, nil
}
