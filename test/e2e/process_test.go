package e2e_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// process is one of the binaries at work, in a process group of its own.
type process struct {
	service string
	pid     int
	logFile string
	exited  chan struct{} // closed when it has been waited for
	cmd     *exec.Cmd
}

// spawn starts a binary with the environment given, and nothing else in it.
func spawn(t testing.TB, service, dir string, environment []string) *process {
	t.Helper()
	// A file, not a pipe: what a killed process leaves behind would hold a pipe open.
	log, err := os.CreateTemp(dir, service+"-*.log")
	if err != nil {
		t.Fatalf("make log file of %s: %v", service, err)
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(filepath.Join(binaries, service))
	cmd.Dir, cmd.Env = dir, environment
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", service, err)
	}
	p := &process{service: service, pid: cmd.Process.Pid, logFile: log.Name(), exited: make(chan struct{}), cmd: cmd}
	watchdog.watch(p.pid)
	go func() {
		_ = cmd.Wait() // whoever wants to know asks ProcessState
		watchdog.forget(p.pid)
		close(p.exited)
	}()
	return p
}

func (p *process) running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

func (p *process) signal(t testing.TB, signal syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatalf("send %s to %s: %v", signal, p.service, err)
	}
}

// kill is kill -9 of this one process: what it started is on its own.
func (p *process) kill(t testing.TB) {
	t.Helper()
	p.signal(t, syscall.SIGKILL)
	<-p.exited
}

// freeze stops the process for a while, and waits until each of its threads stands still: a signal takes its time.
func (p *process) freeze(t testing.TB) {
	t.Helper()
	p.signal(t, syscall.SIGSTOP)
	eventually(t, 20*time.Second, p.service+" stands still", func() bool {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.pid)) // the pattern is sound
		return !slices.ContainsFunc(threads, func(stat string) bool { return state(stat) != "T" })
	})
}

// thaw lets it go on.
func (p *process) thaw(t testing.TB) {
	t.Helper()
	p.signal(t, syscall.SIGCONT)
}

// stop ends the process as an operator does, and wants it to go in order.
func (p *process) stop(t testing.TB) {
	t.Helper()
	if !p.running() {
		return
	}
	p.thaw(t) // a stopped one hears nothing
	p.signal(t, syscall.SIGTERM)
	select {
	case <-p.exited:
		if code := p.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("%s ended with %s after SIGTERM, want exit code 0", p.service, p.cmd.ProcessState)
		}
	case <-time.After(20 * time.Second):
		t.Errorf("%s did not end within 20 s of SIGTERM", p.service)
		p.kill(t)
	}
}

func (p *process) output(t testing.TB) []byte {
	t.Helper()
	out, err := os.ReadFile(p.logFile)
	if err != nil {
		t.Fatalf("read log of %s: %v", p.service, err)
	}
	return out
}

// logged waits until the process has logged a message, and returns the first such line's fields.
func (p *process) logged(t testing.TB, message string) map[string]any {
	t.Helper()
	var found map[string]any
	eventually(t, 20*time.Second, fmt.Sprintf("%s logs %q", p.service, message), func() bool {
		lines := bufio.NewScanner(bytes.NewReader(p.output(t)))
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			fields := map[string]any{}
			if json.Unmarshal(lines.Bytes(), &fields) == nil && fields["msg"] == message {
				found = fields
				return true
			}
		}
		return false
	})
	return found
}

// metric is the sum of a worker's Prometheus metrics whose name with labels begins so.
func (p *process) metric(t testing.TB, name string) float64 {
	t.Helper()
	addr := p.logged(t, "serving health and metrics")["addr"].(string)
	response, err := http.Get("http://" + addr + "/metrics")
	if err != nil {
		t.Fatalf("read metrics of %s: %v", p.service, err)
	}
	defer func() { _ = response.Body.Close() }()
	sum, lines := 0.0, bufio.NewScanner(response.Body)
	for lines.Scan() {
		if key, value, _ := strings.Cut(lines.Text(), " "); strings.HasPrefix(key, name) {
			number, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatalf("metric of %s %q: %v", p.service, lines.Text(), err)
			}
			sum += number
		}
	}
	return sum
}

// alive reports whether there is a process with this id that is more than a zombie.
func alive(pid int) bool {
	return syscall.Kill(pid, 0) == nil && state(fmt.Sprintf("/proc/%d/stat", pid)) != "Z"
}

// state is the letter by which proc(5) tells what a process or thread does; empty where there is no such file.
func state(stat string) string {
	content, err := os.ReadFile(stat)
	if err != nil {
		return ""
	}
	_, after, _ := strings.Cut(string(content[bytes.LastIndexByte(content, ')'):]), " ") // pid (comm) state …
	return after[:1]
}

// traces lists the processes that were started for this path: it is in their environment, arguments or working
// directory. Other systems than Linux show none of that.
func traces(path string) []string {
	return processes(func(proc string) bool {
		environment, _ := os.ReadFile(filepath.Join(proc, "environ")) // of another user's process: not for us to see
		folder, _ := os.Readlink(filepath.Join(proc, "cwd"))
		return strings.Contains(arguments(proc)+string(environment)+folder, path)
	})
}

// named lists the processes that have this path among their arguments.
func named(path string) []string {
	return processes(func(proc string) bool { return slices.Contains(strings.Split(arguments(proc), "\x00"), path) })
}

func processes(wanted func(proc string) bool) []string {
	var found []string
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		proc := filepath.Join("/proc", entry.Name())
		pid, err := strconv.Atoi(entry.Name())
		if err == nil && pid != os.Getpid() && wanted(proc) && alive(pid) {
			found = append(found, fmt.Sprintf("%d: %s", pid, strings.ReplaceAll(arguments(proc), "\x00", " ")))
		}
	}
	return found
}

func arguments(proc string) string {
	content, _ := os.ReadFile(filepath.Join(proc, "cmdline")) // empty when it has just gone
	return string(content)
}

// eventually asks every 20 ms until the answer is yes, at most for the limit: for what nothing announces.
func eventually(t testing.TB, limit time.Duration, what string, done func() bool) {
	t.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(limit); !done(); <-ticker.C {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}
