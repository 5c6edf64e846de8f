// Package lab is one installation of Lockstep to be mistreated: the real binaries in several replicas, a durable
// PostgreSQL of its own behind proxies, a GitHub, clients, and what is done to them.
package lab

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/lockstep-ci/lockstep/dev/postgres"
	"github.com/lockstep-ci/lockstep/migrations"
	"github.com/lockstep-ci/lockstep/test/chaos/internal/audit"
)

// Settings of the services that are short, so that half a minute sees several takeovers.
const (
	lease = 3 * time.Second
	beat  = 800 * time.Millisecond
	grace = time.Second
)

const (
	adminToken    = "chaos-admin-token-xxxx"
	webhookSecret = "chaos-webhook-secret-xxxx"
)

// Options of a System.
type Options struct {
	Binaries string // folder of the services' binaries
	Postgres string // folder of PostgreSQL's; empty: found
	Seed     uint64 // of what is done to whom, and of what the jobs print
	Say      func(format string, args ...any)
}

// System is the installation.
type System struct {
	options      Options
	dir          string // everything is below it
	guard        *guard
	server       *server
	network      *network
	github       *github
	repositories []repository
	places       []*place
	background   sync.WaitGroup  // what torment began and does not wait for before it goes on
	life         context.Context // of Torture: until it ends, what was done is mended
	giveUp       context.CancelFunc

	mu        sync.Mutex
	processes []*process
	faults    []audit.Fault
	requests  []*audit.Request
	logs      map[int64][]byte
	reads     map[reading]*audit.Read
	ready     []audit.Ready
	broken    []error // what the harness itself could not do
}

// place is where one replica runs: its process is replaced, its address and proxy stay.
type place struct {
	service, name string
	address       string // of a gateway
	proxy         *proxy

	mu      sync.Mutex // held while something is done to the process
	process *process
	started int
}

// New makes everything but the processes. Close ends it.
func New(ctx context.Context, o Options) (_ *System, err error) {
	s := &System{options: o, logs: map[int64][]byte{}, reads: map[reading]*audit.Read{}}
	if s.dir, err = os.MkdirTemp("", "lockstep-chaos-"); err != nil {
		return nil, fmt.Errorf("make folder: %w", err)
	}
	defer func() {
		if err != nil {
			_ = s.Close()
		}
	}()
	for folder, mode := range map[string]fs.FileMode{".": 0o711, "shared": 0o777, "postgres": 0o755} { // for the steps' users and the server's
		path := filepath.Join(s.dir, folder)
		if err := errors.Join(os.MkdirAll(path, 0o700), os.Chmod(path, mode)); err != nil {
			return nil, fmt.Errorf("make folder: %w", err)
		}
	}
	if s.guard, err = newGuard(s.dir); err != nil {
		return nil, err
	}
	s.github = newGitHub()
	bin := o.Postgres
	if bin == "" {
		if bin, err = postgres.FindBin(ctx); err != nil {
			return nil, fmt.Errorf("find a PostgreSQL that may be killed: %w", err)
		}
	}
	if s.server, err = newServer(ctx, bin, filepath.Join(s.dir, "postgres", "pg")); err != nil {
		return nil, err
	}
	owner := s.server.as("", "")
	if err := errors.Join(migrations.Up(ctx, owner), migrations.Roles(ctx, owner, nil)); err != nil {
		return nil, err
	}
	conn, err := s.server.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if err := audit.Install(ctx, conn); err != nil {
		return nil, err
	}
	s.network = newNetwork()
	return s, s.makeRepositories(ctx)
}

// Start starts so many replicas of each service named and waits until the gateways are ready.
func (s *System) Start(ctx context.Context, replicas map[string]int) error {
	for _, service := range migrations.Services {
		for range replicas[service] {
			if _, err := s.add(ctx, service); err != nil {
				return err
			}
		}
	}
	return s.allReady(ctx, 30*time.Second)
}

// add starts one more replica of a service.
func (s *System) add(ctx context.Context, service string, environment ...string) (*place, error) {
	p := &place{service: service, name: strings.ReplaceAll(service, "-", "_") + "_" + strconv.Itoa(len(s.places))}
	var err error
	if p.proxy, err = s.network.add(service, s.server.address()); err != nil {
		return nil, err
	}
	if service == "api-gateway" {
		if p.address, err = freeAddress(); err != nil {
			return nil, err
		}
	}
	s.places = append(s.places, p)
	return p, s.start(ctx, p, environment...)
}

// start starts the place's next process, under a login of its own.
func (s *System) start(ctx context.Context, p *place, environment ...string) error {
	p.started++
	login := fmt.Sprintf("%s_%d", p.name, p.started)
	role := migrations.RoleName(p.service)
	err := s.server.exec(ctx, // the server may be away between any two, and the name may be there already
		fmt.Sprintf(`DO $$ BEGIN IF to_regrole('%[1]s') IS NULL THEN CREATE ROLE %[1]s LOGIN; CREATE ROLE %[1]s_listens LOGIN; END IF; END $$`, login),
		fmt.Sprintf(`GRANT %[2]s TO %[1]s, %[1]s_listens`, login, role),
		fmt.Sprintf(`ALTER ROLE %s SET role = %s`, login, role),
		fmt.Sprintf(`ALTER ROLE %s_listens SET role = %s`, login, role),
		fmt.Sprintf(`INSERT INTO chaos.logins VALUES ('%s', '%s') ON CONFLICT DO NOTHING`, login, p.service),
	)
	if err != nil {
		return fmt.Errorf("make a login for %s: %w", login, err)
	}
	env, err := s.environment(p, login)
	if err != nil {
		return err
	}
	p.process, err = s.guard.spawn(filepath.Join(s.options.Binaries, p.service), s.dir, login, p.service, append(env, environment...))
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.processes = append(s.processes, p.process)
	s.mu.Unlock()
	return nil
}

// environment is all that a process finds in its environment.
func (s *System) environment(p *place, login string) ([]string, error) {
	home, temp := filepath.Join(s.dir, p.service, "home"), filepath.Join(s.dir, p.service, "tmp")
	if err := errors.Join(os.MkdirAll(home, 0o755), os.MkdirAll(temp, 0o755)); err != nil {
		return nil, fmt.Errorf("make folders of %s: %w", p.service, err)
	}
	env := []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + home, "TMPDIR=" + temp,
		"DATABASE_URL=" + s.server.as(login, p.proxy.address()), "LISTEN_DATABASE_URL=" + s.server.as(login+"_listens", p.proxy.address()),
		"POLL=200ms",
	}
	gateways := s.gateways()
	switch p.service {
	case "api-gateway":
		env = append(env, "HTTP_ADDR="+p.address, "PUBLIC_URL=http://"+p.address, "ADMIN_TOKEN="+adminToken, "RATE_LIMIT=0", "GITHUB_WEBHOOK_SECRET="+webhookSecret)
	case "initializer":
		env = append(env, "ALLOW_FILE_URLS=true", "GIT_INSTEAD_OF=https://github.com/=file://"+filepath.Join(s.dir, "github.com")+"/")
	case "runner":
		env = append(env, "EXECUTOR_UNSANDBOXED=true", "CANCEL_GRACE=1s")
	case "github-notifier":
		env = append(env, "GITHUB_TOKEN=chaos", "GITHUB_API_URL="+s.github.URL, "PUBLIC_URL=http://"+gateways[0].address)
	case "reaper": // whatever is done to it, a job that does no harm must succeed in the end
		env = append(env, "MAX_FAILURES=1000", "MAX_CRASHES=1000")
	}
	if p.service == "initializer" || p.service == "runner" {
		env = append(env, "LEASE="+lease.String(), "BEAT="+beat.String(), "GRACE="+grace.String(), "RETRY_AFTER=200ms")
	}
	return env, nil
}

func (s *System) gateways() (gateways []*place) {
	for _, p := range s.places {
		if p.service == "api-gateway" {
			gateways = append(gateways, p)
		}
	}
	return gateways
}

// allReady waits until each gateway answers that it is.
func (s *System) allReady(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errors.New("the gateways are not ready within "+limit.String()))
	defer cancel()
	for _, p := range s.gateways() {
		for {
			if code, _, err := s.call(ctx, http.MethodGet, p, "/readyz", nil, nil); err == nil && code == http.StatusOK {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("%w: %s: %s", context.Cause(ctx), p.name, p.process.said())
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	return nil
}

// harm notes that something was done, and when it was over.
func (s *System) harm(fault audit.Fault) {
	fault.Ended = time.Now()
	s.mu.Lock()
	s.faults = append(s.faults, fault)
	s.mu.Unlock()
	s.options.Say("%s %s (%s)", fault.Kind, fault.Login, fault.Ended.Sub(fault.Began).Round(time.Millisecond))
}

// broke notes what the harness could not do, and ends Torture: it proves nothing any more.
func (s *System) broke(err error) {
	s.mu.Lock()
	s.broken = append(s.broken, err)
	s.mu.Unlock()
	s.giveUp()
}

// sound says what the harness could not do.
func (s *System) sound() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := errors.Join(s.broken...); err != nil {
		return fmt.Errorf("chaos itself went wrong: %w", err)
	}
	return nil
}

// Audit judges what has happened so far.
func (s *System) Audit(ctx context.Context) (*audit.Report, error) {
	if err := s.sound(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	history := audit.History{Plans: map[string]audit.Plan{}, Calls: s.github.recorded(), Logs: s.logs, Faults: s.faults, Ready: s.ready}
	for _, one := range s.reads {
		history.Reads = append(history.Reads, *one)
	}
	for _, r := range s.requests {
		history.Requests = append(history.Requests, *r)
	}
	for _, p := range s.processes {
		history.Processes = append(history.Processes, p.told())
	}
	s.mu.Unlock()
	for _, r := range s.repositories {
		history.Plans[r.url()] = r.plan
	}
	conn, err := s.server.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	return audit.Audit(ctx, conn, history)
}

// Close ends every process and removes everything. The error says who did not end when told to.
func (s *System) Close() error {
	var ends sync.WaitGroup
	failed := make(chan error, len(s.places))
	for _, p := range s.places {
		if p.process != nil && p.process.running() {
			ends.Go(func() { failed <- p.process.end() })
		}
	}
	ends.Wait()
	close(failed)
	var errs []error
	for err := range failed {
		errs = append(errs, err)
	}
	if s.github != nil {
		s.github.feel("")
		s.github.CloseClientConnections()
		s.github.Close()
	}
	if s.network != nil {
		s.network.close()
	}
	if s.server != nil && s.server.running != nil {
		s.server.stop()
	}
	if s.guard != nil {
		s.guard.end()
	}
	var err error
	for range 50 { // the supervisors of killed runners may still be tidying up
		if err = os.RemoveAll(s.dir); err == nil {
			break
		}
		<-time.After(20 * time.Millisecond)
	}
	return errors.Join(append(errs, err)...)
}

// Keep copies the processes' logs to a folder, for whoever looks into a finding.
func (s *System) Keep(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("keep logs: %w", err)
	}
	logs, _ := filepath.Glob(filepath.Join(s.dir, "*.log")) // the pattern is sound
	for _, log := range append(logs, filepath.Join(s.dir, "postgres", "pg", "server.log")) {
		content, err := os.ReadFile(log)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, filepath.Base(log)), content, 0o600)
		}
		if err != nil {
			return fmt.Errorf("keep logs: %w", err)
		}
	}
	return nil
}

// freeAddress is a loopback address below the range from which systems take ports for outgoing connections, so that it
// stays free while its process is being restarted.
func freeAddress() (string, error) {
	for range 100 {
		random := make([]byte, 2)
		_, _ = rand.Read(random) // never fails (crypto/rand)
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(20000+(int(random[0])<<8+int(random[1]))%10000))
		if listener, err := net.Listen("tcp", address); err == nil {
			return address, listener.Close()
		}
	}
	return "", errors.New("no free port on 127.0.0.1 from 20000 to 29999")
}

// between is a random duration from low to high.
func between(n float64, low, high time.Duration) time.Duration {
	return low + time.Duration(n*float64(high-low))
}

// pause waits, or returns false when ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return ctx.Err() == nil
	}
}
