// Package migrations holds the database schema and brings a database up to it. Tests, development and
// production go the same way: the numbered files, by golang-migrate, then the roles.
package migrations

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/golang-migrate/migrate/v4"
	migratepgx "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib" // the database/sql driver "pgx"
)

//go:embed *.sql
var files embed.FS

// Latest is the number of the newest migration: the schema version that this build brings a database to.
func Latest() (uint, error) {
	names, err := fs.Glob(files, "*.up.sql")
	if err != nil {
		return 0, fmt.Errorf("list migrations: %w", err)
	}
	var latest uint64
	for _, name := range names {
		number, err := strconv.ParseUint(strings.SplitN(name, "_", 2)[0], 10, 32)
		if err != nil {
			return 0, fmt.Errorf("read the number of migration %s: %w", name, err)
		}
		latest = max(latest, number)
	}
	return uint(latest), nil
}

// Up applies every migration that the database at url lacks. Several at once are safe: golang-migrate holds an
// advisory lock, and whoever comes second finds nothing to do.
func Up(ctx context.Context, url string) error {
	return with(ctx, url, func(m *migrate.Migrate) error { return m.Up() })
}

// Down takes back the newest n migrations, and the data in what they made. For development only: production has no
// way down.
func Down(ctx context.Context, url string, n int) error {
	if n < 1 {
		return fmt.Errorf("take back %d migrations: the number must be at least 1", n)
	}
	return with(ctx, url, func(m *migrate.Migrate) error { return m.Steps(-n) })
}

// Version is the number of the newest migration applied to the database at url; 0 before the first one. dirty
// means that it stopped half-way and wants a person.
func Version(ctx context.Context, url string) (version uint, dirty bool, err error) {
	err = with(ctx, url, func(m *migrate.Migrate) error {
		version, dirty, err = m.Version()
		if errors.Is(err, migrate.ErrNilVersion) {
			return nil
		}
		return err
	})
	return version, dirty, err
}

// with runs do on a golang-migrate instance for the database at url. When ctx ends it stops after the migration
// that it is in.
func with(ctx context.Context, url string, do func(*migrate.Migrate) error) error {
	if _, err := pgx.ParseConfig(url); err != nil {
		return fmt.Errorf("read database URL: %w", err) // pgx leaves the password out of this error
	}
	db, err := sql.Open("pgx", url)
	if err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	defer func() { _ = db.Close() }()
	if err := db.PingContext(ctx); err != nil {
		return fmt.Errorf("connect to database: %w", err)
	}
	driver, err := migratepgx.WithInstance(db, &migratepgx.Config{})
	if err != nil {
		return fmt.Errorf("prepare database for migrations: %w", err)
	}
	source, err := iofs.New(files, ".")
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	m, err := migrate.NewWithInstance("migrations", source, "postgres", driver)
	if err != nil {
		return fmt.Errorf("prepare migrations: %w", err)
	}
	defer func() { _, _ = m.Close() }()

	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-ctx.Done():
			m.GracefulStop <- true
		case <-done:
		}
	}()
	if err := do(m); err != nil && !errors.Is(err, migrate.ErrNoChange) {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}
