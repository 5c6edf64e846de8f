package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lockstep-ci/lockstep/dev/internal/guard"
)

// Server is a PostgreSQL that listens on 127.0.0.1 alone, and on no socket file. It does not outlive this process,
// however that ends.
type Server struct {
	// URL logs in to it. It holds the password, which is new at each start and stands in no file.
	URL string
	// Done is closed when the server has ended, by Stop or by itself.
	Done <-chan struct{}

	stop func()
}

// Stop ends the server: a fast shutdown, then harder ones if that takes too long. A throw-away's data is removed.
func (s *Server) Stop() { s.stop() }

const (
	startTimeout = 2 * time.Minute  // a killed server replays its log first
	fastTimeout  = 20 * time.Second // the shutdown checkpoint on a slow disk
)

// kind is what distinguishes the two servers.
type kind struct {
	user, database string
	settings       []string // of the server, as -c options
	initdb         []string // options beyond those of both
	hba            string   // pg_hba.conf
	create         []string // SQL for a new data folder, one statement a line
}

// throwaway: for tests. The superuser is asked for a password, so that no other user of the machine becomes us by
// it; the services' roles are not, for those belong to the cluster, and tests that run beside each other would
// change one another's passwords.
func throwaway(maxConnections int, settings []string) kind {
	return kind{
		user: "postgres", database: "postgres",
		settings: append([]string{"max_connections=" + strconv.Itoa(maxConnections), "fsync=off", "full_page_writes=off", "jit=off"}, settings...),
		initdb:   []string{"--no-sync"},
		hba:      "host all postgres all scram-sha-256\nhost all all all trust\n",
	}
}

// persistent: for `make run`, where users' code runs beside the server. Nobody can log in as the superuser at all.
// The owner of the database can make roles, and holds no other privilege over the cluster.
func persistent() kind {
	return kind{
		user: "lockstep", database: "lockstep",
		settings: []string{"max_connections=200"},
		hba:      "host all postgres all reject\nhost lockstep all all scram-sha-256\n",
		create: []string{
			"CREATE ROLE lockstep LOGIN CREATEROLE",
			"CREATE DATABASE lockstep OWNER lockstep",
			"GRANT SET ON PARAMETER log_statement TO lockstep", // to keep passwords out of the server's log
		},
	}
}

// password is SQL that gives the kind's user a new password.
func (k kind) password() (password, statement string) {
	password = rand.Text()
	return password, fmt.Sprintf("ALTER ROLE %s PASSWORD '%s'", k.user, password)
}

func (k kind) url(password string, port int) string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(k.user, password),
		Host: "127.0.0.1:" + strconv.Itoa(port), Path: "/" + k.database, RawQuery: "sslmode=disable",
	}
	return u.String()
}

// Durable are the settings of a Throwaway server that benchmarks may be run on: what it acknowledged is on disk, no
// checkpoint falls into a measurement by chance, and what PostgreSQL does by itself it does here.
var Durable = []string{"fsync=on", "full_page_writes=on", "jit=on", "shared_buffers=1GB", "max_wal_size=8GB", "checkpoint_timeout=30min"}

// Each test has a database of its own, some 400 files that are made and removed again: in ext4, which passes over inodes that were
// just removed, that took a third of the CPU of a package of tests.
const (
	memory = "/dev/shm"
	enough = 4 << 30 // bytes: ten times what `make test` uses at once
)

// free is how many bytes there are for us in a file system that keeps its files in memory; 0 where that is none.
func free(path string) uint64 {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(path, &fs); err != nil || passable(path) != nil {
		return 0
	}
	return fs.Bavail * uint64(fs.Bsize)
}

// Throwaway starts a server for tests, whose URL is the superuser's. It is fast rather than durable (fsync=off, no jit, whose
// compiler took a quarter of the CPU of a package of tests; in memory where there is room), unless settings (name=value, after
// its own) say otherwise: see Durable.
func Throwaway(ctx context.Context, source Source, maxConnections int, settings ...string) (_ *Server, err error) {
	if source.Engine != "" {
		return startContainer(ctx, source.Engine, throwaway(maxConnections, settings), "")
	}
	owner, _, err := version(ctx, source.Bin, anyAccount)
	if err != nil {
		return nil, err
	}
	temp := os.TempDir()
	if passable(temp) != nil {
		temp = "/tmp"
	}
	if len(settings) == 0 && free(memory) > enough {
		temp = memory
	}
	dir, err := os.MkdirTemp(temp, "lockstep-postgres-")
	if err != nil {
		return nil, fmt.Errorf("make folder for PostgreSQL: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	// If we are killed: no need to shut down in order, only the files must go. The server may still write some.
	watch, err := guard.Start(`trap '' QUIT; kill -QUIT 0; for _ in 1 2 3 4 5; do sleep 1; rm -rf "$1" && break; done`, dir)
	if err != nil {
		return nil, err
	}
	s := &local{kind: throwaway(maxConnections, settings), bin: source.Bin, account: owner, dir: dir, guard: watch}
	server, err := s.start(ctx)
	if err != nil {
		watch.End()
		return nil, err
	}
	server.stop = func() {
		s.shutdown()
		_ = os.RemoveAll(dir)
	}
	return server, nil
}

// Open starts the server whose data is in dir, and makes dir and the data if they are missing. The URL is that of
// the database's owner, who may make roles. At most one process may use dir: the caller sees to that. What a
// killed predecessor left running is shut down first.
func Open(ctx context.Context, source Source, dir string) (*Server, error) {
	if source.Engine != "" {
		return startContainer(ctx, source.Engine, persistent(), dir)
	}
	return open(ctx, source, dir, persistent())
}

// Crashable is a durable Throwaway for those who kill it and start it again: like Open it keeps its data in dir, and what
// it has acknowledged is there after a kill -9. It needs a source with binaries; dir is the caller's to remove.
func Crashable(ctx context.Context, source Source, dir string, maxConnections int, settings ...string) (*Server, error) {
	if source.Bin == "" {
		return nil, errors.New("a server that may be killed needs PostgreSQL's binaries on this machine; set PG_BIN to their folder")
	}
	return open(ctx, source, dir, throwaway(maxConnections, append(slices.Clone(Durable), settings...)))
}

func open(ctx context.Context, source Source, dir string, kind kind) (*Server, error) {
	suits := anyAccount
	if info, err := os.Stat(filepath.Join(dir, "data")); err == nil { // made by an earlier start, maybe as another account
		stat := info.Sys().(*syscall.Stat_t)
		suits = func(a account) bool { return a.uid == int(stat.Uid) }
	}
	owner, major, err := version(ctx, source.Bin, suits)
	if err != nil {
		return nil, err
	}
	if made, err := os.ReadFile(filepath.Join(dir, "data", "PG_VERSION")); err == nil && strings.TrimSpace(string(made)) != strconv.Itoa(major) {
		return nil, fmt.Errorf("the data in %s was made by PostgreSQL %s, and this is %d: set PG_BIN to the folder of an initdb %s, or remove the data with `make clean`",
			dir, strings.TrimSpace(string(made)), major, strings.TrimSpace(string(made)))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder for PostgreSQL: %w", err)
	}
	lock, err := soleServer(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = lock.Close() }() // the server holds it on
	watch, err := guard.Start(`trap '' INT; kill -INT 0`)
	if err != nil {
		return nil, err
	}
	s := &local{kind: kind, bin: source.Bin, account: owner, dir: dir, guard: watch, lock: lock}
	server, err := s.start(ctx)
	if err != nil {
		watch.End()
		return nil, err
	}
	server.stop = s.shutdown
	return server, nil
}

// soleServer takes the lock that the server and each of its processes inherits: while one of them lives, nobody
// else has it. (The pid in postmaster.pid proves nothing: by now it may be another program's.) Our guard stops the
// server of a killed predecessor; this waits until that is done.
func soleServer(ctx context.Context, dir string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(dir, "server.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock of PostgreSQL: %w", err)
	}
	pidFile := filepath.Join(dir, "data", "postmaster.pid")
	err = poll(ctx, fastTimeout, func() (bool, error) {
		err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return false, nil
		}
		return err == nil, err
	})
	if errors.Is(err, errTooLong) {
		pid, _ := os.ReadFile(pidFile)
		err = fmt.Errorf("a PostgreSQL of an earlier start still runs: end it with `kill -INT %s`", firstLine(string(pid)))
	}
	if err == nil {
		err = os.RemoveAll(pidFile)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock PostgreSQL's data in %s: %w", dir, err), lock.Close())
	}
	return lock, nil
}

var errTooLong = errors.New("it took too long")

// poll asks done until it says true or fails, or until the time is over: errTooLong.
func poll(ctx context.Context, atMost time.Duration, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, atMost, errTooLong)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
