package api

import (
	"context"
	"fmt"
	"net/http"

	"go.uber.org/zap"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	lockstepv1 "github.com/lockstep-ci/lockstep/services/api-gateway/gen/lockstep/v1"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/audit"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/auth"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/tokens"
)

// CreateToken makes a token; its secret is in this answer only.
func (s *Service) CreateToken(ctx context.Context, request *lockstepv1.CreateTokenRequest) (*lockstepv1.CreateTokenResponse, error) {
	by := auth.From(ctx)
	token, secret, err := tokens.Create(ctx, s.pool, by, request)
	if err != nil {
		return nil, err
	}
	s.log.Info("token created", zap.String("token_id", token.GetId()), zap.String("principal", by.Name))
	return &lockstepv1.CreateTokenResponse{Token: token, Secret: secret}, nil
}

// ListTokens lists tokens page by page.
func (s *Service) ListTokens(ctx context.Context, request *lockstepv1.ListTokensRequest) (*lockstepv1.ListTokensResponse, error) {
	page, err := readPage("tokens:", request.Limit, request.Cursor)
	if err != nil {
		return nil, err
	}
	found, err := tokens.List(ctx, s.pool, auth.From(ctx).Repository, page.before, page.limit+1)
	if err != nil {
		return nil, err
	}
	answer := &lockstepv1.ListTokensResponse{}
	answer.Tokens, answer.NextCursor = cut(page, found, (*lockstepv1.Token).GetId)
	return answer, nil
}

// GetToken shows a token.
func (s *Service) GetToken(ctx context.Context, request *lockstepv1.GetTokenRequest) (*lockstepv1.GetTokenResponse, error) {
	token, _, err := s.token(ctx, request.GetId())
	return &lockstepv1.GetTokenResponse{Token: token}, err
}

// RevokeToken ends a token.
func (s *Service) RevokeToken(ctx context.Context, request *lockstepv1.RevokeTokenRequest) (*lockstepv1.RevokeTokenResponse, error) {
	_, id, err := s.token(ctx, request.GetId())
	if err != nil {
		return nil, err
	}
	by := auth.From(ctx)
	token, err := tokens.Revoke(ctx, s.pool, id, by.Name)
	if err != nil {
		return nil, err
	}
	s.log.Info("token revoked", zap.String("token_id", token.GetId()), zap.String("principal", by.Name))
	return &lockstepv1.RevokeTokenResponse{Token: token}, nil
}

// token finds a token that is there for who asks.
func (s *Service) token(ctx context.Context, text string) (*lockstepv1.Token, int64, error) {
	id, err := parseID(text)
	if err != nil {
		return nil, 0, err
	}
	token, err := tokens.Get(ctx, s.pool, id)
	if err == nil && !auth.From(ctx).Sees(token.GetRepository()) {
		err = fmt.Errorf("read token %d: %w", id, jobs.ErrNotFound)
	}
	return token, id, err
}

// ListAudit lists what was done page by page.
func (s *Service) ListAudit(ctx context.Context, request *lockstepv1.ListAuditRequest) (*lockstepv1.ListAuditResponse, error) {
	page, err := readPage("audit:", request.Limit, request.Cursor)
	if err != nil {
		return nil, err
	}
	if err := everywhere(ctx); err != nil {
		return nil, err
	}
	found, err := audit.List(ctx, s.pool, page.before, page.limit+1)
	if err != nil {
		return nil, err
	}
	answer := &lockstepv1.ListAuditResponse{}
	answer.Entries, answer.NextCursor = cut(page, found, (*lockstepv1.AuditEntry).GetId)
	return answer, nil
}

// everywhere refuses who sees one repository only what is about all of them.
func everywhere(ctx context.Context) error {
	if auth.From(ctx).Repository != "" {
		return problem.New(http.StatusForbidden, "forbidden", "your credentials are for one repository, and this is about all")
	}
	return nil
}
