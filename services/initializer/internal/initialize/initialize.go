// Package initialize is the stage that answers what a commit wants to run.
package initialize

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/source"
	"github.com/lockstep-ci/lockstep/services/initializer/internal/git"
	"github.com/lockstep-ci/lockstep/services/initializer/internal/plan"
)

// Initializer answers. Use New.
type Initializer struct {
	db     *pgxpool.Pool
	git    *git.Client
	labels []string
}

// New makes an Initializer. labels are those that the runners here have.
func New(db *pgxpool.Pool, client *git.Client, labels []string) *Initializer {
	return &Initializer{db: db, git: client, labels: labels}
}

// Initialize fetches the commit of the job's run, plans it and stores its source. What the user can mend ends the job
// as a failure with the reason; an error is worth another try.
func (in *Initializer) Initialize(ctx context.Context, job *jobs.Job) (jobs.Result, error) {
	a := answer{job: job, ref: job.Ref, sha: job.HeadSHA}
	err := in.answer(ctx, &a)
	var fault *git.Fault
	switch {
	case errors.As(err, &fault):
		a.refuse(jobs.StatusFailure, fault.Error())
	case errors.Is(err, source.ErrTooLarge):
		a.refuse(jobs.StatusFailure, fmt.Sprintf("the commit is too large: its tree may have %d MiB, and %d MiB packed",
			source.MaxTreeBytes>>20, source.MaxPackedBytes>>20))
	case err != nil:
		return jobs.Result{}, fmt.Errorf("initialize run %d: %w", job.RunID, err)
	}
	return a.result(), nil
}

func (in *Initializer) answer(ctx context.Context, a *answer) error {
	if err := in.resolve(ctx, a); err != nil {
		return err
	}
	commit, err := in.git.Fetch(ctx, a.job.Repository, a.sha)
	if err != nil {
		return err
	}
	defer func() { _ = commit.Close() }() // what cannot be removed now is removed with the client's folder
	a.sha = commit.SHA

	files, err := commit.Workflows(ctx)
	if err != nil {
		return err
	}
	if len(files) == 0 {
		a.refuse(jobs.StatusFailure, "the commit has no workflow: there is no *.yml or *.yaml file in .ci/workflows or .github/workflows")
		return nil
	}
	planned, err := in.plan(ctx, a, commit, files)
	if err != nil {
		return err
	}
	if len(planned.Jobs)+len(planned.Bad) == 0 {
		a.refuse(jobs.StatusSkipped, fmt.Sprintf("none of the %d workflow files wants to run on this event: %s of %s", len(files), a.job.Event, a.ref))
		return nil
	}
	var sourceID int64
	if len(planned.Jobs) > 0 {
		sourceID, err = source.Store(ctx, in.db, a.job.Repository, commit.Tree, func(w io.Writer) error {
			return commit.Archive(ctx, w)
		})
		if err != nil {
			return err
		}
	}
	var limited bool
	if err := in.db.QueryRow(ctx, query("limited"), pgx.NamedArgs{"repository": a.job.Repository}).Scan(&limited); err != nil {
		return fmt.Errorf("read the limit of the repository: %w", err)
	}
	return a.take(planned, sourceID, limited)
}

// resolve finds out which commit is meant, and the full name of its ref.
func (in *Initializer) resolve(ctx context.Context, a *answer) error {
	if a.sha != "" && (a.ref == "" || strings.HasPrefix(a.ref, "refs/")) {
		return nil
	}
	ref, sha, err := in.git.Resolve(ctx, a.job.Repository, a.ref)
	if err != nil {
		return err
	}
	a.ref = ref
	if a.sha == "" { // else the commit was named, and stays
		a.sha = sha
	}
	return nil
}

func (in *Initializer) plan(ctx context.Context, a *answer, commit *git.Commit, files []git.File) (plan.Plan, error) {
	event := plan.Event{
		Name: a.job.Event, Ref: a.ref, SHA: a.sha, Repository: ownerAndName(a.job.Repository), Actor: a.job.Author,
		BaseBranch: strings.TrimPrefix(a.job.BaseRef, "refs/heads/"),
	}
	if base := a.job.BaseSHA; base != "" {
		event.Changed = changedOnce(func() ([]string, bool, error) { return commit.Changed(ctx, base) })
	}
	workflows := make([]plan.File, len(files))
	for i, f := range files {
		workflows[i] = plan.File(f)
	}
	return plan.Make(workflows, event, in.labels)
}

// changedOnce asks once, however many workflows want to know.
func changedOnce(ask func() ([]string, bool, error)) func() ([]string, bool, error) {
	var (
		asked bool
		paths []string
		known bool
		err   error
	)
	return func() ([]string, bool, error) {
		if !asked {
			asked = true
			paths, known, err = ask()
		}
		return paths, known, err
	}
}

// ownerAndName is what GitHub calls a repository: the path of its URL; of a file URL the last two parts.
func ownerAndName(repository string) string {
	u, err := url.Parse(repository)
	if err != nil {
		return repository
	}
	if u.Scheme != "file" {
		return strings.Trim(u.Path, "/")
	}
	owner, name := path.Split(path.Clean(u.Path))
	return path.Join(path.Base(owner), strings.TrimSuffix(name, ".git"))
}
