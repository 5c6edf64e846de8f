package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/lockstep-ci/lockstep/dev/postgres"
)

// state is the folder that outlives a start: <home>/<hash of the checkout> with postgres/, logs/, the example
// repository and the lock.
type state struct {
	dir  string
	lock *os.File
}

// openState makes the checkout's folder and locks it: one launcher at a time. The lock ends with this process,
// whatever the end is, so no stale one is ever in the way.
func openState(checkout string) (*state, error) {
	home, err := postgres.Home()
	if err != nil {
		return nil, err
	}
	return lockState(filepath.Join(home, fmt.Sprintf("%x", sha256.Sum256([]byte(checkout)))[:12]))
}

func lockState(dir string) (*state, error) {
	if err := os.MkdirAll(dir, 0o711); err != nil { // the server's user passes through to postgres/
		return nil, fmt.Errorf("make folder for the data: %w", err)
	}
	if err := os.Chmod(dir, 0o711); err != nil { // whatever the umask
		return nil, fmt.Errorf("open folder of the data: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		pid, _ := os.ReadFile(lock.Name())
		_ = lock.Close()
		return nil, fmt.Errorf("`make run` of this checkout runs already, as pid %s: stop that first", strings.TrimSpace(string(pid)))
	}
	if err == nil {
		err = lock.Truncate(0)
	}
	if err == nil {
		_, err = lock.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return &state{dir: dir, lock: lock}, nil
}

func (s *state) close() { _ = s.lock.Close() }

// clean removes the checkout's folder with its database.
func clean(ctx context.Context) error {
	checkout, err := checkoutOf()
	if err != nil {
		return err
	}
	s, err := openState(checkout)
	if err != nil {
		return err
	}
	defer s.close()
	if err := postgres.Remove(ctx, filepath.Join(s.dir, "postgres")); err != nil {
		return fmt.Errorf("remove the database: %w", err)
	}
	if err := os.RemoveAll(s.dir); err != nil {
		return fmt.Errorf("remove the data: %w", err)
	}
	_ = os.Remove(filepath.Dir(s.dir)) // stays when other checkouts have theirs in it, or a copy of PostgreSQL is there
	tell("removed %s", s.dir)
	return nil
}
