package rest

import (
	"net/http"

	lockstepv1 "github.com/lockstep-ci/lockstep/services/api-gateway/gen/lockstep/v1"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/wire"
)

// ListRepositories answers GET /api/v1/repositories.
func (a *API) ListRepositories(w http.ResponseWriter, r *http.Request) error {
	values, err := query(r, "limit", "cursor")
	if err != nil {
		return err
	}
	answer, err := a.service.ListRepositories(r.Context(), &lockstepv1.ListRepositoriesRequest{Limit: limit(values), Cursor: given(values, "cursor")})
	return read(w, r, answer, err)
}

// GetRepository answers GET /api/v1/repositories/{repository}.
func (a *API) GetRepository(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	answer, err := a.service.GetRepository(r.Context(), &lockstepv1.GetRepositoryRequest{Repository: r.PathValue("repository")})
	return read(w, r, answer.GetRepository(), err)
}

// UpdateRepository answers PATCH /api/v1/repositories/{repository}.
func (a *API) UpdateRepository(w http.ResponseWriter, r *http.Request) error {
	change := &lockstepv1.RepositoryChange{}
	fields := map[string]any{
		"fork_policy": &change.ForkPolicy, "max_running": &change.MaxRunning, "weight": &change.Weight, "forget_github_id": &change.ForgetGithubId,
	}
	if err := readObject(w, r, fields); err != nil {
		return err
	}
	answer, err := a.service.UpdateRepository(r.Context(), &lockstepv1.UpdateRepositoryRequest{Repository: r.PathValue("repository"), Change: change})
	if err != nil {
		return err
	}
	write(w, http.StatusOK, wire.JSON(answer.GetRepository()))
	return nil
}

// ListApprovals answers GET /api/v1/approvals.
func (a *API) ListApprovals(w http.ResponseWriter, r *http.Request) error {
	values, err := query(r, "status", "repository", "limit", "cursor")
	if err != nil {
		return err
	}
	answer, err := a.service.ListApprovals(r.Context(), &lockstepv1.ListApprovalsRequest{
		Status: given(values, "status"), Repository: given(values, "repository"), Limit: limit(values), Cursor: given(values, "cursor"),
	})
	return read(w, r, answer, err)
}

// GetApproval answers GET /api/v1/approvals/{id}.
func (a *API) GetApproval(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	answer, err := a.service.GetApproval(r.Context(), &lockstepv1.GetApprovalRequest{Id: r.PathValue("id")})
	return read(w, r, answer.GetApproval(), err)
}

// Approve answers POST /api/v1/approvals/{id}/approve.
func (a *API) Approve(w http.ResponseWriter, r *http.Request) error {
	if err := readNothing(w, r); err != nil {
		return err
	}
	answer, err := a.service.Approve(r.Context(), &lockstepv1.ApproveRequest{Id: r.PathValue("id")})
	return decided(w, answer.GetApproval(), err)
}

// Reject answers POST /api/v1/approvals/{id}/reject.
func (a *API) Reject(w http.ResponseWriter, r *http.Request) error {
	if err := readNothing(w, r); err != nil {
		return err
	}
	answer, err := a.service.Reject(r.Context(), &lockstepv1.RejectRequest{Id: r.PathValue("id")})
	return decided(w, answer.GetApproval(), err)
}

func decided(w http.ResponseWriter, approval *lockstepv1.Approval, err error) error {
	if err != nil {
		return err
	}
	write(w, http.StatusOK, wire.JSON(approval))
	return nil
}

// given is a parameter, or nil where there is none.
func given(values map[string]string, name string) *string {
	if value, is := values[name]; is {
		return &value
	}
	return nil
}
