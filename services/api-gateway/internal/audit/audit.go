// Package audit shows who did what. The database writes it down (migrations/0005_ci_access.up.sql).
package audit

import (
	"context"
	_ "embed"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	lockstepv1 "github.com/lockstep-ci/lockstep/services/api-gateway/gen/lockstep/v1"
)

//go:embed queries/list.sql
var listSQL string

// List returns entries whose id is below before, the newest first, at most limit of them.
func List(ctx context.Context, pool *pgxpool.Pool, before int64, limit int) ([]*lockstepv1.AuditEntry, error) {
	rows, err := pool.Query(ctx, listSQL, pgx.NamedArgs{"before": before, "limit": limit})
	if err != nil {
		return nil, fmt.Errorf("list audit log: %w", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*lockstepv1.AuditEntry, error) {
		e, at, details := &lockstepv1.AuditEntry{}, time.Time{}, map[string]any{}
		if err := row.Scan(&e.Id, &at, &e.Principal, &e.Action, &e.Subject, &e.Repository, &details); err != nil {
			return nil, err
		}
		var err error
		e.At = timestamppb.New(at)
		e.Details, err = structpb.NewStruct(details)
		return e, err
	})
	if err != nil {
		return nil, fmt.Errorf("list audit log: %w", err)
	}
	return found, nil
}
