// Package runs accepts and shows runs, whichever interface asks.
package runs

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/joblog"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/statements"
)

// Summary is a run without its jobs. Unknown values are nil.
type Summary struct {
	ID          string      `db:"id"`
	Repository  string      `db:"repository"`
	Ref         *string     `db:"ref"`
	HeadSHA     *string     `db:"head_sha"`
	Event       string      `db:"event"`
	PullRequest *int32      `db:"pull_request"`
	Title       *string     `db:"title"`  // the commit's first line, or the pull request's title
	Author      *string     `db:"author"` // who caused it
	Status      jobs.Status `db:"status"`
	URL         string      `db:"-"` // of the page that follows it
	CreatedAt   time.Time   `db:"created_at"`
	FinishedAt  *time.Time  `db:"finished_at"`
}

// Run is a run with its jobs, as one moment of the database shows it.
type Run struct {
	Summary
	Version int64 `db:"version"` // rises with every change that anybody could see
	Jobs    []Job `db:"jobs"`
}

// Job is one job of a run with the steps of its latest attempt. The names in JSON are those of read.sql.
type Job struct {
	ID         string      `json:"id"`
	Name       string      `json:"name"`
	Status     jobs.Status `json:"status"`
	Attempt    int32       `json:"attempt"` // which claim of the job this is; 0: none yet
	Reason     string      `json:"reason"`  // why it waits, or why it ended so
	StartedAt  *time.Time  `json:"started_at"`
	FinishedAt *time.Time  `json:"finished_at"`
	Steps      []Step      `json:"steps"`
}

// Step is one step of a job.
type Step struct {
	Number     int32      `json:"number"`
	Name       string     `json:"name"`
	Status     string     `json:"status"` // pending, running, success, failure, cancelled, skipped or error
	ExitCode   *int32     `json:"exit_code"`
	StartedAt  *time.Time `json:"started_at"`
	FinishedAt *time.Time `json:"finished_at"`
	LogOffset  *int64     `json:"log_offset"` // first byte of its output in the attempt's log
}

// failedJobs bounds the jobs whose output FailedOutput reads: a matrix often fails for one reason.
const failedJobs = 5

//go:embed queries/*.sql
var queryFiles embed.FS

var query = statements.In(queryFiles)

// Service accepts and shows runs.
type Service struct {
	db        *jobs.DB
	publicURL string // without a final slash
}

// New serves from db; publicURL is where people find the pages, without a final slash.
func New(db *jobs.DB, publicURL string) *Service {
	return &Service{db: db, publicURL: publicURL}
}

// Get returns one run, or jobs.ErrNotFound.
func (s *Service) Get(ctx context.Context, id int64) (Run, error) {
	found, err := s.Read(ctx, []int64{id})
	if err != nil {
		return Run{}, err
	}
	if len(found) == 0 {
		return Run{}, fmt.Errorf("read run %d: %w", id, jobs.ErrNotFound)
	}
	return found[0], nil
}

// Read returns those of the runs that exist, the newest first, in one statement.
func (s *Service) Read(ctx context.Context, ids []int64) ([]Run, error) {
	found, err := collect(ctx, s, "read", pgx.NamedArgs{"runs": ids}, pgx.RowToStructByName[Run])
	for i := range found {
		found[i].URL = s.pageURL(found[i].ID)
	}
	return found, err
}

// ReadBare is Read for less: the runs have neither version nor jobs.
func (s *Service) ReadBare(ctx context.Context, ids []int64) ([]Run, error) {
	found, err := collect(ctx, s, "read_bare", pgx.NamedArgs{"runs": ids}, func(row pgx.CollectableRow) (Run, error) {
		summary, err := pgx.RowToStructByName[Summary](row)
		return Run{Summary: summary}, err
	})
	for i := range found {
		found[i].URL = s.pageURL(found[i].ID)
	}
	return found, err
}

// ReadOfJobs returns the runs that have one of the jobs.
func (s *Service) ReadOfJobs(ctx context.Context, jobs []int64) ([]Run, error) {
	ids, err := collect(ctx, s, "of_jobs", pgx.NamedArgs{"jobs": jobs}, pgx.RowTo[int64])
	if err != nil {
		return nil, err
	}
	return s.Read(ctx, ids)
}

// Summaries returns the newest runs without their jobs, at most limit of them; of repository only, unless it is empty.
func (s *Service) Summaries(ctx context.Context, repository string, limit int) ([]Summary, error) {
	name := "summaries"
	if repository != "" {
		name = "summaries_of_repository"
	}
	found, err := collect(ctx, s, name, pgx.NamedArgs{"repository": repository, "limit": limit}, pgx.RowToStructByName[Summary])
	for i := range found {
		found[i].URL = s.pageURL(found[i].ID)
	}
	return found, err
}

// Versions returns the version of each of the runs that exists.
func (s *Service) Versions(ctx context.Context, ids []int64) (map[int64]int64, error) {
	rows, err := s.db.Pool().Query(ctx, query("versions"), pgx.NamedArgs{"runs": ids})
	if err != nil {
		return nil, fmt.Errorf("read versions of runs: %w", err)
	}
	versions := map[int64]int64{}
	var id, version int64
	_, err = pgx.ForEachRow(rows, []any{&id, &version}, func() error { versions[id] = version; return nil })
	if err != nil {
		return nil, fmt.Errorf("read versions of runs: %w", err)
	}
	return versions, nil
}

// RepositoryOf returns whose run it is, or jobs.ErrNotFound.
func (s *Service) RepositoryOf(ctx context.Context, run int64) (repository string, err error) {
	err = s.db.Pool().QueryRow(ctx, query("repository_of"), pgx.NamedArgs{"run": run}).Scan(&repository)
	if errors.Is(err, pgx.ErrNoRows) {
		err = jobs.ErrNotFound
	}
	if err != nil {
		return "", fmt.Errorf("read repository of run %d: %w", run, err)
	}
	return repository, nil
}

// Place is where a job belongs.
type Place struct {
	Run     int64
	Attempt int32     // the latest; 0: none yet
	LogDay  time.Time // part of the key of its log
}

// PlaceOf returns where a job belongs, or jobs.ErrNotFound.
func (s *Service) PlaceOf(ctx context.Context, job int64) (place Place, err error) {
	err = s.db.Pool().QueryRow(ctx, query("place_of"), pgx.NamedArgs{"job": job}).Scan(&place.Run, &place.Attempt, &place.LogDay)
	if errors.Is(err, pgx.ErrNoRows) {
		err = jobs.ErrNotFound
	}
	if err != nil {
		return Place{}, fmt.Errorf("read job %d: %w", job, err)
	}
	return place, nil
}

// FailedOutput returns the end of what the failing step printed, at most limit bytes of it, for the first failed jobs of
// a run by their id.
func (s *Service) FailedOutput(ctx context.Context, run int64, limit int) (map[string][]byte, error) {
	type place struct {
		Job           int64
		Attempt       int
		LogDay        time.Time
		First, Behind int64
	}
	places, err := collect(ctx, s, "failed_output", pgx.NamedArgs{"run": run, "jobs": failedJobs}, pgx.RowToStructByPos[place])
	if err != nil {
		return nil, err
	}
	output := map[string][]byte{}
	for _, p := range places {
		from := max(p.First, p.Behind-int64(limit))
		if p.Behind <= from {
			continue
		}
		text, _, err := joblog.NewReader(s.db.Pool(), p.LogDay, p.Job, p.Attempt).ReadFrom(ctx, from, int(p.Behind-from))
		if err != nil {
			return nil, err
		}
		output[strconv.FormatInt(p.Job, 10)] = text
	}
	return output, nil
}

// Cancel asks for a run's end, on behalf of principal, and returns the run as it is then.
func (s *Service) Cancel(ctx context.Context, id int64, principal string) (Run, error) {
	if err := s.db.Cancel(ctx, id, principal); err != nil {
		return Run{}, err
	}
	return s.Get(ctx, id)
}

func (s *Service) pageURL(id string) string { return s.publicURL + "/run/" + id }

// Job returns the job of a run, or nil.
func (r *Run) Job(id int64) *Job {
	text := strconv.FormatInt(id, 10)
	for i := range r.Jobs {
		if r.Jobs[i].ID == text {
			return &r.Jobs[i]
		}
	}
	return nil
}

// ParseID reads the id of a run or job: decimal digits, from 1.
func ParseID(text string) (int64, bool) {
	id, err := strconv.ParseInt(text, 10, 64)
	return id, err == nil && id > 0 && strconv.FormatInt(id, 10) == text
}

func collect[T any](ctx context.Context, s *Service, name string, args pgx.NamedArgs, row pgx.RowToFunc[T]) ([]T, error) {
	rows, err := s.db.Pool().Query(ctx, query(name), args)
	if err != nil {
		return nil, fmt.Errorf("read runs (%s): %w", name, err)
	}
	found, err := pgx.CollectRows(rows, row)
	if err != nil {
		return nil, fmt.Errorf("read runs (%s): %w", name, err)
	}
	return found, nil
}
