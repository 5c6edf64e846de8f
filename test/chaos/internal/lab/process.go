package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/lockstep-ci/lockstep/test/chaos/internal/audit"
)

// process is one of the binaries at work, in a process group of its own.
type process struct {
	cmd    *exec.Cmd
	log    string
	exited chan struct{} // closed when it has been waited for

	mu     sync.Mutex
	record audit.Process
}

// spawn starts a binary with the environment given, and nothing else in it.
func (g *guard) spawn(binary, dir, login, service string, environment []string) (*process, error) {
	// A file, not a pipe: what a killed process leaves behind would hold a pipe open.
	log, err := os.Create(filepath.Join(dir, login+".log"))
	if err != nil {
		return nil, fmt.Errorf("make log file of %s: %w", login, err)
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(binary)
	cmd.Dir, cmd.Env = dir, environment
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", login, err)
	}
	p := &process{cmd: cmd, log: log.Name(), exited: make(chan struct{}), record: audit.Process{Login: login, Service: service}}
	g.tell("+", cmd.Process.Pid)
	go func() {
		_ = cmd.Wait() // the record tells how it ended
		g.tell("-", cmd.Process.Pid)
		p.mu.Lock()
		p.record.Ended, p.record.Code, p.record.Said = time.Now(), cmd.ProcessState.ExitCode(), p.said()
		p.mu.Unlock()
		close(p.exited)
	}()
	return p, nil
}

func (p *process) told() audit.Process {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.record
}

// said is the end of what it logged.
func (p *process) said() string {
	content, _ := os.ReadFile(p.log)
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	return strings.Join(lines[max(0, len(lines)-3):], " | ")
}

func (p *process) running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// kill is kill -9 of this one process: what it started is on its own.
func (p *process) kill() {
	p.mu.Lock()
	p.record.Killed = p.record.Ended.IsZero()
	p.mu.Unlock()
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// freeze stops the process, and waits until each of its threads stands still.
func (p *process) freeze(ctx context.Context) error {
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		return fmt.Errorf("stop %s: %w", p.record.Login, err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.cmd.Process.Pid)) // the pattern is sound
		if !slices.ContainsFunc(threads, func(stat string) bool { return state(stat) != "T" }) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not stand still", p.record.Login)
		}
	}
}

func (p *process) thaw() { _ = p.cmd.Process.Signal(syscall.SIGCONT) }

// state is the letter by which proc(5) tells what a thread does; empty where there is no such file.
func state(stat string) string {
	content, err := os.ReadFile(stat)
	if err != nil {
		return ""
	}
	_, after, _ := strings.Cut(string(content[bytes.LastIndexByte(content, ')'):]), " ") // pid (comm) state …
	return after[:1]
}

// end is SIGTERM, as a rollout sends it, and SIGKILL if that takes longer than a rollout would wait.
func (p *process) end() error {
	p.mu.Lock()
	if p.record.Told.IsZero() && p.record.Ended.IsZero() {
		p.record.Told = time.Now()
	}
	p.mu.Unlock()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end %s: %w", p.record.Login, err)
	}
	p.thaw() // one that stands still hears nothing
	select {
	case <-p.exited:
		return nil
	case <-time.After(40 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.exited
		return fmt.Errorf("%s did not end within 40 s of SIGTERM", p.record.Login)
	}
}

// guard is a shell that kills the process groups it was told of when this process has gone: a panic or a kill runs no
// cleanup.
type guard struct {
	mu  sync.Mutex
	in  io.WriteCloser
	cmd *exec.Cmd
}

const guardScript = `
all=
while read -r op pid; do
	case $op in
	+) all="$all $pid" ;;
	-) rest=; for one in $all; do [ "$one" = "$pid" ] || rest="$rest $one"; done; all=$rest ;;
	esac
done
for one in $all; do kill -9 "-$one"; done
[ -z "$all" ] || rm -rf "$1"
`

func newGuard(dir string) (*guard, error) {
	cmd := exec.Command("sh", "-c", guardScript, "guard", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C is not for it
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("make pipe to the guard: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the guard: %w", err)
	}
	return &guard{in: in, cmd: cmd}, nil
}

func (g *guard) tell(op string, pid int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, _ = fmt.Fprintln(g.in, op, pid) // a dead guard costs only the guarding
}

func (g *guard) end() {
	_ = g.in.Close()
	_ = g.cmd.Wait()
}
