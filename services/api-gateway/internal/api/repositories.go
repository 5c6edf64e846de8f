package api

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"go.uber.org/zap"
	"google.golang.org/protobuf/types/known/timestamppb"

	lockstepv1 "github.com/lockstep-ci/lockstep/services/api-gateway/gen/lockstep/v1"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/approvals"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/auth"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/repositories"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/runs"
)

const (
	repositoriesCursor = "repositories:"
	approvalsCursor    = "approvals:"
	minWeight          = 0.001 // far less, and its turn, which is 1/weight further, is no number or never comes
	maxWeight          = 1000
)

// ListRepositories lists what is known of repositories page by page.
func (s *Service) ListRepositories(ctx context.Context, request *lockstepv1.ListRepositoriesRequest) (*lockstepv1.ListRepositoriesResponse, error) {
	limit, err := pageLimit(request.Limit)
	if err != nil {
		return nil, err
	}
	after := ""
	if request.Cursor != nil {
		text, ours := openCursor(request.GetCursor(), repositoriesCursor)
		if url, err := runs.Repository(text); !ours || err != nil || url != text {
			return nil, badCursor()
		}
		after = text
	}
	found, err := s.repositories.List(ctx, after, auth.From(ctx).Repository, int(limit)+1)
	if err != nil {
		return nil, err
	}
	answer := &lockstepv1.ListRepositoriesResponse{}
	if len(found) > int(limit) {
		found = found[:limit]
		answer.NextCursor = sealCursor(repositoriesCursor, found[limit-1].URL)
	}
	for i := range found {
		answer.Repositories = append(answer.Repositories, repositoryMessage(&found[i]))
	}
	return answer, nil
}

// GetRepository shows what is known of one.
func (s *Service) GetRepository(ctx context.Context, request *lockstepv1.GetRepositoryRequest) (*lockstepv1.GetRepositoryResponse, error) {
	url, err := seenRepository(ctx, request.GetRepository())
	if err != nil {
		return nil, err
	}
	found, err := s.repositories.Get(ctx, url)
	if err != nil {
		return nil, err
	}
	return &lockstepv1.GetRepositoryResponse{Repository: repositoryMessage(&found)}, nil
}

// UpdateRepository changes settings of one.
func (s *Service) UpdateRepository(ctx context.Context, request *lockstepv1.UpdateRepositoryRequest) (*lockstepv1.UpdateRepositoryResponse, error) {
	url, err := seenRepository(ctx, request.GetRepository())
	if err != nil {
		return nil, err
	}
	change := request.GetChange()
	if change == nil {
		change = &lockstepv1.RepositoryChange{}
	}
	policies := []string{repositories.ForksRun, repositories.ForksAsk, repositories.ForksIgnore}
	switch {
	case change.ForkPolicy == nil && change.MaxRunning == nil && change.Weight == nil && !change.GetForgetGithubId():
		return nil, problem.New(http.StatusUnprocessableEntity, "nothing_to_change", "give fork_policy, max_running, weight or forget_github_id: true")
	case change.ForkPolicy != nil && !slices.Contains(policies, change.GetForkPolicy()):
		return nil, &runs.Invalid{Field: "fork_policy", Reason: "must be " + strings.Join(policies, ", ")}
	case change.MaxRunning != nil && change.GetMaxRunning() < 0:
		return nil, &runs.Invalid{Field: "max_running", Reason: "must be 1 or more, or 0 for no limit"}
	case change.Weight != nil && !(change.GetWeight() >= minWeight && change.GetWeight() <= maxWeight): // so that NaN is refused
		return nil, &runs.Invalid{Field: "weight", Reason: fmt.Sprintf("must be from %v to %d", minWeight, maxWeight)}
	}
	changed, err := s.repositories.Change(ctx, url, repositories.Change{
		ForkPolicy: change.ForkPolicy, MaxRunning: change.MaxRunning, Weight: change.Weight,
		ForgetGitHubID: change.GetForgetGithubId(), By: auth.From(ctx).Name,
	})
	if err != nil {
		return nil, err
	}
	s.log.Info("repository changed", zap.String("repository", url))
	return &lockstepv1.UpdateRepositoryResponse{Repository: repositoryMessage(&changed)}, nil
}

// seenRepository is the URL of a repository that whoever asks may see; for him others are not there.
func seenRepository(ctx context.Context, text string) (string, error) {
	url, err := runs.RepositoryInPath(text)
	if err != nil {
		return "", &runs.Invalid{Field: "repository", Reason: err.Error()}
	}
	if !auth.From(ctx).Sees(url) {
		return "", problem.New(http.StatusNotFound, "not_found", "nothing is known of this repository")
	}
	return url, nil
}

func repositoryMessage(r *repositories.Repository) *lockstepv1.Repository {
	m := &lockstepv1.Repository{Repository: r.URL, ForkPolicy: r.ForkPolicy, MaxRunning: r.MaxRunning, Weight: r.Weight}
	m.GithubId = decimal(r.GitHubID)
	return m
}

// ListApprovals lists approvals page by page.
func (s *Service) ListApprovals(ctx context.Context, request *lockstepv1.ListApprovalsRequest) (*lockstepv1.ListApprovalsResponse, error) {
	page, err := readPage(approvalsCursor, request.Limit, request.Cursor)
	if err != nil {
		return nil, err
	}
	status := approvals.Waiting
	if request.Status != nil {
		status = request.GetStatus()
	}
	if !slices.Contains(approvals.States, status) {
		return nil, problem.In("status", http.StatusBadRequest, "invalid_parameter", "give one of "+strings.Join(approvals.States, ", "))
	}
	only := auth.From(ctx).Repository
	if request.Repository != nil {
		url, err := runs.RepositoryInPath(request.GetRepository())
		if err != nil {
			return nil, problem.In("repository", http.StatusBadRequest, "invalid_parameter", err.Error())
		}
		if !auth.From(ctx).Sees(url) {
			return &lockstepv1.ListApprovalsResponse{}, nil
		}
		only = url
	}
	found, err := s.approvals.List(ctx, status, only, page.before, page.limit+1)
	if err != nil {
		return nil, err
	}
	answer := &lockstepv1.ListApprovalsResponse{}
	found, answer.NextCursor = cut(page, found, func(a approvals.Approval) string { return strconv.FormatInt(a.ID, 10) })
	for i := range found {
		answer.Approvals = append(answer.Approvals, approvalMessage(&found[i]))
	}
	return answer, nil
}

// GetApproval shows one approval.
func (s *Service) GetApproval(ctx context.Context, request *lockstepv1.GetApprovalRequest) (*lockstepv1.GetApprovalResponse, error) {
	id, err := approvalID(request.GetId())
	if err != nil {
		return nil, err
	}
	found, err := s.approvals.Get(ctx, id)
	if err == nil {
		err = seenApproval(ctx, &found)
	}
	if err != nil {
		return nil, err
	}
	return &lockstepv1.GetApprovalResponse{Approval: approvalMessage(&found)}, nil
}

// Approve makes the run that waited.
func (s *Service) Approve(ctx context.Context, request *lockstepv1.ApproveRequest) (*lockstepv1.ApproveResponse, error) {
	decided, err := s.decide(ctx, request.GetId(), s.approvals.Approve)
	return &lockstepv1.ApproveResponse{Approval: decided}, err
}

// Reject ends the wait without a run.
func (s *Service) Reject(ctx context.Context, request *lockstepv1.RejectRequest) (*lockstepv1.RejectResponse, error) {
	decided, err := s.decide(ctx, request.GetId(), s.approvals.Reject)
	return &lockstepv1.RejectResponse{Approval: decided}, err
}

type decision = func(context.Context, int64, string, func(*approvals.Approval) error) (approvals.Approval, error)

func (s *Service) decide(ctx context.Context, text string, decide decision) (*lockstepv1.Approval, error) {
	id, err := approvalID(text)
	if err != nil {
		return nil, err
	}
	decided, err := decide(ctx, id, auth.From(ctx).Name, func(a *approvals.Approval) error { return seenApproval(ctx, a) })
	if err != nil {
		return nil, err
	}
	s.log.Info("approval decided", zap.Int64("approval_id", id), zap.String("status", decided.Status))
	return approvalMessage(&decided), nil
}

func approvalID(text string) (int64, error) {
	id, valid := runs.ParseID(text)
	if !valid {
		return 0, noApproval()
	}
	return id, nil
}

func seenApproval(ctx context.Context, a *approvals.Approval) error {
	if !auth.From(ctx).Sees(a.Repository) {
		return noApproval()
	}
	return nil
}

func noApproval() error {
	return problem.New(http.StatusNotFound, "not_found", "there is no such approval")
}

func approvalMessage(a *approvals.Approval) *lockstepv1.Approval {
	m := &lockstepv1.Approval{
		Id: strconv.FormatInt(a.ID, 10), Repository: a.Repository, PullRequest: a.PullRequest, Url: a.URL(), HeadSha: a.HeadSHA, Title: a.Title,
		Author: a.Author, SenderId: strconv.FormatInt(a.SenderID, 10), Status: a.Status, RunId: decimal(a.RunID), DecidedBy: a.DecidedBy,
		CreatedAt: timestamppb.New(a.CreatedAt),
	}
	if a.DecidedAt != nil {
		m.DecidedAt = timestamppb.New(*a.DecidedAt)
	}
	return m
}

func decimal(n *int64) *string {
	if n == nil {
		return nil
	}
	text := strconv.FormatInt(*n, 10)
	return &text
}
