package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/lockstep-ci/lockstep/dev/internal/guard"
)

var serviceNames = []string{"api-gateway", "initializer", "runner", "github-notifier", "reaper"}

const (
	defaultAddr       = "127.0.0.1:8080"
	defaultGrace      = 5 * time.Second        // of a worker's jobs at Ctrl-C: somebody waits, and the next start goes on with them
	defaultRetryAfter = 300 * time.Millisecond // a mistyped URL is to be told in seconds
	killAfter         = 15 * time.Second       // a service that has not ended this long after its grace
	firstPause        = time.Second            // before a service is started again; doubles up to lastPause
	lastPause         = 30 * time.Second
)

// listenAddr is HTTP_ADDR with its port settled. That somebody else listens there is said before anything is started.
func listenAddr(addr string) (string, error) {
	if addr == "" {
		addr = defaultAddr
	}
	listener, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return "", fmt.Errorf("HTTP_ADDR: somebody else listens on %s; take another, as in `make run HTTP_ADDR=127.0.0.1:8081`", addr)
	}
	if err != nil {
		return "", fmt.Errorf("HTTP_ADDR: %w", err)
	}
	defer func() { _ = listener.Close() }()
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return "", fmt.Errorf("HTTP_ADDR: %w", err)
	}
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		return "", fmt.Errorf("HTTP_ADDR: %w", err)
	}
	return net.JoinHostPort(host, port), nil
}

// settings is each service's environment: ours, without what is not its business, and what `make run` decides.
func settings(urls map[string]string, addr, token string) map[string][]string {
	decided := map[string][]string{
		"api-gateway": {
			"HTTP_ADDR=" + addr, "ADMIN_TOKEN=" + token, "ANONYMOUS_READ=" + cmp.Or(os.Getenv("ANONYMOUS_READ"), "true"),
			"GITHUB_WEBHOOK_SECRET=" + cmp.Or(os.Getenv("GITHUB_WEBHOOK_SECRET"), rand.Text()),
		},
		"initializer":     {"ALLOW_FILE_URLS=true"},
		"runner":          {"EXECUTOR_UNSANDBOXED=true"},
		"github-notifier": nil,
		"reaper":          nil,
	}
	onlyFor := map[string]string{ // who holds which credential
		"ADMIN_TOKEN": "api-gateway", "GITHUB_WEBHOOK_SECRET": "api-gateway", "GITHUB_OAUTH_CLIENT_SECRET": "api-gateway", "GIT_TOKEN": "initializer", "GITHUB_TOKEN": "github-notifier",
		"DATABASE_URL": "", "LISTEN_DATABASE_URL": "", "TEST_DATABASE_URL": "",
		"OPS_ADDR": "", // one address cannot serve five
	}
	environments := map[string][]string{}
	for _, service := range serviceNames {
		env := []string{"GRACE=" + defaultGrace.String(), "RETRY_AFTER=" + defaultRetryAfter.String()} // the user's own comes later, and counts
		for _, variable := range os.Environ() {
			name, _, _ := strings.Cut(variable, "=")
			if holder, secret := onlyFor[name]; !secret || holder == service {
				env = append(env, variable)
			}
		}
		environments[service] = append(append(env, "DATABASE_URL="+urls[service]), decided[service]...)
	}
	return environments
}

// services are the five processes, each started again when it ends.
type services struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
	guard  *guard.Guard
}

// startServices starts the binaries in bin with their environments; they log to files in logs.
func startServices(ctx context.Context, bin, logs string, environments map[string][]string) (*services, error) {
	grace := defaultGrace
	if own, err := time.ParseDuration(os.Getenv("GRACE")); err == nil {
		grace = own
	}
	if err := os.MkdirAll(logs, 0o700); err != nil {
		return nil, fmt.Errorf("make folder for the logs: %w", err)
	}
	// If we are killed, so are they: a worker that dies loses nothing but time.
	watch, err := guard.Start(`kill -KILL 0`)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &services{cancel: cancel, guard: watch}
	for _, name := range serviceNames {
		log, err := openLog(name, filepath.Join(logs, name+".log"))
		if err != nil {
			s.stop()
			return nil, err
		}
		s.done.Go(func() {
			defer log.close()
			s.keep(ctx, filepath.Join(bin, name), environments[name], grace+killAfter, log)
		})
	}
	tell("services: %s; logs in %s", strings.Join(serviceNames, ", "), logs)
	tell("jobs run without a sandbox on this machine (EXECUTOR_UNSANDBOXED=true): run only code that you trust")
	return s, nil
}

// keep runs one service until ctx ends, then ends it: SIGTERM, and after a while SIGKILL.
func (s *services) keep(ctx context.Context, program string, env []string, atMost time.Duration, log *serviceLog) {
	name := filepath.Base(program)
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		cmd := exec.CommandContext(ctx, program)
		cmd.Env = slices.Clone(env)
		cmd.Stdout, cmd.Stderr = log, log
		cmd.SysProcAttr = &syscall.SysProcAttr{}
		s.guard.Join(cmd.SysProcAttr)
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		cmd.WaitDelay = atMost
		started := time.Now()
		err := cmd.Run()
		if ctx.Err() != nil {
			return
		}
		if time.Since(started) > lastPause {
			pause = firstPause
		}
		tell("%s ended (%v) and is started again in %s; its log is %s", name, err, pause, log.path)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// stop ends the services, and returns when they and what they left behind are gone.
func (s *services) stop() {
	s.cancel()
	s.done.Wait()
	s.guard.End()
}
