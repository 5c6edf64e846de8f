package supervise

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// self is this very binary, also when its file was replaced since.
const self = "/proc/self/exe"

// unread is the ioctl that counts the bytes waiting in a pipe.
const unread = unix.TIOCINQ

// adopt makes this process the parent of descendants that lose theirs.
func adopt() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become a child subreaper: %w", err)
	}
	return nil
}

// enterNamespaces starts this binary again as process 1 of a new PID namespace, and waits for it. False means that
// the kernel does not let us. A process in between is needed: only a dumpable one, as this still is, can be
// given uid maps, and the runner is not.
func enterNamespaces(args []string) (code int, ok bool) {
	runtime.LockOSThread() // the death signal is bound to this thread
	attr := &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	if uid, gid := os.Geteuid(), os.Getegid(); uid != 0 {
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
		attr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN} // to mount /proc; execve would take it away
	}
	cmd := &exec.Cmd{
		Path: self, Args: append([]string{"runner", "supervise"}, args...), Env: []string{},
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		SysProcAttr: attr,
	}
	if err := cmd.Start(); err != nil {
		return 0, false
	}
	_ = cmd.Wait() // the exit code says it
	code = cmd.ProcessState.ExitCode()
	return code, code != exitNoNamespace
}

// furnishNamespaces gives process 1 of a new PID namespace a /proc that shows this namespace only.
func furnishNamespaces() error {
	if os.Getpid() != 1 {
		return fmt.Errorf("process %d is not the first of its PID namespace", os.Getpid())
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return nil
}

// prepare readies the calling thread, which must start all processes, and this process.
func prepare() error {
	if err := adopt(); err != nil {
		return err
	}
	// Steps of the same uid must not read our memory or take us over with ptrace.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("make the supervisor unreadable: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("drop ambient capabilities: %w", err)
	}
	// Whoever started the runner may have left descriptors open that a step must not inherit.
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("list open descriptors: %w", err)
	}
	for _, entry := range open {
		if fd, err := strconv.Atoi(entry.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

func newPipe(ends []int) error {
	if err := unix.Pipe2(ends, unix.O_CLOEXEC); err != nil {
		return err
	}
	return unix.SetNonblock(ends[0], true)
}

func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Pdeathsig: unix.SIGKILL}
}

// signalAll signals every process of the job.
func (s *supervisor) signalAll(sig unix.Signal) {
	if s.isolated {
		_ = unix.Kill(-1, sig) // all of the namespace but ourselves
		return
	}
	if sig == unix.SIGKILL {
		// Stopped first, so that none forks while the list is read.
		for seen := map[int]bool{}; signalNew(os.Getpid(), unix.SIGSTOP, seen); {
		}
	}
	signalNew(os.Getpid(), sig, map[int]bool{})
}

// strays are not possible: orphans become our children.
func (s *supervisor) strays() bool { return false }

// signalNew signals the descendants of root that are not in seen, adds them, and says whether there were any.
func signalNew(root int, sig unix.Signal, seen map[int]bool) bool {
	var found bool
	for _, p := range descendants(root) {
		if !seen[p.pid] {
			seen[p.pid], found = true, true
			p.signal(sig)
		}
	}
	return found
}

// killOrphans ends what a vanished supervisor left behind. Such processes are children of the runner by now,
// and the only ones outside its session: each step leads its own, and a session cannot be joined.
func killOrphans() error {
	me, err := readEntry(os.Getpid())
	if err != nil {
		return fmt.Errorf("look for orphans: %w", err)
	}
	bound := time.Now().Add(killBound)
	for {
		var orphans []entry
		for _, e := range processes() {
			if e.parent == me.pid && e.session != me.session {
				orphans = append(orphans, e)
			}
		}
		if len(orphans) == 0 {
			return nil
		}
		if time.Now().After(bound) {
			return fmt.Errorf("kill orphans: %d are left", len(orphans))
		}
		for _, orphan := range orphans {
			for seen := map[int]bool{}; signalNew(orphan.pid, unix.SIGSTOP, seen); {
			}
			signalNew(orphan.pid, unix.SIGKILL, map[int]bool{})
			orphan.signal(unix.SIGKILL)
			_, _ = unix.Wait4(orphan.pid, nil, unix.WNOHANG, nil)
		}
		<-time.After(killEvery) // they die, and their children become ours
	}
}

// entry is a process as /proc shows it.
type entry struct {
	pid, parent, session int
	zombie               bool
	started              string // in clock ticks since boot; with the pid it names one process
}

// signal sends sig unless the pid is another process's by now.
func (e entry) signal(sig unix.Signal) {
	p, err := os.FindProcess(e.pid) // holds a pidfd
	if err != nil {
		return
	}
	defer func() { _ = p.Release() }()
	if now, err := readEntry(e.pid); err == nil && now.started == e.started {
		_ = p.Signal(sig)
	}
}

// descendants lists the living ones of root.
func descendants(root int) []entry {
	children := map[int][]entry{}
	for _, e := range processes() {
		children[e.parent] = append(children[e.parent], e)
	}
	var found []entry
	for next := children[root]; len(next) > 0; {
		e := next[0]
		next = append(next[1:], children[e.pid]...)
		if !e.zombie {
			found = append(found, e)
		}
	}
	return found
}

func processes() []entry {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	var all []entry
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		if e, err := readEntry(pid); err == nil { // else it has just ended
			all = append(all, e)
		}
	}
	return all
}

// readEntry reads /proc/<pid>/stat (proc(5)). The name in parentheses may contain anything.
func readEntry(pid int) (entry, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return entry{}, err
	}
	_, rest, _ := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), " ")
	fields := strings.Fields(rest) // from field 3, the state, on
	if len(fields) < 20 {
		return entry{}, fmt.Errorf("process %d: %d fields of stat after the name", pid, len(fields))
	}
	e := entry{pid: pid, zombie: fields[0] == "Z" || fields[0] == "X", started: fields[19]}
	if e.parent, err = strconv.Atoi(fields[1]); err != nil {
		return entry{}, fmt.Errorf("process %d: parent: %w", pid, err)
	}
	if e.session, err = strconv.Atoi(fields[3]); err != nil {
		return entry{}, fmt.Errorf("process %d: session: %w", pid, err)
	}
	return e, nil
}
