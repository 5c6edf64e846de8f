package jobstest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Secret is what a test puts where a secret belongs: Refuses sees to it that nobody shows it.
const Secret = "hunter2"

// RunWithBinary builds the command of the package that is tested, tells its path, runs the tests, and returns their exit
// code: for TestMain.
func RunWithBinary(m *testing.M, name string, path *string) int {
	folder, err := os.MkdirTemp("", name)
	if err != nil {
		fmt.Fprintf(os.Stderr, "make a folder for %s: %v\n", name, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(folder) }()
	*path = filepath.Join(folder, name)
	build := exec.Command("go", "build", "-o", *path, ".")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintf(os.Stderr, "build %s: %v\n", name, err)
		return 1
	}
	return m.Run()
}

// Refuses runs a binary with an environment that is wrong somewhere: it must end at once with status 1 and one line,
// `<name>: …`, that holds want and not Secret.
func Refuses(t *testing.T, binary string, env []string, want string) {
	t.Helper()
	command := exec.CommandContext(t.Context(), binary)
	command.Env = append([]string{}, env...) // nil would be ours
	var out bytes.Buffer
	command.Stdout, command.Stderr = &out, &out
	err := command.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("it ended with %v, want exit status 1", err)
	}
	line, rest, _ := strings.Cut(out.String(), "\n")
	if !strings.HasPrefix(line, filepath.Base(binary)+": ") || !strings.Contains(line, want) || rest != "" {
		t.Errorf("it said %q, want one line with %q", out.String(), want)
	}
	if strings.Contains(out.String(), Secret) {
		t.Errorf("it shows a secret: %q", out.String())
	}
}
