package tutorial_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// service is one process of the copy, in a process group of its own.
type service struct {
	t      *testing.T
	name   string
	cmd    *exec.Cmd
	log    string
	exited chan struct{}
}

// builtIn are the commands that start the services which the tutorial does not speak of. The runner is that of before.
var builtIn = map[string]string{
	"api-gateway": "bin/api-gateway", "initializer": "ALLOW_FILE_URLS=true bin/initializer", "reaper": "bin/reaper",
	"runner": "EXECUTOR_UNSANDBOXED=true bin/runner",
}

// start starts a service by a command of the shell, and stops it when the test ends.
func (r *reader) start(name, command string) *service {
	r.t.Helper()
	home := filepath.Join(r.dir, name)
	if err := os.MkdirAll(home, 0o755); err != nil {
		r.t.Fatal(err)
	}
	log, err := os.CreateTemp(r.dir, name+"-*.log")
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	s := &service{t: r.t, name: name, log: log.Name(), exited: make(chan struct{})}
	s.cmd = exec.Command("sh", "-euc", command)
	s.cmd.Dir = r.tree
	s.cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + home, "TMPDIR=" + home, "DATABASE_URL=" + r.db.As(name),
		"SCANNER_DATABASE_URL=" + r.db.As("scanner"), "RUNNER_DATABASE_URL=" + r.db.As("runner"),
		"HTTP_ADDR=127.0.0.1:0", "ADMIN_TOKEN=" + token, "GITHUB_WEBHOOK_SECRET=" + token,
		"LEASE=3s", "BEAT=1s", "POLL=200ms", "GRACE=2s",
	}
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // the shell and what it starts
	if err := s.cmd.Start(); err != nil {
		r.t.Fatalf("start %s: %v", name, err)
	}
	r.guard.watch(s.cmd.Process.Pid)
	go func() {
		_ = s.cmd.Wait() // whoever wants to know asks ProcessState
		close(s.exited)
	}()
	r.running = append(r.running, s)
	return s
}

// signal goes to the whole group.
func (s *service) signal(signal syscall.Signal) {
	s.t.Helper()
	if err := syscall.Kill(-s.cmd.Process.Pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
		s.t.Fatalf("send %s to %s: %v", signal, s.name, err)
	}
}

func (s *service) kill() {
	s.t.Helper()
	s.signal(syscall.SIGKILL)
	<-s.exited
}

// stop ends the service as an operator does.
func (s *service) stop() {
	s.t.Helper()
	s.signal(syscall.SIGTERM)
	select {
	case <-s.exited:
	case <-time.After(20 * time.Second):
		s.t.Errorf("%s did not end within 20 s of SIGTERM", s.name)
		s.kill()
	}
}

// stop ends all processes of one service.
func (r *reader) stop(name string) {
	r.t.Helper()
	r.running = slices.DeleteFunc(r.running, func(s *service) bool {
		if s.name == name {
			s.stop()
		}
		return s.name == name
	})
}

func (s *service) output() string {
	out, err := os.ReadFile(s.log)
	if err != nil {
		return err.Error()
	}
	return string(out)
}

// serves waits until the gateway serves, and returns its address.
func (s *service) serves() string {
	s.t.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(soon); time.Now().Before(deadline); <-ticker.C {
		for line := range strings.Lines(s.output()) {
			var said struct{ Msg, Addr string }
			if json.Unmarshal([]byte(line), &said) == nil && said.Msg == "serving" {
				return said.Addr
			}
		}
	}
	s.t.Fatalf("%s does not serve", s.name)
	return ""
}

// guard is a shell that outlives this process and kills the groups it was told of: a panic or a timeout of the test runs no
// cleanup.
type guard struct{ in io.WriteCloser }

func newGuard(t *testing.T) *guard {
	t.Helper()
	cmd := exec.Command("sh", "-c", `all=; while read -r pid; do all="$all -$pid"; done; [ -z "$all" ] || kill -9 -- $all 2>/dev/null`)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C is not for it
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait() // that all of them are gone is no fault
	})
	return &guard{in}
}

func (g *guard) watch(pid int) { _, _ = fmt.Fprintln(g.in, pid) } // a dead guard costs only the guarding

// logs are the ends of what the services have said.
func (r *reader) logs() string {
	var all strings.Builder
	files, _ := filepath.Glob(filepath.Join(r.dir, "*.log")) // the pattern is sound
	for _, file := range files {
		content, err := os.ReadFile(file)
		fmt.Fprintf(&all, "== %s %v\n%s", filepath.Base(file), err, content[max(0, len(content)-4000):])
	}
	return all.String()
}
