package runs

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
)

// window bounds the runs that are looked at for one page.
const window = 10_000

// Filter is what a run must be to be listed. nil asks nothing.
type Filter struct {
	Repository  *string // as Repository reads it
	Status      *string
	Event       *string
	Ref         *string // a branch, tag or full ref
	PullRequest *int32
	Only        string // the one repository that the asker sees; empty: all
}

// canonical returns the filter in the words of the table, or *Invalid.
func (f Filter) canonical() (Filter, error) {
	if f.Repository != nil {
		repository, err := RepositoryInPath(*f.Repository)
		if err != nil {
			return f, &Invalid{"repository", err.Error()}
		}
		f.Repository = &repository
	}
	if f.Status != nil {
		if status := jobs.Status(*f.Status); status != jobs.StatusNew && status != jobs.StatusRunning && !status.Final() {
			return f, &Invalid{"status", "is new, running, success, failure, error, cancelled or skipped"}
		}
	}
	if f.Event != nil && !slices.Contains([]string{"push", "pull_request", "workflow_dispatch", "manual"}, *f.Event) {
		return f, &Invalid{"event", "is push, pull_request, workflow_dispatch or manual"}
	}
	if f.Ref != nil {
		if *f.Ref == "" {
			return f, &Invalid{"ref", "is empty: give a branch, tag or full ref"}
		}
		if err := CheckRef(*f.Ref); err != nil {
			return f, &Invalid{"ref", err.Error()}
		}
	}
	if f.PullRequest != nil && *f.PullRequest < 1 {
		return f, &Invalid{"pull_request", "is a number from 1"}
	}
	return f, nil
}

// refs are the spellings under which a ref may be stored; it is what was asked for until an initializer has resolved it.
func (f Filter) refs() []string {
	switch {
	case f.Ref == nil:
		return nil
	case strings.HasPrefix(*f.Ref, "refs/"):
		return []string{*f.Ref}
	}
	return []string{*f.Ref, "refs/heads/" + *f.Ref, "refs/tags/" + *f.Ref}
}

// Page is some of the runs that fit a filter, by their ids.
type Page struct {
	IDs  []int64
	Next int64 // the page behind has ids below this one; 0: there is none
}

// List returns the newest runs that fit and whose id is below before: at most limit of them, and fewer where looking for them
// takes too long. It returns *Invalid for a filter that cannot be.
func (s *Service) List(ctx context.Context, filter Filter, before int64, limit int) (Page, error) {
	filter, err := filter.canonical()
	if err != nil {
		return Page{}, err
	}
	if filter.Only != "" {
		if filter.Repository != nil && *filter.Repository != filter.Only {
			return Page{}, nil
		}
		filter.Repository = &filter.Only
	}
	// Planned anew each time, by its values: what is not filtered by is no condition then, and the repository has an index.
	rows, err := s.db.Pool().Query(ctx, query("latest"), pgx.QueryExecModeCacheDescribe, pgx.NamedArgs{
		"before": before, "limit": limit + 1, "window": window, "repository": filter.Repository, "status": filter.Status,
		"event": filter.Event, "refs": filter.refs(), "pull_request": filter.PullRequest,
	})
	if err != nil {
		return Page{}, fmt.Errorf("list runs: %w", err)
	}
	var page Page
	var id, place int64
	var fits bool
	_, err = pgx.ForEachRow(rows, []any{&id, &fits, &place}, func() error {
		if len(page.IDs) == limit { // one more than asked for
			page.Next = page.IDs[limit-1]
			return nil
		}
		if fits {
			page.IDs = append(page.IDs, id)
		}
		if place == window {
			page.Next = id
		}
		return nil
	})
	if err != nil {
		return Page{}, fmt.Errorf("list runs: %w", err)
	}
	return page, nil
}
