// Command withpg runs a command, such as `go test`, beside a PostgreSQL of its own that is thrown away afterwards:
//
//	withpg -- go test ./...
//	withpg -durable -- go test -bench . ./...
//
// The server is fast rather than durable (fsync=off), as tests like it; -durable is for benchmarks.
//
// The command finds the superuser's URL in TEST_DATABASE_URL, and the folder of initdb, pg_ctl and postgres in PG_BIN
// when the server did not come from elsewhere. A TEST_DATABASE_URL that is set already is used instead. DATABASE_URL
// is never used, and hidden from the command: a test must not reach somebody's data. withpg ends with the command's
// exit code, 128 + n when signal n ended it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/lockstep-ci/lockstep/dev/internal/guard"
	"github.com/lockstep-ci/lockstep/dev/postgres"
)

const (
	maxConnections = 500              // packages are tested side by side, each with pools of its own
	killAfter      = 20 * time.Second // a command that was told to end, and did not
)

func main() {
	args := os.Args[1:]
	var settings []string
	if len(args) > 0 && args[0] == "-durable" {
		args, settings = args[1:], postgres.Durable
	}
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, "usage: withpg [-durable] -- command [arguments]")
		os.Exit(2)
	}
	code, err := run(args, settings)
	if err != nil {
		fmt.Fprintln(os.Stderr, "withpg:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

func run(args, settings []string) (code int, err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()

	if err := os.Unsetenv("DATABASE_URL"); err != nil {
		return 0, fmt.Errorf("hide DATABASE_URL: %w", err)
	}
	url, bin := os.Getenv("TEST_DATABASE_URL"), ""
	if url == "" {
		say := func(line string) { fmt.Fprintln(os.Stderr, "withpg:", line) }
		source, err := postgres.Find(ctx, say)
		if err != nil {
			return 0, err
		}
		say(source.How)
		server, err := postgres.Throwaway(ctx, source, maxConnections, settings...)
		if err != nil {
			return 0, err
		}
		defer server.Stop()
		url, bin = server.URL, source.Bin
	} else if bin, err = postgres.FindBin(ctx); err != nil {
		bin = os.Getenv("PG_BIN") // tests that restart a server will say what they miss
	}
	return command(ctx, args, append(os.Environ(), "TEST_DATABASE_URL="+url, "PG_BIN="+bin))
}

// command runs the command and returns its exit code. When ctx ends, it and what it started is told to end too; when
// it has ended, what is left of that is killed: `go test` leaves its test binaries alone when it is terminated.
func command(ctx context.Context, args, env []string) (int, error) {
	watch, err := guard.Start(`kill -KILL 0`)
	if err != nil {
		return 0, err
	}
	defer watch.End()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = env
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	watch.Join(cmd.SysProcAttr)
	cmd.Cancel = func() error { return syscall.Kill(-cmd.SysProcAttr.Pgid, syscall.SIGTERM) }
	cmd.WaitDelay = killAfter
	if err := cmd.Run(); cmd.ProcessState == nil {
		return 0, fmt.Errorf("run %s: %w", strings.Join(args, " "), err)
	}
	if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return cmd.ProcessState.ExitCode(), nil
}
