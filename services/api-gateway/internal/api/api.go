// Package api does what the definition (proto/lockstep/v1) says, once for all interfaces: REST, Connect and gRPC hand their
// requests to one Service and show its answers, each in its own way. An error is one that package problem can tell.
package api

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	lockstepv1 "github.com/lockstep-ci/lockstep/services/api-gateway/gen/lockstep/v1"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/approvals"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/auth"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/queue"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/repositories"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/runs"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/watch"
)

const maxKey = 255 // characters of an idempotency key

// Service is RunService, JobService, QueueService, TokenService and AuditService. Who calls is said by auth.From of the context.
type Service struct {
	runs *runs.Service
	hub  *watch.Hub
	pool *pgxpool.Pool

	repositories *repositories.Service
	approvals    *approvals.Service

	log *zap.Logger
}

// New serves from db; what changes is told by hub.
func New(service *runs.Service, hub *watch.Hub, db *jobs.DB, log *zap.Logger) *Service {
	return &Service{runs: service, hub: hub, pool: db.Pool(), repositories: repositories.New(db.Pool()), approvals: approvals.New(db), log: log}
}

// CreateRun accepts a run.
func (s *Service) CreateRun(ctx context.Context, request *lockstepv1.CreateRunRequest) (*lockstepv1.CreateRunResponse, error) {
	key, err := idempotencyKey(request.IdempotencyKey)
	if err != nil {
		return nil, err
	}
	wanted := runs.Request{Repository: request.GetRepository(), Ref: request.GetRef(), SHA: request.GetSha()}
	by := auth.From(ctx)
	if by.Repository != "" {
		if asked, err := runs.Repository(wanted.Repository); err == nil && !by.Sees(asked) {
			return nil, problem.In("repository", http.StatusNotFound, "not_found", "your credentials are for "+by.Repository)
		}
	}
	run, replayed, err := s.runs.Create(ctx, wanted, by.Name, key)
	if err != nil {
		return nil, err
	}
	s.accepted(run, replayed)
	return &lockstepv1.CreateRunResponse{Run: run.Message(), Replayed: replayed}, nil
}

// RerunRun accepts the same commit once more.
func (s *Service) RerunRun(ctx context.Context, request *lockstepv1.RerunRunRequest) (*lockstepv1.RerunRunResponse, error) {
	key, err := idempotencyKey(request.IdempotencyKey)
	if err != nil {
		return nil, err
	}
	id, err := parseID(request.GetId())
	if err != nil {
		return nil, err
	}
	if err := s.visible(ctx, id); err != nil {
		return nil, err
	}
	run, replayed, err := s.runs.Rerun(ctx, id, auth.From(ctx).Name, key)
	if err != nil {
		return nil, err
	}
	s.accepted(run, replayed)
	return &lockstepv1.RerunRunResponse{Run: run.Message(), Replayed: replayed}, nil
}

func (s *Service) accepted(run runs.Run, replayed bool) {
	if !replayed {
		s.log.Info("run accepted", zap.String("run_id", run.ID), zap.String("repository", run.Repository), zap.String("event", run.Event))
	}
}

// CancelRun asks for a run's end.
func (s *Service) CancelRun(ctx context.Context, request *lockstepv1.CancelRunRequest) (*lockstepv1.CancelRunResponse, error) {
	id, err := parseID(request.GetId())
	if err != nil {
		return nil, err
	}
	if err := s.visible(ctx, id); err != nil {
		return nil, err
	}
	run, err := s.runs.Cancel(ctx, id, auth.From(ctx).Name)
	if err != nil {
		return nil, err
	}
	s.log.Info("run to be cancelled", zap.String("run_id", run.ID))
	return &lockstepv1.CancelRunResponse{Run: run.Message()}, nil
}

// GetRun shows a run.
func (s *Service) GetRun(ctx context.Context, request *lockstepv1.GetRunRequest) (*lockstepv1.GetRunResponse, error) {
	id, err := parseID(request.GetId())
	if err != nil {
		return nil, err
	}
	if err := s.visible(ctx, id); err != nil {
		return nil, err
	}
	run, err := s.runs.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	return &lockstepv1.GetRunResponse{Run: run.Message()}, nil
}

// GetRuns is GetRun for several at once: those that exist, by their id.
func (s *Service) GetRuns(ctx context.Context, ids []string) (map[string]*lockstepv1.Run, error) {
	found, err := s.runs.Read(ctx, validIDs(ids))
	if err != nil {
		return nil, err
	}
	answer := map[string]*lockstepv1.Run{}
	for i := range found {
		if auth.From(ctx).Sees(found[i].Repository) {
			answer[found[i].ID] = found[i].Message()
		}
	}
	return answer, nil
}

// RunsOfJobs is GetJob for several at once: the runs that have them, by the job's id.
func (s *Service) RunsOfJobs(ctx context.Context, ids []string) (map[string]*lockstepv1.Run, error) {
	found, err := s.runs.ReadOfJobs(ctx, validIDs(ids))
	if err != nil {
		return nil, err
	}
	answer := map[string]*lockstepv1.Run{}
	for i := range found {
		if !auth.From(ctx).Sees(found[i].Repository) {
			continue
		}
		run := found[i].Message()
		for _, job := range run.GetJobs() {
			answer[job.GetId()] = run
		}
	}
	return answer, nil
}

// validIDs leaves out what no run or job can have.
func validIDs(texts []string) (ids []int64) {
	for _, text := range texts {
		if id, valid := runs.ParseID(text); valid {
			ids = append(ids, id)
		}
	}
	return ids
}

// Version is a run's version: what GetRun would show, for less.
func (s *Service) Version(ctx context.Context, text string) (int64, error) {
	id, err := parseID(text)
	if err != nil {
		return 0, err
	}
	if err := s.visible(ctx, id); err != nil {
		return 0, err
	}
	versions, err := s.runs.Versions(ctx, []int64{id})
	if err != nil {
		return 0, err
	}
	version, exists := versions[id]
	if !exists {
		return 0, fmt.Errorf("read version of run %d: %w", id, jobs.ErrNotFound)
	}
	return version, nil
}

// ListRuns lists runs page by page.
func (s *Service) ListRuns(ctx context.Context, request *lockstepv1.ListRunsRequest) (*lockstepv1.ListRunsResponse, error) {
	return s.listRuns(ctx, request, s.runs.Read)
}

// ListBareRuns is ListRuns for less: the runs have neither version nor jobs.
func (s *Service) ListBareRuns(ctx context.Context, request *lockstepv1.ListRunsRequest) (*lockstepv1.ListRunsResponse, error) {
	return s.listRuns(ctx, request, s.runs.ReadBare)
}

func (s *Service) listRuns(ctx context.Context, request *lockstepv1.ListRunsRequest, read func(context.Context, []int64) ([]runs.Run, error)) (*lockstepv1.ListRunsResponse, error) {
	page, err := readPage(runsCursor, request.Limit, request.Cursor)
	if err != nil {
		return nil, err
	}
	filter := runs.Filter{
		Repository: request.Repository, Status: request.Status, Event: request.Event, Ref: request.Ref, PullRequest: request.PullRequest,
		Only: auth.From(ctx).Repository,
	}
	fits, err := s.runs.List(ctx, filter, page.before, page.limit)
	if err != nil {
		return nil, err
	}
	answer := &lockstepv1.ListRunsResponse{}
	if fits.Next != 0 {
		answer.NextCursor = sealCursor(runsCursor, strconv.FormatInt(fits.Next, 10))
	}
	found, err := read(ctx, fits.IDs)
	if err != nil {
		return nil, err
	}
	for i := range found {
		answer.Runs = append(answer.Runs, found[i].Message())
	}
	return answer, nil
}

// GetJob shows a job.
func (s *Service) GetJob(ctx context.Context, request *lockstepv1.GetJobRequest) (*lockstepv1.GetJobResponse, error) {
	id, err := parseID(request.GetId())
	if err != nil {
		return nil, err
	}
	place, err := s.runs.PlaceOf(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := s.visible(ctx, place.Run); err != nil {
		return nil, err
	}
	run, err := s.runs.Get(ctx, place.Run)
	if err != nil {
		return nil, err
	}
	job := run.Job(id)
	if job == nil {
		return nil, fmt.Errorf("read job %d of run %d: %w", id, place.Run, jobs.ErrNotFound)
	}
	return &lockstepv1.GetJobResponse{RunId: run.ID, Job: job.Message()}, nil
}

// ListQueue lists what waits.
func (s *Service) ListQueue(ctx context.Context, request *lockstepv1.ListQueueRequest) (*lockstepv1.ListQueueResponse, error) {
	limit, err := pageLimit(request.Limit)
	if err != nil {
		return nil, err
	}
	return queue.Read(ctx, s.pool, limit, auth.From(ctx).Repository)
}

// ListWorkers lists who works.
func (s *Service) ListWorkers(ctx context.Context, _ *lockstepv1.ListWorkersRequest) (*lockstepv1.ListWorkersResponse, error) {
	if err := everywhere(ctx); err != nil {
		return nil, err
	}
	found, err := queue.Workers(ctx, s.pool)
	return &lockstepv1.ListWorkersResponse{Workers: found}, err
}

// GetRepositoryStats tells how long a repository's runs took, and what came of them.
func (s *Service) GetRepositoryStats(ctx context.Context, request *lockstepv1.GetRepositoryStatsRequest) (*lockstepv1.GetRepositoryStatsResponse, error) {
	repository, err := runs.RepositoryInPath(request.GetRepository())
	if err != nil {
		return nil, &runs.Invalid{Field: "repository", Reason: err.Error()}
	}
	window := queue.Windows[0]
	if request.Window != nil {
		i := slices.IndexFunc(queue.Windows, func(w queue.Window) bool { return w.Name == request.GetWindow() })
		if i < 0 {
			return nil, problem.In("window", http.StatusBadRequest, "invalid_parameter", "give 24h, 7d or 30d")
		}
		window = queue.Windows[i]
	}
	none := problem.In("repository", http.StatusNotFound, "not_found", "nobody has asked for a run of this repository")
	if !auth.From(ctx).Sees(repository) {
		return nil, none
	}
	stats, err := queue.Stats(ctx, s.pool, repository, window)
	if errors.Is(err, jobs.ErrNotFound) {
		return nil, none
	}
	return stats, err
}

// visible returns jobs.ErrNotFound for a run that is not there for who asks.
func (s *Service) visible(ctx context.Context, run int64) error {
	by := auth.From(ctx)
	if by.Repository == "" {
		return nil
	}
	repository, err := s.runs.RepositoryOf(ctx, run)
	if err == nil && !by.Sees(repository) {
		err = fmt.Errorf("read run %d: %w", run, jobs.ErrNotFound)
	}
	return err
}

func parseID(text string) (int64, error) {
	id, valid := runs.ParseID(text)
	if !valid {
		return 0, fmt.Errorf("read id %.30q: %w", text, jobs.ErrNotFound)
	}
	return id, nil
}

func idempotencyKey(given *string) (string, error) {
	if given == nil {
		return "", nil
	}
	unprintable := func(c rune) bool { return c <= ' ' || c > '~' }
	if *given == "" || len(*given) > maxKey || strings.ContainsFunc(*given, unprintable) {
		return "", problem.In(problem.KeyHeader, http.StatusBadRequest, "invalid_header", "give 1 to "+strconv.Itoa(maxKey)+" visible ASCII characters, once")
	}
	return *given, nil
}

// A cursor names the last of a page, and which list it is of. It is opaque to clients, so that it may become something else.
const runsCursor = "runs:"

// RunCursor is the cursor behind a run.
func RunCursor(id string) string { return *sealCursor(runsCursor, id) }

func sealCursor(kind, last string) *string {
	text := base64.RawURLEncoding.EncodeToString([]byte(kind + last))
	return &text
}

func openCursor(text, kind string) (last string, ours bool) {
	plain, _ := base64.RawURLEncoding.DecodeString(text)
	last, ours = strings.CutPrefix(string(plain), kind)
	return last, ours && *sealCursor(kind, last) == text // the decoder passes over line breaks
}

func badCursor() error {
	return problem.In("cursor", http.StatusBadRequest, "invalid_parameter", "give the cursor of an earlier answer")
}
