package main_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
)

// However the process ends, git and all it started end with it.
func TestGitDiesWithIt(t *testing.T) {
	t.Parallel()
	database := jobstest.New(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	connected, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		close(connected)
		_, _ = io.Copy(io.Discard, conn) // never an answer; until git is dead, one way or another
	}()

	command := exec.CommandContext(t.Context(), binary)
	command.Env = []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + t.TempDir(), "DATABASE_URL=" + database.As("initializer")}
	var out bytes.Buffer
	command.Stdout, command.Stderr = &out, &out
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	database.Exec(t, "INSERT INTO ci_jobs (repository, status) VALUES ($1, 'new')", fmt.Sprintf("https://%s/octo/cat", listener.Addr()))
	select {
	case <-connected:
	case <-time.After(soon):
		t.Errorf("git did not come within %s", soon)
	}
	if err := command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := command.Wait(); !errors.As(err, &exit) {
		t.Errorf("it ended with %v", err)
	}
	select {
	case <-gone:
	case <-time.After(soon):
		t.Errorf("git still waits for the server; the initializer said:\n%s", out.String())
	}
}
