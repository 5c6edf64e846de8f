package e2e_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

const root = "github.com/lockstep-ci/lockstep"

// services in the order in which a run meets them.
var services = []string{"api-gateway", "initializer", "runner", "github-notifier", "reaper"}

// binaries is the folder of the binaries under test.
var binaries string

// watchdog outlives this process and kills what it would leave behind.
var watchdog *guard

func TestMain(m *testing.M) {
	code, err := testAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func testAll(m *testing.M) (code int, err error) {
	if binaries = os.Getenv("LOCKSTEP_BIN"); binaries == "" {
		if binaries, err = os.MkdirTemp("", "lockstep-e2e-bin-"); err != nil {
			return 0, fmt.Errorf("make folder for binaries: %w", err)
		}
		defer func() { _ = os.RemoveAll(binaries) }()
		if err := build(binaries); err != nil {
			return 0, err
		}
	}
	if watchdog, err = newGuard(); err != nil {
		return 0, err
	}
	defer watchdog.end()
	answers := &described{next: http.DefaultTransport}
	http.DefaultTransport = answers
	code = m.Run()
	return code, errors.Join(answers.found...)
}

// build builds what is under test as `make build` does, and so from the same build cache. Without the race detector: the
// modules' own tests have it, and five services that are twice as slow would say less about leases.
func build(folder string) error {
	args := []string{"build", "-trimpath", "-o", folder + string(filepath.Separator), root + "/migrations/cmd/migrate"}
	for _, service := range services {
		args = append(args, root+"/services/"+service)
	}
	cmd := exec.Command("go", args...)
	cmd.Dir = filepath.Join("..", "..") // the workspace knows all of them
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// guard is a shell that kills the process groups it was told of when this process has gone: a panic or a timeout of the
// tests runs no cleanup.
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
`

func newGuard() (*guard, error) {
	cmd := exec.Command("sh", "-c", guardScript)
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

func (g *guard) watch(pid int)  { g.tell("+", pid) }
func (g *guard) forget(pid int) { g.tell("-", pid) }

func (g *guard) tell(op string, pid int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, _ = fmt.Fprintln(g.in, op, pid) // a dead guard costs only the guarding
}

func (g *guard) end() {
	_ = g.in.Close()
	_ = g.cmd.Wait()
}
