// Package jobstest gives a test a migrated PostgreSQL database of its own.
package jobstest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap/zaptest"

	"github.com/lockstep-ci/lockstep/migrations"
	"github.com/lockstep-ci/lockstep/pkg/jobs"
)

// password is that of every service's role on a test server.
const password = "lockstep-test"

// Database is one test's own database. LISTEN and NOTIFY are per database, so tests may run in parallel.
type Database struct {
	URL  string        // as the server's superuser
	Pool *pgxpool.Pool // likewise
}

// New clones a migrated template. TEST_DATABASE_URL names the server, as a superuser; `make test` sets it. With
// LOCKSTEP_TEST_NOTIFY=off the database never notifies: everything must work by polling alone. The database is dropped
// when the test ends.
func New(t testing.TB) *Database {
	t.Helper()
	server := os.Getenv("TEST_DATABASE_URL")
	if server == "" {
		t.Fatal("TEST_DATABASE_URL is not set: run `make test`, or `bin/withpg -- go test ./...`")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	template, err := templateDatabase(ctx, server)
	if err != nil {
		t.Fatalf("make the template database: %v", err)
	}

	suffix := make([]byte, 8)
	_, _ = rand.Read(suffix) // never fails (crypto/rand)
	name := "lockstep_test_" + hex.EncodeToString(suffix)
	if err := execute(ctx, server, "CREATE DATABASE "+name+" TEMPLATE "+template+strategy); err != nil {
		t.Fatalf("clone the template database: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := execute(ctx, server, "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			t.Errorf("drop the test's database: %v", err)
		}
	})

	db := &Database{URL: withDatabase(server, name)}
	db.Pool, err = pgxpool.New(ctx, db.URL)
	if err != nil {
		t.Fatalf("connect to the test's database: %v", err)
	}
	t.Cleanup(db.Pool.Close)
	if os.Getenv("LOCKSTEP_TEST_NOTIFY") == "off" {
		db.Exec(t, "ALTER TABLE ci_jobs DISABLE TRIGGER ci_jobs_notify_insert")
		db.Exec(t, "ALTER TABLE ci_jobs DISABLE TRIGGER ci_jobs_notify_update")
	}
	return db
}

// As is the URL of the database under a service's own role.
func (db *Database) As(service string) string {
	u, err := url.Parse(db.URL)
	if err != nil {
		panic(err) // New has parsed it
	}
	u.User = url.UserPassword(migrations.RoleName(service), password)
	return u.String()
}

// Open opens the queue as a service would, under its own role, and closes it when the test ends.
func (db *Database) Open(t testing.TB, service string) *jobs.DB {
	t.Helper()
	opened, err := jobs.Open(t.Context(), db.As(service), jobs.Options{App: service, Log: zaptest.NewLogger(t, zaptest.Level(logLevel()))})
	if err != nil {
		t.Fatalf("open the queue: %v", err)
	}
	t.Cleanup(opened.Close)
	return opened
}

// Exec runs one statement as the superuser.
func (db *Database) Exec(t testing.TB, sql string, args ...any) {
	t.Helper()
	if _, err := db.Pool.Exec(context.Background(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// Value runs a query of one row and one column as the superuser.
func Value[T any](t testing.TB, db *Database, sql string, args ...any) T {
	t.Helper()
	rows, err := db.Pool.Query(context.Background(), sql, args...)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	value, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return value
}

// Await waits until a query of one boolean is true, at most for the limit. It asks every 10 ms: for what no
// notification announces.
func (db *Database) Await(t testing.TB, limit time.Duration, sql string, args ...any) {
	t.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(limit); !Value[bool](t, db, sql, args...); <-ticker.C {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s %v", limit, sql, args)
		}
	}
}

var (
	templateOnce sync.Once
	templateName string
	strategy     string // by which it is cloned
	errTemplate  error
)

// templateDatabase returns the name of the migrated database that tests are cloned from, made by whichever test process
// is first. Its name holds a hash of the migrations: a changed file is another template.
func templateDatabase(ctx context.Context, server string) (string, error) {
	templateOnce.Do(func() { templateName, errTemplate = makeTemplate(ctx, server) })
	return templateName, errTemplate
}

func makeTemplate(ctx context.Context, server string) (string, error) {
	sum, err := hashMigrations()
	if err != nil {
		return "", err
	}
	name := "lockstep_template_" + sum[:16]
	conn, err := pgx.Connect(ctx, server)
	if err != nil {
		return "", fmt.Errorf("connect to TEST_DATABASE_URL: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	// Test processes start together; the session's end gives the lock back.
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock(hashtext('lockstep template'))"); err != nil {
		return "", fmt.Errorf("lock: %w", err)
	}
	var exists bool
	if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1 AND datistemplate)", name).Scan(&exists); err != nil {
		return "", fmt.Errorf("look for template: %w", err)
	}
	// A server that flushes nothing copies files for half the CPU of going through its log: a quarter of many a test's.
	if err := conn.QueryRow(ctx, "SELECT CASE current_setting('fsync') WHEN 'off' THEN ' STRATEGY file_copy' ELSE '' END").Scan(&strategy); err != nil {
		return "", fmt.Errorf("ask for fsync: %w", err)
	}
	if exists {
		return name, nil
	}
	if _, err := conn.Exec(ctx, "DROP DATABASE IF EXISTS "+name); err != nil { // half made
		return "", fmt.Errorf("drop half-made template: %w", err)
	}
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+name); err != nil {
		return "", fmt.Errorf("create template: %w", err)
	}
	passwords := map[string]string{}
	for _, service := range migrations.Services {
		passwords[service] = password
	}
	if err := errors.Join(migrations.Up(ctx, withDatabase(server, name)), migrations.Roles(ctx, withDatabase(server, name), passwords)); err != nil {
		return "", err
	}
	if _, err := conn.Exec(ctx, "ALTER DATABASE "+name+" IS_TEMPLATE true"); err != nil {
		return "", fmt.Errorf("mark template: %w", err)
	}
	return name, nil
}

// hashMigrations reads the module's files from the source tree, which is there when a test is.
func hashMigrations() (string, error) {
	_, here, _, _ := runtime.Caller(0)
	root := filepath.Join(filepath.Dir(here), "..", "..", "..", "migrations")
	hash := sha256.New()
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".sql") {
			return err
		}
		content, err := os.ReadFile(path)
		fmt.Fprintf(hash, "%s %d\n", filepath.Base(path), len(content))
		hash.Write(content)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("hash the migrations: %w", err)
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

func execute(ctx context.Context, server, sql string) error {
	conn, err := pgx.Connect(ctx, server)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	_, err = conn.Exec(ctx, sql)
	return err
}

func withDatabase(server, name string) string {
	u, err := url.Parse(server)
	if err != nil {
		panic(err) // pgx has parsed it
	}
	u.Path = "/" + name
	return u.String()
}
