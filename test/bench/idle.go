package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/lockstep-ci/lockstep/migrations"
)

// idle is part (g): what the five services cost while there is nothing to do. It starts the real binaries.
func idle(ctx context.Context, b *bench, t *table) error {
	processes := len(migrations.Services) * b.size.replicas
	mean := t.row("queries/s", atMost(1.5), "ours: %d services × %d replicas, idle: of a process, beats and polls included", len(migrations.Services), b.size.replicas)
	services := map[string]*row{}
	for _, service := range migrations.Services {
		services[service] = t.row("queries/s", nil, "… of one %s", service)
	}
	fleetCPU := t.row("% of a core", nil, "… CPU of all %d processes", processes)
	serverCPU := t.row("% of a core", nil, "… CPU of PostgreSQL")
	_, err := within(ctx, b.server.migrated, func(d *database) (_ struct{}, err error) {
		f, err := startFleet(ctx, b, d)
		if err != nil {
			return struct{}{}, err
		}
		defer func() { err = errors.Join(err, f.stop()) }()
		if !pause(ctx, b.size.settle) {
			return struct{}{}, ctx.Err()
		}
		return struct{}{}, b.rounds(func() error {
			for _, tap := range f.taps {
				tap.seen()
			}
			watch, used := b.server.start(), f.cpu()
			if !pause(ctx, b.size.watch) {
				return ctx.Err()
			}
			passed := time.Since(watch.at)
			sum := 0
			for service, tap := range f.taps {
				n := len(tap.seen())
				sum += n
				services[service].add(float64(n) / passed.Seconds() / float64(b.size.replicas))
			}
			mean.add(float64(sum) / passed.Seconds() / float64(processes))
			share := func(cpu time.Duration) float64 { return 100 * cpu.Seconds() / passed.Seconds() }
			fleetCPU.add(share(f.cpu() - used))
			serverCPU.add(share(b.server.cpu() - watch.cpu))
			b.say("    %s queries/s of a process", number(mean.last()))
			return f.alive()
		})
	})
	return err
}

// binaries is the folder of the services' binaries.
func binaries() string {
	if folder := os.Getenv("LOCKSTEP_BIN"); folder != "" {
		return folder
	}
	for _, folder := range []string{"bin", filepath.Join("..", "..", "bin")} {
		if _, err := os.Stat(filepath.Join(folder, "runner")); err == nil {
			return folder
		}
	}
	return "bin"
}

// fleet is the services' processes, each service behind a tap of its own.
type fleet struct {
	dir       string
	taps      map[string]*tap
	processes []*process
}

type process struct {
	service, ops string
	cmd          *exec.Cmd
	said         bytes.Buffer // read it when exited is closed
	exited       chan struct{}
}

// startFleet starts the replicas and waits until each of them is ready.
func startFleet(ctx context.Context, b *bench, d *database) (_ *fleet, err error) {
	f := &fleet{taps: map[string]*tap{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.stop())
		}
	}()
	for _, service := range migrations.Services {
		if f.taps[service], err = newTap(d.url); err != nil {
			return nil, err
		}
		for range b.size.replicas {
			if err := f.start(b, service, f.taps[service].through(d.as(service))); err != nil {
				return nil, err
			}
		}
	}
	return f, f.ready(ctx)
}

// ready waits until each process is.
func (f *fleet) ready(ctx context.Context) error {
	for _, p := range f.processes {
		err := until(ctx, 30*time.Second, 20*time.Millisecond, func() bool { return p.ended() || p.ready(ctx) })
		if err != nil {
			return fmt.Errorf("wait until %s is ready: %w", p.service, err)
		}
	}
	return f.alive()
}

// What the fleet's gateways let in.
const (
	fleetToken  = "the-token-of-a-benchmark"
	fleetSecret = "the-secret-of-a-benchmark"
)

// start starts one process with its defaults, but for what has none.
func (f *fleet) start(b *bench, service, databaseURL string) (err error) {
	if f.dir == "" {
		if f.dir, err = os.MkdirTemp("", "lockstep-bench-"); err != nil {
			return fmt.Errorf("make a folder for the fleet: %w", err)
		}
		if err := os.Chmod(f.dir, 0o711); err != nil { // the runners want it passable for the users of steps
			return fmt.Errorf("open the fleet's folder: %w", err)
		}
	}
	binary, err := filepath.Abs(filepath.Join(b.bin, service))
	if err != nil {
		return fmt.Errorf("find the binaries: %w", err)
	}
	ops, err := freeAddress()
	if err != nil {
		return err
	}
	p := &process{service: service, ops: ops, cmd: exec.Command(binary), exited: make(chan struct{})}
	p.cmd.Dir = f.dir
	p.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + f.dir, "TMPDIR=" + f.dir, "DATABASE_URL=" + databaseURL, "LOG_LEVEL=warn"}
	switch service {
	case "api-gateway":
		p.cmd.Env = append(p.cmd.Env, "HTTP_ADDR="+ops, "ADMIN_TOKEN="+fleetToken, "RATE_LIMIT=0", "GITHUB_WEBHOOK_SECRET="+fleetSecret)
	case "runner":
		p.cmd.Env = append(p.cmd.Env, "OPS_ADDR="+ops, "EXECUTOR_UNSANDBOXED=true", "WORK_DIR="+filepath.Join(f.dir, "work"))
	default:
		p.cmd.Env = append(p.cmd.Env, "OPS_ADDR="+ops)
	}
	p.cmd.Stdout, p.cmd.Stderr = &p.said, &p.said
	if err := p.cmd.Start(); err != nil {
		return fmt.Errorf("start %s (run `make build` first, or set LOCKSTEP_BIN): %w", service, err)
	}
	go func() {
		_ = p.cmd.Wait() // alive tells how it ended
		close(p.exited)
	}()
	f.processes = append(f.processes, p)
	return nil
}

// freeAddress is a loopback address that nobody listens on just now.
func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().String(), nil
}

func (p *process) ended() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

func (p *process) ready(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.ops+"/readyz", nil)
	if err != nil {
		return false
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	defer func() { _ = response.Body.Close() }()
	return response.StatusCode == http.StatusOK
}

// alive wants every process to be at work.
func (f *fleet) alive() error {
	for _, p := range f.processes {
		if p.ended() {
			return fmt.Errorf("%s ended: %s: %s", p.service, p.cmd.ProcessState, strings.TrimSpace(p.said.String()))
		}
	}
	return nil
}

// cpu is what the processes have used so far; 0 where that cannot be known.
func (f *fleet) cpu() time.Duration {
	var sum time.Duration
	for _, p := range f.processes {
		if stat, err := processStat(p.cmd.Process.Pid); err == nil {
			sum += stat.cpu + stat.children
		}
	}
	return sum
}

// stop ends the processes as an operator does, and waits for them.
func (f *fleet) stop() error {
	var problems []error
	for _, p := range f.processes {
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			problems = append(problems, fmt.Errorf("stop %s: %w", p.service, err))
		}
	}
	limit := time.NewTimer(20 * time.Second)
	defer limit.Stop()
	for _, p := range f.processes {
		select {
		case <-p.exited:
		case <-limit.C:
			problems = append(problems, fmt.Errorf("%s did not end within 20s of SIGTERM", p.service))
			_ = p.cmd.Process.Kill() // it may have ended just now
			<-p.exited
			limit.Reset(0) // nobody else gets longer
		}
	}
	for _, tap := range f.taps {
		if tap != nil {
			tap.close()
		}
	}
	return errors.Join(append(problems, os.RemoveAll(f.dir))...)
}
