package postgres

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/lockstep-ci/lockstep/dev/internal/guard"
)

// image is what a container engine runs. Its own initdb script wants a password for the superuser and lets that
// one in without it on the socket inside the container, where our statements go.
const image = "docker.io/library/postgres:18"

// startContainer runs the kind of server in a container; with dir, its data stays in a volume named in dir/volume.
func startContainer(ctx context.Context, engine string, k kind, dir string) (*Server, error) {
	name := "lockstep-" + strings.ToLower(rand.Text()[:12])
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	args := []string{
		"run", "--detach", "--rm", "--name", name, "--publish", "127.0.0.1:" + strconv.Itoa(port) + ":5432",
		"--env", "POSTGRES_PASSWORD", // from the engine's environment
	}
	if dir != "" {
		volume := volumeOf(dir)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make folder for PostgreSQL: %w", err)
		}
		if err := os.WriteFile(filepath.Join(dir, "volume"), []byte(engine), 0o600); err != nil {
			return nil, fmt.Errorf("note PostgreSQL's volume: %w", err)
		}
		args = append(args, "--volume", volume+":/var/lib/postgresql")
	}
	args = append(args, image)
	for _, setting := range k.settings {
		args = append(args, "-c", setting)
	}
	watch, err := guard.Start(`"$1" stop "$2"`, engine, name)
	if err != nil {
		return nil, err
	}
	stop := func() {
		_, _ = output(context.WithoutCancel(ctx), engine, "stop", "-t", "30", name)
		watch.End()
	}
	run := exec.CommandContext(ctx, engine, args...)
	run.Env = append(os.Environ(), "POSTGRES_PASSWORD="+rand.Text()) // nobody knows it; prepareContainer sets what counts
	if out, err := run.CombinedOutput(); err != nil {
		stop()
		return nil, fmt.Errorf("run %s: %w\n%s", image, err, out)
	}
	password, statement := k.password()
	if err := prepareContainer(ctx, engine, name, k, statement); err != nil {
		stop()
		return nil, fmt.Errorf("prepare PostgreSQL in container %s: %w", name, err)
	}
	done := make(chan struct{})
	go func() {
		_, _ = output(context.WithoutCancel(ctx), engine, "wait", name)
		close(done)
	}()
	return &Server{URL: k.url(password, port), Done: done, stop: stop}, nil
}

func prepareContainer(ctx context.Context, engine, name string, k kind, password string) error {
	inside := func(stdin string, command ...string) error {
		cmd := exec.CommandContext(ctx, engine, append([]string{"exec", "--interactive", "--user", "postgres", name}, command...)...)
		cmd.Stdin = strings.NewReader(stdin)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w %s", command[0], err, firstLine(string(out)))
		}
		return nil
	}
	// The image's first start runs a server for itself alone; ours is the one that listens on TCP.
	err := poll(ctx, startTimeout, func() (bool, error) {
		return inside("", "pg_isready", "-h", "127.0.0.1") == nil, nil
	})
	if err != nil {
		return err
	}
	if err := inside("local all postgres trust\n"+k.hba, "sh", "-c", `cat > "$PGDATA/pg_hba.conf"`); err != nil {
		return err
	}
	statements := []string{"SELECT pg_reload_conf()", password}
	if inside("", "psql", "-X", "-d", k.database, "-c", "SELECT 1") != nil { // not made by an earlier start
		statements = append(append([]string{statements[0]}, k.create...), password)
	}
	return inside(strings.Join(statements, ";\n")+";\n", "psql", "-X", "-v", "ON_ERROR_STOP=1")
}

// Remove deletes the data that Open keeps for dir. No server may run on it.
func Remove(ctx context.Context, dir string) error {
	engine, err := os.ReadFile(filepath.Join(dir, "volume"))
	if err == nil {
		_, err = output(ctx, string(engine), "volume", "rm", volumeOf(dir))
	} else if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, os.RemoveAll(dir))
}

func volumeOf(dir string) string {
	return fmt.Sprintf("lockstep-%x", sha256.Sum256([]byte(dir)))[:21]
}
