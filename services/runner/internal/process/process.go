// Package process gives each job a place of its own on this machine: folders, a user id and a supervisor.
//
// A place is a numbered slot below one folder, and whoever holds the lock on the slot's file has it: runners may share
// the folder. The lock passes on to the supervisor, so a slot whose runner was killed is free when the
// processes of its job are gone; its next holder removes what they left.
//
//	<folder>/3.lock
//	<folder>/3/            passable for the slot's user, writable for the runner alone
//	<folder>/3/own/        the runner's: what is not for the job's eyes
//	<folder>/3/script/     the steps' scripts, readable for the job
//	<folder>/3/work/       the work tree   ┐
//	<folder>/3/home/       HOME            ├ the job's own
//	<folder>/3/tmp/        TMPDIR          ┘
//
// A runner that is root gives slot n the user and group id FirstUID + n, which own nothing else. Any other runner has
// but one user, its own, for all jobs.
package process

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/lockstep-ci/lockstep/services/runner/internal/supervise"
)

// maxSlots bounds the slots of one folder, and so the user ids.
const maxSlots = 1000

// Options of an executor.
type Options struct {
	Dir      string        // made if it is not there; its parents must be passable for the slots' users
	FirstUID uint32        // of slot 0, when the runner is root
	Silence  time.Duration // see supervise.Options
}

// Executor opens boxes.
type Executor struct{ options Options }

// New checks that jobs can have places here.
func New(o Options) (*Executor, error) {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("work folder %s: %w", o.Dir, err)
	}
	o.Dir = dir
	mode := fs.FileMode(0o700)
	if root() {
		mode = 0o711 // the slots' users pass, and list nothing
	}
	if err := os.MkdirAll(filepath.Dir(o.Dir), 0o755); err != nil {
		return nil, fmt.Errorf("make work folder: %w", err)
	}
	if err := os.Mkdir(o.Dir, mode); err == nil {
		err = os.Chmod(o.Dir, mode) // whatever the umask
		if err != nil {
			return nil, fmt.Errorf("make work folder: %w", err)
		}
	}
	info, err := os.Lstat(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("work folder: %w", err)
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); !ok || !info.IsDir() || int(owner.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("work folder %s is not a folder that this user owns and nobody else may write to", o.Dir)
	}
	if root() {
		for dir := o.Dir; ; dir = filepath.Dir(dir) {
			info, err := os.Stat(dir)
			if err != nil {
				return nil, fmt.Errorf("work folder: %w", err)
			}
			if info.Mode().Perm()&0o001 == 0 {
				return nil, fmt.Errorf("work folder %s: the jobs' users may not pass %s", o.Dir, dir)
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	return &Executor{options: o}, nil
}

func root() bool { return os.Geteuid() == 0 }

// Box is the place of one job.
type Box struct {
	Own  string // a folder that the job cannot see into
	Work string // the work tree
	Home string
	Temp string

	dir     string
	uid     uint32 // 0: the runner's
	lock    *os.File
	silence time.Duration
	session *supervise.Session
}

// Open takes a free slot and makes its folders.
func (e *Executor) Open() (*Box, error) {
	b, err := e.take()
	if err != nil {
		return nil, err
	}
	if err := b.furnish(); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// Supervise starts the supervisor, so that processes can be started. Output is that of supervise.Options.
func (b *Box) Supervise(output func(p []byte)) (err error) {
	b.session, err = supervise.Start(supervise.Options{Silence: b.silence, Output: output, Hold: b.lock})
	return err
}

// take locks the first slot that nobody has.
func (e *Executor) take() (*Box, error) {
	for slot := range uint32(maxSlots) {
		dir := filepath.Join(e.options.Dir, fmt.Sprint(slot))
		lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, fmt.Errorf("take slot %d: %w", slot, err)
		}
		switch err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); {
		case errors.Is(err, syscall.EWOULDBLOCK):
			lock.Close()
			continue
		case err != nil:
			lock.Close()
			return nil, fmt.Errorf("take slot %d: lock: %w", slot, err)
		}
		b := &Box{
			Own: filepath.Join(dir, "own"), Work: filepath.Join(dir, "work"), Home: filepath.Join(dir, "home"), Temp: filepath.Join(dir, "tmp"),
			dir: dir, lock: lock, silence: e.options.Silence,
		}
		if root() {
			b.uid = e.options.FirstUID + slot
		}
		return b, nil
	}
	return nil, fmt.Errorf("all %d slots of %s are taken", maxSlots, e.options.Dir)
}

// furnish makes the folders anew.
func (b *Box) furnish() error {
	if err := remove(b.dir); err != nil { // what a runner left that was killed
		return err
	}
	for _, folder := range []struct {
		path  string
		mode  fs.FileMode // with a user for the job, its group passes where the group bit is set
		yours bool
	}{
		{b.dir, 0o710, false},
		{b.Own, 0o700, false},
		{b.scripts(), 0o710, false},
		{b.Work, 0o700, true},
		{b.Home, 0o700, true},
		{b.Temp, 0o700, true},
	} {
		if err := os.Mkdir(folder.path, 0o700); err != nil {
			return fmt.Errorf("furnish slot: %w", err)
		}
		if b.uid == 0 {
			continue
		}
		owner := os.Geteuid()
		if folder.yours {
			owner = int(b.uid)
		}
		if err := errors.Join(os.Chown(folder.path, owner, int(b.uid)), os.Chmod(folder.path, folder.mode)); err != nil {
			return fmt.Errorf("furnish slot: %w", err)
		}
	}
	return nil
}

func (b *Box) scripts() string { return filepath.Join(b.dir, "script") }

// HandOver makes the job the owner of everything in its work tree. Only before its first process starts: later the tree
// is hostile.
func (b *Box) HandOver() error {
	if b.uid == 0 {
		return nil
	}
	err := filepath.WalkDir(b.Work, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(b.uid), int(b.uid))
	})
	if err != nil {
		return fmt.Errorf("hand the work tree over: %w", err)
	}
	return nil
}

// Script stores the script of a step where the job can read it, and returns its path.
func (b *Box) Script(step int, text string) (string, error) {
	path := filepath.Join(b.scripts(), fmt.Sprintf("%d.sh", step))
	err := os.WriteFile(path, []byte(text), 0o600)
	if err == nil && b.uid != 0 {
		err = errors.Join(os.Chown(path, -1, int(b.uid)), os.Chmod(path, 0o640))
	}
	if err != nil {
		return "", fmt.Errorf("store script of step %d: %w", step, err)
	}
	return path, nil
}

// Start starts a process as the job's user.
func (b *Box) Start(c supervise.Command) *supervise.Process {
	c.UID = b.uid
	return b.session.Start(c)
}

// Kill ends all processes of the job; see supervise.Session.
func (b *Box) Kill(ctx context.Context, grace time.Duration) error { return b.session.Kill(ctx, grace) }

// Level says, for people, what keeps the job to itself.
func (b *Box) Level() string {
	level := "no sandbox, processes shared with the machine"
	if b.session.Isolated() {
		level = "no sandbox, processes in a PID namespace"
	}
	if b.uid != 0 {
		level += fmt.Sprintf(", user %d", b.uid)
	}
	return level
}

// End ends whatever still runs. No process can be started any more.
func (b *Box) End() error {
	if b.session == nil {
		return nil
	}
	if err := b.session.Close(); err != nil {
		return fmt.Errorf("end the processes of slot %s: %w", b.dir, err)
	}
	return nil
}

// Close is End, removes the folders and frees the slot. A slot whose processes cannot be killed stays taken for as long
// as this runner lives.
func (b *Box) Close() error {
	if err := b.End(); err != nil {
		return err
	}
	err := remove(b.dir)
	return errors.Join(err, b.lock.Close())
}

// remove removes a folder with all that is in it, whatever modes a job has set. No process of the job lives.
func remove(dir string) error {
	err := os.RemoveAll(dir)
	if errors.Is(err, fs.ErrPermission) {
		_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, _ error) error {
			if d != nil && d.IsDir() {
				_ = os.Chmod(path, 0o700) // before it is read
			}
			return nil
		})
		err = os.RemoveAll(dir)
	}
	if err != nil {
		return fmt.Errorf("remove folders of slot: %w", err)
	}
	return nil
}
