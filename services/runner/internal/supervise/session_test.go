package supervise_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-ci/lockstep/services/runner/internal/supervise"
)

// patience bounds every wait; nothing that works takes a tenth of it.
const patience = 30 * time.Second

// TestMain lets the test binary be the supervisor too, as the runner's is, and a runner to be killed.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 1 && os.Args[1] == "supervise":
		syscall.Exit(supervise.Main(os.Args[2:])) // os.Exit takes a second under the race detector
	case len(os.Args) > 1 && os.Args[1] == "stand-in":
		os.Exit(standIn(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// inEachMode runs a test in a PID namespace, where this machine grants one, and without.
func inEachMode(t *testing.T, test func(t *testing.T, job *job)) {
	for _, shared := range []bool{false, true} {
		t.Run(fmt.Sprintf("shared=%t", shared), func(t *testing.T) {
			t.Parallel()
			test(t, newJob(t, shared))
		})
	}
}

// job is a session with a folder that its steps may write to.
type job struct {
	*supervise.Session
	t   *testing.T
	dir string
	uid uint32

	mu     sync.Mutex
	output bytes.Buffer
}

func newJob(t *testing.T, shared bool) *job {
	t.Helper()
	j := &job{t: t, dir: folder(t)}
	if os.Geteuid() == 0 {
		j.uid = 64999 // of nobody: as the runner does it
	}
	var err error
	j.Session, err = supervise.Start(supervise.Options{Silence: patience, Shared: shared, Output: func(p []byte) {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.output.Write(p)
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return j
}

// folder is a temporary one that any user may use; t.TempDir is closed to others.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "supervise")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

func (j *job) start(script string) *supervise.Process {
	return j.Start(supervise.Command{Args: []string{"sh", "-c", script}, Env: []string{"PATH=" + os.Getenv("PATH")}, Dir: j.dir, UID: j.uid})
}

// run is start and wait.
func (j *job) run(script string) supervise.Exit {
	j.t.Helper()
	exit, err := j.wait(j.start(script))
	if err != nil {
		j.t.Fatalf("%s: %v", script, err)
	}
	return exit
}

func (j *job) wait(p *supervise.Process) (supervise.Exit, error) {
	j.t.Helper()
	select {
	case <-p.Done():
	case <-time.After(patience):
		j.t.Fatal("the process did not end")
	}
	return p.Wait()
}

func (j *job) said() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.output.String()
}

// pulse is a pipe that processes hold open while they live.
type pulse struct {
	t    *testing.T
	path string
	r    *os.File
	own  *os.File // without a writer there is an end at once
}

func newPulse(t *testing.T, dir string) *pulse {
	t.Helper()
	p := &pulse{t: t, path: filepath.Join(dir, "pulse")}
	if err := syscall.Mkfifo(p.path, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(p.path, 0o666); err != nil { // umask
		t.Fatal(err)
	}
	var err error
	if p.r, err = os.OpenFile(p.path, os.O_RDONLY|syscall.O_NONBLOCK, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.r.Close() })
	if err := p.r.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if p.own, err = os.OpenFile(p.path, os.O_WRONLY, 0); err != nil {
		t.Fatal(err)
	}
	return p
}

// beats waits until n processes have written "up" and a newline.
func (p *pulse) beats(n int) {
	p.t.Helper()
	if _, err := io.ReadFull(p.r, make([]byte, 3*n)); err != nil {
		p.t.Fatalf("wait for the processes to be there: %v", err)
	}
	p.own.Close()
}

// stops waits until no process holds the pipe.
func (p *pulse) stops() {
	p.t.Helper()
	if _, err := io.Copy(io.Discard, p.r); err != nil {
		p.t.Fatalf("some process lives on: %v", err)
	}
}

// goes checks that some process holds the pipe still.
func (p *pulse) goes() {
	p.t.Helper()
	raw, err := p.r.SyscallConn()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := raw.Read(func(fd uintptr) bool {
		if n, err := syscall.Read(int(fd), make([]byte, 1)); n == 0 {
			p.t.Errorf("nobody lives: %v", err)
		}
		return true
	}); err != nil {
		p.t.Fatal(err)
	}
}

// daemon is a script that leaves one behind: it forks twice, has a session of its own and ignores SIGTERM.
func daemon(p *pulse) string {
	return `(trap "" TERM HUP INT; setsid sh -c '(exec 3>` + p.path + `; echo up >&3; while :; do sleep 1000; done) &' </dev/null >/dev/null 2>&1 &)`
}

func TestExitCodesAreTheProcesss(t *testing.T) {
	inEachMode(t, func(t *testing.T, j *job) {
		for script, want := range map[string]supervise.Exit{
			"exit 0":        {Code: 0},
			"exit 1":        {Code: 1},
			"exit 137":      {Code: 137},
			"exit 255":      {Code: 255},
			"kill -KILL $$": {Code: 137, Signal: syscall.SIGKILL},
			"kill -TERM $$": {Code: 143, Signal: syscall.SIGTERM},
			"kill -SEGV $$": {Code: 139, Signal: syscall.SIGSEGV},
		} {
			if got := j.run(script); got != want {
				t.Errorf("%s: got %+v, want %+v", script, got, want)
			}
		}
	})
}

func TestAProgramThatCannotBeStartedSaysWhy(t *testing.T) {
	inEachMode(t, func(t *testing.T, j *job) {
		locked := filepath.Join(j.dir, "locked")
		if err := os.WriteFile(locked, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		path := []string{"PATH=" + j.dir + ":/bin:/usr/bin"}
		for _, c := range []struct {
			name    string
			command supervise.Command
			want    error
		}{
			{"no such program", supervise.Command{Args: []string{"no-such-program"}, Env: path}, syscall.ENOENT},
			{"no PATH", supervise.Command{Args: []string{"sh"}}, syscall.ENOENT},
			{"relative PATH", supervise.Command{Args: []string{"sh"}, Env: []string{"PATH=bin"}, Dir: "/"}, syscall.ENOENT},
			{"not executable", supervise.Command{Args: []string{"locked"}, Env: path}, syscall.EACCES},
			{"no such folder", supervise.Command{Args: []string{"sh"}, Env: path, Dir: j.dir + "/none"}, syscall.ENOENT},
			{"NUL in an argument", supervise.Command{Args: []string{"sh", "a\x00b"}, Env: path}, syscall.EINVAL},
			{"one argument too long", supervise.Command{Args: []string{"sh", strings.Repeat("x", 1<<20)}, Env: path}, syscall.E2BIG},
			{"arguments too long", supervise.Command{Args: []string{"sh", strings.Repeat("x", 5<<20)}, Env: path}, syscall.E2BIG},
		} {
			_, err := j.wait(j.Start(c.command))
			var start *supervise.StartError
			if !errors.As(err, &start) || !errors.Is(err, c.want) {
				t.Errorf("%s: got %v, want %v", c.name, err, c.want)
			}
		}
		if got := j.run("exit 0"); got.Code != 0 {
			t.Errorf("afterwards: %+v", got)
		}
	})
}

func TestOutputArrivesWholeAndBeforeTheExit(t *testing.T) {
	inEachMode(t, func(t *testing.T, j *job) {
		const size = 10_000_000
		j.run(fmt.Sprintf("head -c %d /dev/zero; printf 'x\\000\\377y' >&2", size))
		said := j.said()
		if want := size + 4; len(said) != want {
			t.Fatalf("got %d bytes, want %d", len(said), want)
		}
		if said[:size] != strings.Repeat("\x00", size) || said[size:] != "x\x00\xffy" {
			t.Error("the bytes differ")
		}
	})
}

func TestWhatAProcessWroteIsThereWhenItEnds(t *testing.T) {
	inEachMode(t, func(t *testing.T, j *job) {
		for range 50 {
			var own []byte // what comes too late is not the process's own any more
			c := supervise.Command{
				Args: []string{"sh", "-c", "head -c 60000 /dev/zero"}, Env: []string{"PATH=" + os.Getenv("PATH")}, Dir: j.dir, UID: j.uid,
				Output: func(p []byte) { own = append(own, p...) },
			}
			if _, err := j.wait(j.Start(c)); err != nil {
				t.Fatal(err)
			}
			if len(own) != 60000 {
				t.Fatalf("%d bytes of 60000 came before the exit", len(own))
			}
		}
	})
}

func TestAGrandchildThatKeepsTheOutputOpenDelaysNothing(t *testing.T) {
	inEachMode(t, func(t *testing.T, j *job) {
		p := newPulse(t, j.dir)
		// It writes without end, so that there is always something to read.
		j.run("(exec 3>" + p.path + "; echo up >&3; exec yes) & echo main")
		p.beats(1)
		if !strings.Contains(j.said(), "main\n") {
			t.Error("what the process itself wrote was not there when it ended")
		}
		p.goes()
	})
}

func TestBackgroundProcessesLiveOnToTheNextStep(t *testing.T) {
	inEachMode(t, func(t *testing.T, j *job) {
		j.run("mkfifo in out; (read x <in; echo $x >out) &")
		j.run("echo hello >in; cat out")
		if got := j.said(); got != "hello\n" {
			t.Errorf("got %q", got)
		}
	})
}

func TestCloseLeavesNobody(t *testing.T) {
	inEachMode(t, func(t *testing.T, j *job) {
		p := newPulse(t, j.dir)
		j.run(daemon(p))
		p.beats(1)
		p.goes()
		if err := j.Close(); err != nil {
			t.Error(err)
		}
		p.stops()
	})
}

func TestKillEndsStepAndDaemonsAndTheSessionGoesOn(t *testing.T) {
	inEachMode(t, func(t *testing.T, j *job) {
		p := newPulse(t, j.dir)
		step := j.start(daemon(p) + "; trap 'echo terminated; exit 3' TERM; exec 3>" + p.path + "; echo up >&3; while :; do sleep 1000 & wait; done")
		p.beats(2)
		if err := j.Kill(context.Background(), time.Second); err != nil {
			t.Fatal(err)
		}
		p.stops()
		if exit, err := j.wait(step); err != nil || exit.Code != 3 {
			t.Errorf("step: %+v, %v; want its own exit code, after SIGTERM", exit, err)
		}
		j.run("echo on")
		if got := j.said(); got != "terminated\non\n" {
			t.Errorf("got %q", got)
		}
	})
}

func TestKillWithoutGraceSendsNoTerm(t *testing.T) {
	inEachMode(t, func(t *testing.T, j *job) {
		p := newPulse(t, j.dir)
		step := j.start("trap 'echo terminated' TERM; exec 3>" + p.path + "; echo up >&3; while :; do sleep 1000 & wait; done")
		p.beats(1)
		if err := j.Kill(context.Background(), 0); err != nil {
			t.Fatal(err)
		}
		p.stops()
		if exit, err := j.wait(step); err != nil || exit.Signal != syscall.SIGKILL {
			t.Errorf("step: %+v, %v", exit, err)
		}
		if got := j.said(); got != "" {
			t.Errorf("got %q", got)
		}
	})
}

func TestAStoppedProcessIsToldToo(t *testing.T) {
	inEachMode(t, func(t *testing.T, j *job) {
		p := newPulse(t, j.dir)
		j.start("trap 'echo terminated; exit' TERM; exec 3>" + p.path + "; echo up >&3; kill -STOP $$; while :; do sleep 1000 & wait; done")
		p.beats(1)
		if err := j.Close(); err != nil {
			t.Error(err)
		}
		p.stops()
		if got := j.said(); got != "terminated\n" {
			t.Errorf("got %q", got)
		}
	})
}

func TestAForkStormIsKilled(t *testing.T) {
	inEachMode(t, func(t *testing.T, j *job) {
		p := newPulse(t, j.dir)
		// Each generation starts the next and ends, so that a list of processes is old when it is read.
		j.start("trap '' TERM; exec 3>" + p.path + "; echo up >&3; storm() { (storm) & }; for i in 1 2 3 4 5 6 7 8; do storm & done; wait")
		p.beats(1)
		if err := j.Kill(context.Background(), 0); err != nil {
			t.Error(err)
		}
		p.stops()
	})
}

func TestAStepCannotTakeTheSupervisorWithIt(t *testing.T) {
	inEachMode(t, func(t *testing.T, j *job) {
		p := newPulse(t, j.dir)
		j.run(daemon(p))
		p.beats(1)
		exit, err := j.wait(j.start("kill -KILL $PPID; echo survived; exit 0"))
		if j.Isolated() || j.uid != 0 {
			if err != nil || exit.Code != 0 || !strings.Contains(j.said(), "survived") {
				t.Errorf("got %+v, %v: the supervisor should be out of reach", exit, err)
			}
		} else if !errors.Is(err, supervise.ErrSupervisorLost) { // the same uid, and no namespace
			t.Errorf("got %+v, %v, want ErrSupervisorLost", exit, err)
		}
		if err := j.Close(); err != nil {
			t.Error(err)
		}
		p.stops()
	})
}

func TestASupervisorThatIsStoppedIsLost(t *testing.T) {
	// Where it has the same uid and no namespace, a step may do that.
	s, err := supervise.Start(supervise.Options{Silence: time.Second, Shared: true, Output: func([]byte) {}})
	if err != nil {
		t.Fatal(err)
	}
	p := s.Start(supervise.Command{Args: []string{"sleep", "1000"}, Env: []string{"PATH=" + os.Getenv("PATH")}})
	if err := syscall.Kill(child(t, os.Getpid()), syscall.SIGSTOP); err != nil { // no other test runs beside this
		t.Fatal(err)
	}
	select {
	case <-p.Done():
	case <-time.After(patience):
		t.Fatal("the runner waits for a stopped supervisor")
	}
	if exit, err := p.Wait(); !errors.Is(err, supervise.ErrSupervisorLost) {
		t.Errorf("got %+v, %v, want ErrSupervisorLost", exit, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestInItsNamespaceAStepSeesAndKillsOnlyItself(t *testing.T) {
	j := newJob(t, false)
	if !j.Isolated() {
		// Asserted by the fallback's own tests; kill -1 would reach this very machine.
		t.Log("this machine grants no PID namespace")
		return
	}
	j.run("ls -d /proc/[0-9]*; [ -d /proc/self ]")
	if got := strings.Fields(j.said()); len(got) != 2 || got[0] != "/proc/1" { // the supervisor and sh
		t.Errorf("a step sees %q", got)
	}
	p := newPulse(t, j.dir)
	j.run(daemon(p))
	p.beats(1)
	if got := j.run("trap '' TERM; kill -KILL -1; exit 5"); got.Code != 5 {
		t.Errorf("got %+v", got)
	}
	p.stops()
}

func TestAStepHasNoPrivilegesNoDescriptorsAndNoSecrets(t *testing.T) {
	// Inherited by everything from here on, as from a careless parent.
	leak, err := os.CreateTemp(t.TempDir(), "leak")
	if err != nil {
		t.Fatal(err)
	}
	defer leak.Close()
	if _, _, errno := syscall.Syscall(syscall.SYS_FCNTL, leak.Fd(), syscall.F_SETFD, 0); errno != 0 {
		t.Fatal(errno)
	}
	t.Setenv("SECRET", "canary-of-the-runner")
	for _, shared := range []bool{false, true} {
		j := newJob(t, shared)
		j.run(`ls /proc/self/fd; grep -E '^(NoNewPrivs|Cap(Inh|Prm|Eff|Amb)):' /proc/self/status; cat /proc/$PPID/environ; cat /proc/$PPID/mem /proc/self/environ; ls -l /proc/$PPID/fd; grep -r canary /proc/[0-9]*/environ; env`)
		said := j.said()
		if strings.Contains(said, "canary") {
			t.Errorf("shared=%t: a step found the runner's secret:\n%s", shared, said)
		}
		// ls itself has the folder open as 3.
		if !strings.HasPrefix(said, "0\n1\n2\n3\nCap") {
			t.Errorf("shared=%t: a step has other descriptors than its own:\n%s", shared, said)
		}
		for _, line := range []string{"CapPrm:\t0000000000000000\n", "CapEff:\t0000000000000000\n", "CapAmb:\t0000000000000000\n", "NoNewPrivs:\t1\n"} {
			if !strings.Contains(said, line) {
				t.Errorf("shared=%t: no %q in\n%s", shared, line, said)
			}
		}
		for _, path := range []string{"environ", "mem", "fd"} {
			if !strings.Contains(said, path+"': Permission denied") && !strings.Contains(said, path+": Permission denied") {
				t.Errorf("shared=%t: the supervisor's %s can be read:\n%s", shared, path, said)
			}
		}
	}
}

// standIn is a runner that is going to be killed: it runs a script in a job until then.
func standIn(args []string) int {
	silence, err := time.ParseDuration(args[0])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	s, err := supervise.Start(supervise.Options{Silence: silence, Shared: args[1] == "shared", Output: func(p []byte) { os.Stdout.Write(p) }})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	c := supervise.Command{Args: []string{"sh", "-c", args[2]}, Env: []string{"PATH=" + os.Getenv("PATH")}}
	if os.Geteuid() == 0 {
		c.UID = 64999
	}
	exit, err := s.Start(c).Wait()
	fmt.Println(exit, err, s.Close())
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// inAStandIn starts a runner with a job whose step waits and has left a daemon behind.
func inAStandIn(t *testing.T, silence time.Duration, test func(t *testing.T, runner *os.Process, p *pulse)) {
	for _, mode := range []string{"isolated", "shared"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			p := newPulse(t, folder(t))
			script := daemon(p) + "; exec 3>" + p.path + "; trap '' TERM; echo up >&3; while :; do sleep 1000; done"
			runner := exec.Command("/proc/self/exe", "stand-in", silence.String(), mode, script)
			var said bytes.Buffer
			runner.Stdout, runner.Stderr = &said, &said
			if _, err := runner.StdinPipe(); err != nil { // open until it is killed
				t.Fatal(err)
			}
			runner.WaitDelay = time.Second
			if err := runner.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_ = runner.Process.Kill()
				_ = runner.Wait()
				if t.Failed() {
					t.Logf("the runner said %q", said.String())
				}
			})
			p.beats(2)
			test(t, runner.Process, p)
		})
	}
}

func TestNothingLivesWhenTheRunnerIsKilled(t *testing.T) {
	inAStandIn(t, patience, func(t *testing.T, runner *os.Process, p *pulse) {
		if err := runner.Kill(); err != nil {
			t.Fatal(err)
		}
		p.stops()
	})
}

func TestNothingLivesWhenTheRunnerIsStopped(t *testing.T) {
	inAStandIn(t, time.Second, func(t *testing.T, runner *os.Process, p *pulse) {
		if err := runner.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		p.stops()
	})
}

func TestNothingLivesWhenTheSupervisorIsKilled(t *testing.T) {
	inAStandIn(t, patience, func(t *testing.T, runner *os.Process, p *pulse) {
		if err := syscall.Kill(child(t, runner.Pid), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		p.stops()
	})
}

func TestNothingLivesWhenTheProcessInTheNamespaceIsKilled(t *testing.T) {
	inAStandIn(t, patience, func(t *testing.T, runner *os.Process, p *pulse) {
		// Without a namespace this is the step itself, and its end is the end of the job as well.
		if err := syscall.Kill(child(t, child(t, runner.Pid)), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		p.stops()
	})
}

// child is one living child of a process.
func child(t *testing.T, parent int) int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range stats {
		status, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(status), fmt.Sprintf("\nPPid:\t%d\n", parent)) && !strings.Contains(string(status), "\nState:\tZ") {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatalf("process %d has no child", parent)
	return 0
}
