package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lockstep-ci/lockstep/dev/internal/guard"
)

// local is a server run from binaries. Its folder dir holds data, and server.log.
type local struct {
	kind    kind
	bin     string
	account account
	dir     string
	guard   *guard.Guard
	lock    *os.File // nil for a throw-away

	cmd  *exec.Cmd
	done chan struct{}
}

// start makes the data if it is missing, sets a new password, and runs the server until it takes connections.
func (s *local) start(ctx context.Context) (*Server, error) {
	// Only data is the server's: what root writes beside it, such as the log, the server must not put elsewhere.
	if err := os.Chmod(s.dir, 0o711); err != nil {
		return nil, fmt.Errorf("open %s to %s: %w", s.dir, s.account.name, err)
	}
	data := filepath.Join(s.dir, "data")
	if !exists(data) {
		if err := s.create(ctx, data); err != nil {
			return nil, err
		}
	}
	password, statement := s.kind.password()
	if err := s.single(ctx, data, statement); err != nil {
		return nil, fmt.Errorf("set the password of PostgreSQL's user %s: %w", s.kind.user, err)
	}
	for attempt := 1; ; attempt++ {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		err = s.run(ctx, data, port)
		if err == nil {
			return &Server{URL: s.kind.url(password, port), Done: s.done}, nil
		}
		if attempt == 3 || ctx.Err() != nil { // somebody may have taken the port meanwhile
			return nil, err
		}
	}
}

// create makes the data folder beside its place and moves it there when it is complete, so that a kill half-way
// leaves nothing that looks usable.
func (s *local) create(ctx context.Context, data string) error {
	fresh := data + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return fmt.Errorf("remove a half-made data folder: %w", err)
	}
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return fmt.Errorf("make data folder: %w", err)
	}
	if err := os.Chown(fresh, s.account.uid, s.account.gid); err != nil {
		return fmt.Errorf("give the data folder to %s: %w", s.account.name, err)
	}
	args := append([]string{"-D", fresh, "-U", "postgres", "-E", "UTF8", "--locale=C", "-A", "reject"}, s.kind.initdb...)
	if out, err := s.command(ctx, "initdb", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("initdb as %s: %w\n%s", s.account.name, err, out)
	}
	hba := filepath.Join(fresh, "pg_hba.conf")
	if err := os.WriteFile(hba, []byte(s.kind.hba), 0o600); err != nil { // initdb made the file, so its owner stays
		return fmt.Errorf("write %s: %w", hba, err)
	}
	if len(s.kind.create) > 0 {
		if err := s.single(ctx, fresh, s.kind.create...); err != nil {
			return fmt.Errorf("prepare the database: %w", err)
		}
	}
	if err := os.Rename(fresh, data); err != nil {
		return fmt.Errorf("put the data folder into place: %w", err)
	}
	return nil
}

// single runs statements as the superuser in a server that only reads its standard input: no password is needed,
// and nobody else gets in meanwhile.
func (s *local) single(ctx context.Context, data string, statements ...string) error {
	args := append([]string{"--single", "-D", data, "-c", "exit_on_error=on"}, s.options()...)
	cmd := s.command(ctx, "postgres", append(args, "postgres")...)
	cmd.Stdin = strings.NewReader(strings.Join(statements, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		for _, line := range strings.Split(string(out), "\n") { // the rest may show the statement
			if strings.Contains(line, "ERROR:") || strings.Contains(line, "FATAL:") {
				return fmt.Errorf("%w: %s", err, line)
			}
		}
		return err
	}
	return nil
}

// command is one of the server's programs: it ends with us, and holds the lock on the data while it lives.
func (s *local) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := s.account.command(ctx, filepath.Join(s.bin, program), args...)
	if s.lock != nil {
		cmd.ExtraFiles = []*os.File{s.lock}
	}
	s.guard.Join(cmd.SysProcAttr)
	return cmd
}

func (s *local) options() []string {
	var options []string
	for _, setting := range s.kind.settings {
		options = append(options, "-c", setting)
	}
	return options
}

// run starts the server and returns when it takes connections.
func (s *local) run(ctx context.Context, data string, port int) error {
	log, err := os.OpenFile(filepath.Join(s.dir, "server.log"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open log of PostgreSQL: %w", err)
	}
	defer func() { _ = log.Close() }()
	args := append([]string{
		"-D", data, "-c", "listen_addresses=127.0.0.1", "-c", "port=" + strconv.Itoa(port), "-c", "unix_socket_directories=",
	}, s.options()...)
	cmd := s.command(context.WithoutCancel(ctx), "postgres", args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start PostgreSQL: %w", err)
	}
	s.cmd, s.done = cmd, make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(s.done)
	}()
	if err := poll(ctx, startTimeout, func() (bool, error) { return s.ready(data) }); err != nil {
		s.end()
		said, _ := os.ReadFile(log.Name())
		return fmt.Errorf("start PostgreSQL as %s: %w\n%s", s.account.name, err, said)
	}
	return nil
}

// ready reads what pg_ctl reads: line 8 of postmaster.pid.
func (s *local) ready(data string) (bool, error) {
	select {
	case <-s.done:
		return false, errors.New("it ended at once")
	default:
	}
	content, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return false, nil //nolint:nilerr // not there yet
	}
	lines := strings.Split(string(content), "\n")
	return len(lines) > 7 && lines[0] == strconv.Itoa(s.cmd.Process.Pid) && strings.TrimSpace(lines[7]) == "ready", nil
}

// end stops the server by its pid: a fast shutdown, an immediate one, and at last a kill.
func (s *local) end() {
	for _, signal := range []os.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGKILL} {
		_ = s.cmd.Process.Signal(signal)
		select {
		case <-s.done:
			return
		case <-time.After(fastTimeout):
		}
	}
}

func (s *local) shutdown() {
	s.end()
	s.guard.End()
}
