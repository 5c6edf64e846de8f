package process_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-ci/lockstep/services/runner/internal/process"
	"github.com/lockstep-ci/lockstep/services/runner/internal/supervise"
)

const patience = 30 * time.Second

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "supervise" {
		syscall.Exit(supervise.Main(os.Args[2:])) // os.Exit takes a second under the race detector
	}
	if dir := os.Getenv("HOLD_A_SLOT"); dir != "" {
		hold(dir)
	}
	os.Exit(m.Run())
}

// hold is a runner that is going to be killed.
func hold(dir string) {
	e, err := process.New(process.Options{Dir: dir, FirstUID: 64600, Silence: patience})
	if err != nil {
		panic(err)
	}
	b, err := e.Open()
	if err != nil {
		panic(err)
	}
	if err := b.Supervise(func(p []byte) { os.Stdout.Write(p) }); err != nil {
		panic(err)
	}
	_, _ = b.Start(command(b, "touch left; echo ready; trap '' TERM; while :; do sleep 1000; done")).Wait()
}

func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "process")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // t.TempDir lets no other user pass
		t.Fatal(err)
	}
	return filepath.Join(dir, "jobs")
}

func executor(t *testing.T, dir string) *process.Executor {
	t.Helper()
	e, err := process.New(process.Options{Dir: dir, FirstUID: 64600, Silence: patience})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// output collects what the processes of a box write.
type output struct {
	mu   sync.Mutex
	text string
}

func (o *output) take(p []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text += string(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text
}

func open(t *testing.T, e *process.Executor) (*process.Box, *output) {
	t.Helper()
	o := &output{}
	b, err := e.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	if err := b.Supervise(o.take); err != nil {
		t.Fatal(err)
	}
	return b, o
}

func command(b *process.Box, script string) supervise.Command {
	return supervise.Command{Args: []string{"sh", "-c", script}, Dir: b.Work, Env: []string{"PATH=" + os.Getenv("PATH")}}
}

func run(t *testing.T, b *process.Box, script string) int {
	t.Helper()
	p := b.Start(command(b, script))
	select {
	case <-p.Done():
	case <-time.After(patience):
		t.Fatal("the process does not end")
	}
	exit, err := p.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return exit.Code
}

func TestJobsBesideEachOtherHavePlacesOfTheirOwn(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	one, said1 := open(t, executor(t, dir))
	two, said2 := open(t, executor(t, dir)) // of another runner
	if one.Work == two.Work {
		t.Fatal("two jobs in one slot")
	}
	run(t, one, "id -u; id -G; echo secret >file; umask 0; mkdir open; echo secret >open/file")
	code := run(t, two, fmt.Sprintf("id -u; cat %s/file %[1]s/open/file %s/* %s/../script/*", one.Work, one.Own, one.Work))
	if os.Geteuid() != 0 {
		if want := fmt.Sprintln(os.Geteuid()); !strings.HasPrefix(said1.String(), want) {
			t.Errorf("a step is user %q, want %q", said1, want)
		}
		return // one user, one place: that is for the sandbox
	}
	if got := said1.String(); got != "64600\n64600\n" {
		t.Errorf("the first is %q", got)
	}
	if got := said2.String(); !strings.HasPrefix(got, "64601\n") || strings.Contains(got, "secret") || code == 0 {
		t.Errorf("the second saw %q", got)
	}
}

func TestAClosedBoxLeavesNothingWhateverItsModes(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	b, _ := open(t, executor(t, dir))
	run(t, b, `mkdir -p a/b/c; touch a/b/c/file; ln -s /etc link; mkfifo pipe; chmod 000 a/b/c/file; chmod 500 a/b/c; chmod 000 a/b a`)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != "0.lock" {
		t.Errorf("left are %v, %v", left, err)
	}
	if _, err := os.Stat("/etc/passwd"); err != nil {
		t.Error(err)
	}
	again, _ := open(t, executor(t, dir))
	if again.Work != b.Work {
		t.Errorf("the next job is in %s, and %s is free", again.Work, b.Work)
	}
}

func TestTheSlotOfAKilledRunnerIsTakenWhenItsProcessesAreGone(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	runner := exec.Command("/proc/self/exe")
	runner.Env = append(os.Environ(), "HOLD_A_SLOT="+dir)
	runner.Stderr = os.Stderr
	stdout, err := runner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := runner.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = runner.Process.Kill(); _ = runner.Wait() })
	if _, err := stdout.Read(make([]byte, 100)); err != nil { // "ready"
		t.Fatal(err)
	}
	if err := runner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = runner.Wait()
	// Its supervisor holds the lock while it kills the step, which ignores SIGTERM.
	lock, err := os.Open(filepath.Join(dir, "0.lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); !errors.Is(err, syscall.EWOULDBLOCK) {
		t.Errorf("the slot is free at once: %v", err)
	}
	if b, _ := open(t, executor(t, dir)); filepath.Base(filepath.Dir(b.Work)) != "1" {
		t.Errorf("the next job is in %s", b.Work)
	}
	locked := make(chan error, 1)
	go func() { locked <- syscall.Flock(int(lock.Fd()), syscall.LOCK_EX) }()
	select {
	case err := <-locked:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(patience):
		t.Fatal("the slot is never free")
	}
	lock.Close()
	if _, err := os.Stat(filepath.Join(dir, "0/work/left")); err != nil && !errors.Is(err, fs.ErrPermission) {
		t.Errorf("the killed runner should have left something: %v", err)
	}
	b, _ := open(t, executor(t, dir))
	if filepath.Base(filepath.Dir(b.Work)) != "0" || run(t, b, "[ ! -e left ]") != 0 {
		t.Errorf("the next job is in %s, with what the last one left", b.Work)
	}
}

func TestAFolderThatIsNotFitIsRefused(t *testing.T) {
	t.Parallel()
	base := filepath.Dir(folder(t))
	for name, mode := range map[string]fs.FileMode{"open": 0o777, "group": 0o770, "closed": 0o700} {
		path := filepath.Join(base, name)
		if err := errors.Join(os.Mkdir(path, mode), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.WriteFile(filepath.Join(base, "file"), nil, 0o600), os.Symlink(base, filepath.Join(base, "link"))); err != nil {
		t.Fatal(err)
	}
	refused := []string{"open", "group", "file", "link"}
	if os.Geteuid() == 0 {
		refused = append(refused, "closed", "closed/below")
	}
	for _, name := range refused {
		if _, err := process.New(process.Options{Dir: filepath.Join(base, name), Silence: patience}); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}
