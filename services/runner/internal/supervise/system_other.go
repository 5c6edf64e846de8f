//go:build unix && !linux

package supervise

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Other systems lend a hand for development: no namespaces, no subreaper, no death signal.

const unread = 0x4004667f // FIONREAD on the BSDs and macOS

var self = func() string { path, _ := os.Executable(); return path }()

func adopt() error { return nil }

func enterNamespaces([]string) (code int, ok bool) { return 0, false }

func furnishNamespaces() error { return unix.ENOSYS }

func prepare() error { return nil }

func newPipe(ends []int) error {
	if err := unix.Pipe(ends); err != nil {
		return err
	}
	unix.CloseOnExec(ends[0])
	unix.CloseOnExec(ends[1])
	return unix.SetNonblock(ends[0], true)
}

func processAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// signalAll reaches what stayed in the process group of a command.
func (s *supervisor) signalAll(sig unix.Signal) {
	for _, p := range s.started {
		_ = unix.Kill(-p.pid, sig)
	}
}

// strays says whether such a group lives on without its leader.
func (s *supervisor) strays() bool {
	for _, p := range s.started {
		if unix.Kill(-p.pid, 0) == nil {
			return true
		}
	}
	return false
}

func killOrphans() error { return nil }
