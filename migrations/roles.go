package migrations

import (
	"context"
	_ "embed"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

//go:embed roles/roles.sql
var rolesSQL string

// Services are the binaries that log in as a role of their own.
var Services = []string{"api-gateway", "initializer", "runner", "github-notifier", "reaper"}

// Roles makes each service's login role and gives it the grants that its work needs, and no more. Roles belong to
// the cluster, not to the database, so this is no numbered migration; it is idempotent and wants to be run after
// each Up. passwords maps a service to its password; a service without one keeps the password it has.
func Roles(ctx context.Context, url string, passwords map[string]string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("connect to database: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()

	tx, err := conn.Begin(ctx)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	names := make([]string, len(Services))
	for i, service := range Services {
		names[i] = RoleName(service)
	}
	if _, err := tx.Exec(ctx, "SELECT set_config('lockstep.roles', $1, true)", strings.Join(names, ",")); err != nil {
		return fmt.Errorf("name roles: %w", err)
	}
	if _, err := tx.Exec(ctx, rolesSQL); err != nil {
		return fmt.Errorf("make roles: %w", err)
	}
	for service, password := range passwords {
		// ALTER ROLE takes no parameters; the server quotes for us. A statement in a log would show the
		// password, so logging is off for this transaction where we may say so.
		var statement string
		err := tx.QueryRow(ctx, `
			SELECT CASE WHEN has_parameter_privilege('log_statement', 'SET') THEN set_config('log_statement', 'none', true) END,
			       format('ALTER ROLE %I PASSWORD %L', $1::text, $2::text)`,
			RoleName(service), password).Scan(nil, &statement)
		if err != nil {
			return fmt.Errorf("prepare password of role %s: %w", RoleName(service), err)
		}
		if _, err := tx.Exec(ctx, statement); err != nil {
			return fmt.Errorf("set password of role %s: %w", RoleName(service), err)
		}
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("commit roles: %w", err)
	}
	return nil
}

// RoleName is the PostgreSQL role of a service: lockstep_api_gateway for api-gateway.
func RoleName(service string) string {
	return "lockstep_" + strings.ReplaceAll(service, "-", "_")
}
