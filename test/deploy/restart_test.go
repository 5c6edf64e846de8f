package deploy_test

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The way of a new binary in development: it takes the old one's place, the old one is stopped, the new one runs.
func TestRestartRunsTheNewBinary(t *testing.T) {
	folder := t.TempDir()
	binary := filepath.Join(folder, "service")
	write := func(version string) {
		script := "#!/bin/sh\ntrap 'echo " + version + " stopped; exit' TERM\necho " + version + " runs\nwhile :; do sleep 0.05; done\n"
		if err := os.WriteFile(binary+".new", []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(binary+".new", binary); err != nil {
			t.Fatal(err)
		}
	}
	write("old")

	restart := exec.CommandContext(t.Context(), filepath.Join(root, "k8s/overlays/dev/restart.sh"), binary)
	restart.Env = append(os.Environ(), "TMPDIR="+folder)
	restart.Stderr = os.Stderr
	// The group goes with the test, also when that fails half-way.
	restart.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	restart.Cancel = func() error { return syscall.Kill(-restart.Process.Pid, syscall.SIGKILL) }
	restart.WaitDelay = time.Second
	output, err := restart.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := restart.Start(); err != nil {
		t.Fatal(err)
	}
	timeout := time.AfterFunc(30*time.Second, func() { _ = restart.Cancel() })
	defer timeout.Stop()
	lines := bufio.NewScanner(output)
	expect := func(want string) {
		t.Helper()
		if !lines.Scan() || lines.Text() != want {
			t.Fatalf("the container says %q, want %q", lines.Text(), want)
		}
	}

	expect("old runs")
	write("new")
	content, err := os.ReadFile(filepath.Join(folder, "service.pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	expect("old stopped")
	expect("new runs")

	if err := restart.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	expect("new stopped")
	if lines.Scan() {
		t.Errorf("the container goes on: %q", lines.Text())
	}
	// A process ended by TERM exits with 128 + 15, or with what its own handler says.
	if err := restart.Wait(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Error(err)
	}
}
