package main

import (
	"context"
	"crypto/rand"
	"embed"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/lockstep-ci/lockstep/migrations"
	"github.com/lockstep-ci/lockstep/pkg/jobs"
)

//go:embed queries/*.sql
var queryFiles embed.FS

// query returns the text of queries/<name>.sql, which is part of the binary.
func query(name string) string {
	text, err := queryFiles.ReadFile("queries/" + name + ".sql")
	if err != nil {
		panic(err)
	}
	return string(text)
}

// rolePassword is that of the services' roles. They belong to the cluster, so it is the one that the tests give them.
const rolePassword = "lockstep-test"

// server is the PostgreSQL that everything is measured on.
type server struct {
	url        string // as the superuser
	admin      *pgxpool.Pool
	template   string // a migrated database
	postmaster int    // its process id here; 0: it is not on this machine
}

// openServer connects, and makes the migrated database that the others are cloned from.
func openServer(ctx context.Context, url string) (_ *server, err error) {
	s := &server{url: url, template: databaseName()}
	if s.admin, err = pgxpool.New(ctx, url); err != nil {
		return nil, fmt.Errorf("connect to TEST_DATABASE_URL: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close(context.WithoutCancel(ctx)))
		}
	}()
	if _, err := s.admin.Exec(ctx, "CREATE DATABASE "+s.template); err != nil {
		return nil, fmt.Errorf("create a database: %w", err)
	}
	template := s.in(s.template)
	if err := migrations.Up(ctx, template); err != nil {
		return nil, err
	}
	if err := s.makeRoles(ctx, template); err != nil {
		return nil, err
	}
	var backend int
	if err := s.admin.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&backend); err != nil {
		return nil, fmt.Errorf("ask for the server's process: %w", err)
	}
	if stat, err := processStat(backend); err == nil && strings.Contains(stat.name, "postgres") {
		s.postmaster = stat.parent
	}
	return s, nil
}

// makeRoles makes the services' roles. The tests make the same ones, perhaps at the same time, behind the same lock.
func (s *server) makeRoles(ctx context.Context, template string) error {
	conn, err := s.admin.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Release()
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock(hashtext('lockstep template'))"); err != nil {
		return fmt.Errorf("lock the roles: %w", err)
	}
	passwords := map[string]string{}
	for _, service := range migrations.Services {
		passwords[service] = rolePassword
	}
	err = migrations.Roles(ctx, template, passwords)
	_, unlock := conn.Exec(ctx, "SELECT pg_advisory_unlock(hashtext('lockstep template'))")
	return errors.Join(err, unlock)
}

func (s *server) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	_, err := s.admin.Exec(ctx, "DROP DATABASE IF EXISTS "+s.template+" WITH (FORCE)")
	s.admin.Close()
	if err != nil {
		return fmt.Errorf("drop the migrated database: %w", err)
	}
	return nil
}

// in is the superuser's URL of a database.
func (s *server) in(database string) string {
	u, err := url.Parse(s.url)
	if err != nil {
		panic(err) // pgx has parsed it
	}
	u.Path = "/" + database
	return u.String()
}

func databaseName() string { return "lockstep_bench_" + strings.ToLower(rand.Text()[:12]) }

// facts are what one has to know about the machine to read the table.
func (s *server) facts(ctx context.Context) (string, error) {
	var f strings.Builder
	memory := grep("/proc/meminfo", "MemTotal")
	if kB, err := strconv.Atoi(strings.TrimSuffix(memory, " kB")); err == nil {
		memory = fmt.Sprintf("%d GiB", (kB+1<<19)>>20)
	}
	fmt.Fprintf(&f, "- %s, %d cores, %s of memory, %s/%s\n", grep("/proc/cpuinfo", "model name"), runtime.NumCPU(), memory, runtime.GOOS, runtime.GOARCH)
	var version, settings string
	err := s.admin.QueryRow(ctx, query("settings")).Scan(&version, &settings)
	if err != nil {
		return "", fmt.Errorf("ask for the server's settings: %w", err)
	}
	fmt.Fprintf(&f, "- PostgreSQL %s, on the same machine as its clients: %s\n", version, settings)
	fmt.Fprintf(&f, "- %s, commit %s, %s\n", runtime.Version(), commit(ctx), time.Now().UTC().Format(time.DateOnly))
	return f.String(), nil
}

// grep is what a file of /proc says behind a word; "unknown" where there is no such file.
func grep(file, word string) string {
	content, _ := os.ReadFile(file) // not every system has it
	for line := range strings.Lines(string(content)) {
		if key, value, found := strings.Cut(line, ":"); found && strings.TrimSpace(key) == word {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

func commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// database is one measurement's own. LISTEN and NOTIFY are per database.
type database struct {
	server *server
	url    string // as the superuser
	pool   *pgxpool.Pool
	name   string
}

// migrated makes a database of ours.
func (s *server) migrated(ctx context.Context) (*database, error) { return s.create(ctx, s.template) }

// empty makes a database for others.
func (s *server) empty(ctx context.Context) (*database, error) { return s.create(ctx, "template1") }

func (s *server) create(ctx context.Context, template string) (*database, error) {
	d := &database{server: s, name: databaseName()}
	d.url = s.in(d.name)
	if _, err := s.admin.Exec(ctx, "CREATE DATABASE "+d.name+" TEMPLATE "+template); err != nil {
		return nil, fmt.Errorf("create a database: %w", err)
	}
	var err error
	if d.pool, err = pgxpool.New(ctx, d.url); err != nil {
		return nil, errors.Join(fmt.Errorf("connect to database %s: %w", d.name, err), d.drop())
	}
	return d, nil
}

// drop removes the database, also after a signal: it may be large.
func (d *database) drop() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if d.pool != nil {
		d.pool.Close()
	}
	if _, err := d.server.admin.Exec(ctx, "DROP DATABASE "+d.name+" WITH (FORCE)"); err != nil {
		return fmt.Errorf("drop database %s: %w", d.name, err)
	}
	return nil
}

// within runs do in a database of its own.
func within[T any](ctx context.Context, create func(context.Context) (*database, error), do func(*database) (T, error)) (result T, err error) {
	d, err := create(ctx)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, d.drop()) }()
	return do(d)
}

// as is the URL of the database under a service's own role.
func (d *database) as(service string) string { return d.login(migrations.RoleName(service)) }

func (d *database) login(role string) string {
	u, err := url.Parse(d.url)
	if err != nil {
		panic(err) // pgx has parsed it
	}
	u.User = url.UserPassword(role, rolePassword)
	return u.String()
}

// open opens the queue as a process of the service would.
func (d *database) open(ctx context.Context, service string) (*jobs.DB, error) {
	db, err := jobs.Open(ctx, d.as(service), jobs.Options{App: service})
	if err != nil {
		return nil, fmt.Errorf("open the queue as %s: %w", service, err)
	}
	return db, nil
}

func (d *database) exec(ctx context.Context, sql string) error {
	if _, err := d.pool.Exec(ctx, sql); err != nil {
		return fmt.Errorf("%s: %w", firstLine(sql), err)
	}
	return nil
}

// load runs statements on one connection on which no trigger fires and no foreign key is checked: for rows that are to
// be there before the measurement.
func (d *database) load(ctx context.Context, statements func(exec func(sql string, args ...any) error) error) error {
	return d.pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
		exec := func(sql string, args ...any) error {
			if _, err := conn.Exec(ctx, sql, args...); err != nil {
				return fmt.Errorf("%s: %w", firstLine(sql), err)
			}
			return nil
		}
		if err := exec("SET session_replication_role = replica"); err != nil {
			return err
		}
		return errors.Join(statements(exec), exec("RESET session_replication_role"))
	})
}

// settle makes the server equally busy for everybody: nothing of what was loaded is left to vacuum or to flush.
func (d *database) settle(ctx context.Context) error {
	return errors.Join(d.exec(ctx, "VACUUM (ANALYZE)"), d.exec(ctx, "CHECKPOINT"))
}

func firstLine(sql string) string {
	line, _, _ := strings.Cut(sql, "\n")
	return line
}

// value runs a query of one row and one column.
func value[T any](ctx context.Context, d *database, sql string, args ...any) (v T, err error) {
	rows, err := d.pool.Query(ctx, sql, args...)
	if err == nil {
		v, err = pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	}
	if err != nil {
		return v, fmt.Errorf("%s: %w", firstLine(sql), err)
	}
	return v, nil
}

// await waits until a query of one boolean is true, and asks every 5 ms.
func (d *database) await(ctx context.Context, limit time.Duration, sql string, args ...any) error {
	var failed error
	err := until(ctx, limit, 5*time.Millisecond, func() bool {
		done, err := value[bool](ctx, d, sql, args...)
		failed = err
		return done || err != nil
	})
	if err = errors.Join(err, failed); err != nil {
		return fmt.Errorf("wait for %s: %w", firstLine(sql), err)
	}
	return nil
}

// until waits for a condition.
func until(ctx context.Context, limit, every time.Duration, condition func() bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not within %s", limit))
	defer cancel()
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for !condition() {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// pause waits; false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// stopwatch measures time, and the CPU that the server and we use.
type stopwatch struct {
	server *server
	at     time.Time
	cpu    time.Duration // of the server
	ours   time.Duration
}

func (s *server) start() stopwatch {
	return stopwatch{server: s, cpu: s.cpu(), ours: ownCPU(), at: time.Now()}
}

// per is the rate of n jobs since the start, and what each cost.
func (w stopwatch) per(n int) figure {
	took := time.Since(w.at)
	micros := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(n) }
	return figure{perSecond: float64(n) / took.Seconds(), server: micros(w.server.cpu() - w.cpu), client: micros(ownCPU() - w.ours)}
}

// cpu is what all processes of the server have used so far, those that have ended too; 0 where that cannot be known.
func (s *server) cpu() time.Duration {
	if s.postmaster == 0 {
		return 0
	}
	var sum time.Duration
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is sound
	for _, path := range stats {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		stat, err := processStat(pid)
		switch {
		case err != nil: // it has just ended
		case pid == s.postmaster:
			sum += stat.cpu + stat.children
		case stat.parent == s.postmaster:
			sum += stat.cpu
		}
	}
	return sum
}

// stat is what Linux tells of a process.
type stat struct {
	name          string
	parent        int
	cpu, children time.Duration // children: of those that have ended
}

// tick is the unit of /proc/<pid>/stat: USER_HZ is 100 on every Linux that Go runs on.
const tick = 10 * time.Millisecond

func processStat(pid int) (stat, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, fmt.Errorf("read the state of process %d: %w", pid, err)
	}
	name, rest, _ := strings.Cut(string(content), ") ") // the name may hold spaces
	fields := strings.Fields(rest)
	if len(fields) < 15 {
		return stat{}, fmt.Errorf("read the state of process %d: %d fields", pid, len(fields))
	}
	numbers := make([]int, len(fields))
	for i, field := range fields {
		numbers[i], _ = strconv.Atoi(field) // the process's state is a letter
	}
	// proc(5) counts from the process id as 1; fields begins with the 3rd.
	return stat{
		name: name, parent: numbers[1],
		cpu: time.Duration(numbers[11]+numbers[12]) * tick, children: time.Duration(numbers[13]+numbers[14]) * tick,
	}, nil
}

// ownCPU is what this process has used so far.
func ownCPU() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
