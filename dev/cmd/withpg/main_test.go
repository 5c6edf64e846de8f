package main

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestMain lets the test binary be withpg.
func TestMain(m *testing.M) {
	if os.Getenv("WITHPG_TEST_MAIN") != "" {
		_ = os.Unsetenv("WITHPG_TEST_MAIN")
		main()
	}
	os.Exit(m.Run())
}

func TestTheCommandsExitCodeIsOurs(t *testing.T) {
	for _, test := range []struct {
		name, script string
		want         int
	}{
		{"success", "exit 0", 0},
		{"a failed test", "exit 7", 7},
		{"ended by a signal", "kill -KILL $$", 128 + 9},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			cmd := withpg(t, test.script, "TEST_DATABASE_URL=postgres://elsewhere/x")
			if got := exitCode(t, cmd.Run()); got != test.want {
				t.Errorf("exit code %d, want %d", got, test.want)
			}
		})
	}
}

func TestTheCommandSeesTheTestDatabaseAlone(t *testing.T) {
	t.Parallel()
	cmd := withpg(t, `echo "$TEST_DATABASE_URL, ${DATABASE_URL-none}"`,
		"TEST_DATABASE_URL=postgres://elsewhere/x", "DATABASE_URL=postgres://production/x")
	out, err := cmd.Output()
	if got, want := strings.TrimSpace(string(out)), "postgres://elsewhere/x, none"; err != nil || got != want {
		t.Errorf("it saw %q, %v; want %q", got, err, want)
	}
}

func TestASignalEndsCommandAndServerAndWhatIgnoresIt(t *testing.T) {
	t.Parallel()
	temp := t.TempDir()
	if err := os.Chmod(filepath.Dir(temp), 0o755); err != nil { // the server's user passes through
		t.Fatal(err)
	}
	cmd := withpg(t, `test -x "$PG_BIN/postgres" && test -n "$TEST_DATABASE_URL" && { (trap "" TERM; echo started; exec sleep 600) & exec sleep 600; }`,
		"TEST_DATABASE_URL=", "DATABASE_URL=postgres://production/x", "TMPDIR="+temp)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(stdout)
	if line, err := reader.ReadString('\n'); err != nil || line != "started\n" {
		t.Errorf("the command said %q, %v", line, err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(reader); err != nil || len(rest) > 0 { // ends when nobody holds the pipe
		t.Errorf("after the signal: %q, %v", rest, err)
	}
	if got := exitCode(t, cmd.Wait()); got != 128+15 {
		t.Errorf("exit code %d, want %d", got, 128+15)
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func withpg(t *testing.T, script string, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "--", "sh", "-c", script)
	cmd.Env = append(append(os.Environ(), "WITHPG_TEST_MAIN=yes"), env...)
	cmd.Stderr = os.Stderr
	return cmd
}

func exitCode(t *testing.T, err error) int {
	t.Helper()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		t.Fatal(err)
	}
	return 0
}
