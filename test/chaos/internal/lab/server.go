package lab

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/lockstep-ci/lockstep/dev/postgres"
)

// server is a durable PostgreSQL of our own, which may be killed and started again: at another address each time.
type server struct {
	source postgres.Source
	dir    string

	mu      sync.Mutex
	running *postgres.Server
	url     *url.URL // the superuser's
}

func newServer(ctx context.Context, bin, dir string) (*server, error) {
	s := &server{source: postgres.Source{Bin: bin}, dir: dir}
	return s, s.start(ctx)
}

func (s *server) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
	defer cancel()
	running, err := postgres.Crashable(ctx, s.source, s.dir, 300, "track_commit_timestamp=on", "deadlock_timeout=200ms")
	if err != nil {
		return fmt.Errorf("start PostgreSQL: %w", err)
	}
	at, err := url.Parse(running.URL)
	if err != nil {
		running.Stop()
		return fmt.Errorf("start PostgreSQL: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running, s.url = running, at
	return nil
}

// as is the URL for a login, at a proxy's address if there is one.
func (s *server) as(login, address string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := *s.url
	if login != "" {
		u.User = url.User(login)
	}
	if address != "" {
		u.Host = address
	}
	return u.String()
}

func (s *server) address() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.url.Host
}

// connect is a connection of the superuser, past all proxies.
func (s *server) connect(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.as("", ""))
	if err != nil {
		return nil, fmt.Errorf("connect to PostgreSQL: %w", err)
	}
	return conn, nil
}

// exec runs statements as the superuser, one after the other, until they have succeeded or ctx ends: the server may just
// be away. They must bear to be run twice.
func (s *server) exec(ctx context.Context, statements ...string) error {
	for {
		err := s.execOnce(ctx, statements...)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (s *server) execOnce(ctx context.Context, statements ...string) error {
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for _, one := range statements {
		if _, err := conn.Exec(ctx, one); err != nil {
			return fmt.Errorf("%s: %w", one, err)
		}
	}
	return nil
}

// await waits until a query of one boolean is true.
func (s *server) await(ctx context.Context, limit time.Duration, what, sql string, args ...any) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not within %s: %s", limit, what))
	defer cancel()
	for {
		var is bool
		err := func() error {
			conn, err := s.connect(ctx)
			if err != nil {
				return err
			}
			defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
			return conn.QueryRow(ctx, sql, args...).Scan(&is)
		}()
		if err == nil && is {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// stop is a fast shutdown.
func (s *server) stop() { s.running.Stop() }

// kill is kill -9 of the whole server. Each child is killed by itself: one that waits for a lock of a killed one would
// wait for ever, and hold the data.
func (s *server) kill() error {
	content, err := os.ReadFile(filepath.Join(s.dir, "data", "postmaster.pid"))
	if err != nil {
		return fmt.Errorf("kill PostgreSQL: %w", err)
	}
	line, _, _ := strings.Cut(string(content), "\n")
	pid, err := strconv.Atoi(line)
	if err != nil {
		return fmt.Errorf("kill PostgreSQL: %w", err)
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil { // from here on it has no more children
		return fmt.Errorf("kill PostgreSQL: %w", err)
	}
	for _, one := range append([]int{pid}, childrenOf(pid)...) {
		_ = syscall.Kill(one, syscall.SIGKILL) // it may have gone
	}
	select {
	case <-s.running.Done:
	case <-time.After(20 * time.Second):
		return fmt.Errorf("kill PostgreSQL: process %d still lives", pid)
	}
	s.running.Stop()
	return nil
}

// childrenOf lists a process's children; none where there is no /proc: they notice that their parent has gone.
func childrenOf(parent int) (children []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is sound
	for _, stat := range stats {
		content, err := os.ReadFile(stat)
		if err != nil {
			continue
		}
		_, behind, _ := strings.Cut(string(content[strings.LastIndexByte(string(content), ')')+1:]), " ") // proc(5): pid (comm) state ppid
		if fields := strings.Fields(behind); len(fields) > 1 && fields[1] == strconv.Itoa(parent) {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(stat))); err == nil {
				children = append(children, pid)
			}
		}
	}
	return children
}
