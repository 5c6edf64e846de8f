package rest

import (
	"net/http"
	"regexp"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	lockstepv1 "github.com/lockstep-ci/lockstep/services/api-gateway/gen/lockstep/v1"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/wire"
)

const tokenPath = "/api/v1/tokens/"

// rfc3339 is what time.Parse does not insist on: hours of two digits, a point, and an offset below a day.
var rfc3339 = regexp.MustCompile(`T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`)

// CreateToken answers POST /api/v1/tokens.
func (a *API) CreateToken(w http.ResponseWriter, r *http.Request) error {
	if len(r.Header.Values(problem.KeyHeader)) > 0 { // the same answer again is what cannot be: the secret is not stored
		return problem.In(problem.KeyHeader, http.StatusBadRequest, "invalid_header", "leave it out: the token's name keeps it from being made twice")
	}
	request := &lockstepv1.CreateTokenRequest{}
	var expires *string
	fields := map[string]any{"name": &request.Name, "scope": &request.Scope, "repository": &request.Repository, "expires_at": &expires}
	if err := readObject(w, r, fields); err != nil {
		return err
	}
	if expires != nil {
		at, err := time.Parse(time.RFC3339, *expires)
		if err != nil || !rfc3339.MatchString(*expires) {
			return problem.In("expires_at", http.StatusUnprocessableEntity, "invalid_field", "give a time like 2027-01-31T12:00:00Z")
		}
		request.ExpiresAt = timestamppb.New(at)
	}
	answer, err := a.service.CreateToken(r.Context(), request)
	if err != nil {
		return err
	}
	w.Header().Set("Location", tokenPath+answer.GetToken().GetId())
	write(w, http.StatusCreated, wire.JSON(answer))
	return nil
}

// ListTokens answers GET /api/v1/tokens.
func (a *API) ListTokens(w http.ResponseWriter, r *http.Request) error {
	values, err := query(r, "limit", "cursor")
	if err != nil {
		return err
	}
	answer, err := a.service.ListTokens(r.Context(), &lockstepv1.ListTokensRequest{Limit: numbered(values, "limit"), Cursor: given(values, "cursor")})
	return read(w, r, answer, err)
}

// GetToken answers GET /api/v1/tokens/{id}.
func (a *API) GetToken(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	answer, err := a.service.GetToken(r.Context(), &lockstepv1.GetTokenRequest{Id: r.PathValue("id")})
	return read(w, r, answer.GetToken(), err)
}

// RevokeToken answers POST /api/v1/tokens/{id}/revoke.
func (a *API) RevokeToken(w http.ResponseWriter, r *http.Request) error {
	if err := readNothing(w, r); err != nil {
		return err
	}
	answer, err := a.service.RevokeToken(r.Context(), &lockstepv1.RevokeTokenRequest{Id: r.PathValue("id")})
	if err != nil {
		return err
	}
	write(w, http.StatusOK, wire.JSON(answer.GetToken()))
	return nil
}

// ListAudit answers GET /api/v1/audit.
func (a *API) ListAudit(w http.ResponseWriter, r *http.Request) error {
	values, err := query(r, "limit", "cursor")
	if err != nil {
		return err
	}
	answer, err := a.service.ListAudit(r.Context(), &lockstepv1.ListAuditRequest{Limit: numbered(values, "limit"), Cursor: given(values, "cursor")})
	return read(w, r, answer, err)
}
