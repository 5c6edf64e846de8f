package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/lockstep-ci/lockstep/dev/postgres"
	"github.com/lockstep-ci/lockstep/migrations"
	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
)

// The server is away for longer than the lease: nobody could beat, and nobody may be blamed for it.
func TestARunOutlivesARestartOfPostgreSQL(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for a lease")
	}
	for name, end := range map[string]func(*server){"in order": (*server).stop, "kill -9": (*server).kill} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := newServer(t)
			s := newSystemOn(t, server.db)
			s.lease = 8 * time.Second // handlers give up after two; a killed server may take seconds to come back
			s.more["runner"] = []string{"BEAT=1s"}
			s.start()
			repo := s.repository("octo/slow", workflow(`
name: ci
on: push
jobs:
  count:
    runs-on: ubuntu-latest
    steps:
      - run: |
          n=0
          until [ -e `+s.file("go")+` ]; do n=$((n+1)); echo "line $n"; echo $n >`+s.file("n")+`; sleep 0.05; done
          echo "counted to $n"
  after:
    needs: count
    runs-on: ubuntu-latest
    steps:
      - run: echo after
`))
			id := s.push(repo)
			s.db.Await(t, 20*time.Second, "SELECT EXISTS (SELECT FROM ci_logs)")
			followers := s.followers(s.run(id), s.job(s.run(id), "ci / count"), s.addr)
			wait := s.follow(followers)
			end(server)
			before := s.counted()
			s.waitsForTheDatabase(repo)
			<-time.After(s.lease)
			server.start()
			s.ready()
			after := s.counted()
			if after == before {
				t.Error("the step stood still while PostgreSQL was away")
			}
			eventually(t, 20*time.Second, "the step goes on", func() bool { return s.counted() > after+20 })
			s.create("go")

			r := s.finish(id, "success")
			count := s.job(r, "ci / count")
			if count.Attempt != 2 {
				t.Errorf("the job ended at attempt %d, want 2: nobody was to take it over", count.Attempt)
			}
			ends := jobstest.Value[string](t, s.db, "SELECT string_agg(attempt || ':' || outcome, ' ' ORDER BY attempt) FROM ci_attempts WHERE job_id = $1", count.ID)
			if ends != "1:initialized 2:success" {
				t.Errorf("its attempts ended as %s, want each once", ends)
			}
			var want strings.Builder
			for n := 1; n <= s.counted(); n++ {
				fmt.Fprintf(&want, "line %d\n", n)
			}
			fmt.Fprintf(&want, "counted to %d\n", s.counted())
			log := s.log(count)
			if !strings.HasSuffix(log, want.String()) {
				t.Errorf("the log is not what the step printed, all of it and once:\n%s", log)
			}
			wait()
			for _, f := range followers {
				if f.name != "Connect's WatchRun" && string(f.log) != log {
					t.Errorf("%s: %d bytes of a log of %d", f.name, len(f.log), len(log))
				}
			}
			s.github.await(repo.head, "lockstep/ci / after", "success")
		})
	}
}

// waitsForTheDatabase wants the gateway to tell everybody that it does, and when to come again.
func (s *system) waitsForTheDatabase(repo *repository) {
	s.t.Helper()
	payload := pushPayload(repo, "refs/heads/main", repo.head)
	for path, ask := range map[string]func() answer{
		"/readyz":      func() answer { return s.request(http.MethodGet, "/readyz", nil) },
		"/api/v1/runs": func() answer { return s.request(http.MethodGet, "/api/v1/runs", nil) },
		"/webhooks/github": func() answer {
			return s.request(http.MethodPost, "/webhooks/github", json.RawMessage(payload), "X-GitHub-Event", "push", "X-GitHub-Delivery", newUUID(),
				"X-Hub-Signature-256", sign(payload, webhookSecret))
		},
	} {
		got := ask()
		if got.code != http.StatusServiceUnavailable || path != "/readyz" && got.header.Get("Retry-After") == "" {
			s.t.Errorf("%s was answered with %d, Retry-After %q: %s", path, got.code, got.header.Get("Retry-After"), got.text)
		}
	}
}

// counted is how far the step has come.
func (s *system) counted() int {
	s.t.Helper()
	var n int
	eventually(s.t, 20*time.Second, "a number in n", func() bool { // it may just be rewritten
		content, _ := os.ReadFile(s.file("n"))
		n, _ = strconv.Atoi(strings.TrimSpace(string(content)))
		return n > 0
	})
	return n
}

// server is a durable PostgreSQL of one test's own, which it may restart. Its address stays the same.
type server struct {
	t       testing.TB
	source  postgres.Source
	dir     string
	running *postgres.Server
	proxy   *proxy
	db      *jobstest.Database
}

func newServer(t testing.TB) *server {
	t.Helper()
	bin, err := postgres.FindBin(t.Context())
	if err != nil {
		t.Fatalf("a server to restart: %v", err)
	}
	dir, err := os.MkdirTemp("", "lockstep-e2e-postgres-") // t.TempDir is not passable for the server's user
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &server{t: t, source: postgres.Source{Bin: bin}, dir: filepath.Join(dir, "pg"), proxy: newProxy(t), db: &jobstest.Database{}}
	if err := os.Chmod(dir, 0o755); err != nil { // the server's user passes through
		t.Fatal(err)
	}
	t.Cleanup(s.stop)
	s.start()
	if err := migrations.Up(t.Context(), s.db.URL); err != nil {
		t.Fatal(err)
	}
	passwords := map[string]string{}
	for _, service := range services {
		as, err := url.Parse(s.db.As(service))
		if err != nil {
			t.Fatal(err)
		}
		passwords[service], _ = as.User.Password()
	}
	if err := migrations.Roles(t.Context(), s.db.URL, passwords); err != nil {
		t.Fatal(err)
	}
	return s
}

// start opens the server on its data, and the test's own pool on it: the owner's password is new each time.
func (s *server) start() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	running, err := postgres.Open(ctx, s.source, s.dir)
	if err != nil {
		s.t.Fatal(err)
	}
	s.running = running
	at, err := url.Parse(running.URL)
	if err != nil {
		s.t.Fatal(err)
	}
	s.proxy.forward(at.Host)
	at.Host = s.proxy.addr()
	if s.db.Pool != nil {
		s.db.Pool.Close()
	}
	s.db.URL = at.String()
	if s.db.Pool, err = pgxpool.New(ctx, s.db.URL); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(s.db.Pool.Close)
}

func (s *server) stop() {
	s.proxy.forward("")
	s.running.Stop()
}

// kill is kill -9 of the postmaster: its children end when they notice.
func (s *server) kill() {
	s.t.Helper()
	content, err := os.ReadFile(filepath.Join(s.dir, "data", "postmaster.pid"))
	if err != nil {
		s.t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(content), "\n")
	pid, err := strconv.Atoi(line)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		s.t.Fatalf("kill the server: %v", err)
	}
	select {
	case <-s.running.Done:
	case <-time.After(20 * time.Second):
		s.t.Fatal("the server did not notice that it was killed")
	}
	s.stop()
}

// proxy is one address for a server that has another one after each start.
type proxy struct {
	listener net.Listener
	mu       sync.Mutex
	target   string        // empty: connections are closed
	late     time.Duration // by which what the server says arrives later
	clients  map[net.Conn]bool
}

func newProxy(t testing.TB) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: listener, clients: map[net.Conn]bool{}}
	var connections sync.WaitGroup
	connections.Go(func() {
		for {
			client, err := listener.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				connections.Go(func() { p.serve(client) })
			}
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		connections.Wait()
	})
	return p
}

func (p *proxy) addr() string { return p.listener.Addr().String() }

func (p *proxy) forward(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

// delay makes each thing that the server says arrive later.
func (p *proxy) delay(late time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.late = late
}

// cut ends all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for client := range p.clients {
		_ = client.Close()
	}
}

// slowly is what the server says, as late as the proxy makes it.
type slowly struct {
	net.Conn
	proxy *proxy
}

func (s slowly) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	s.proxy.mu.Lock()
	late := s.proxy.late
	s.proxy.mu.Unlock()
	<-time.After(late)
	return n, err
}

// serve copies both ways until either side ends.
func (p *proxy) serve(client net.Conn) {
	p.mu.Lock()
	target := p.target
	p.clients[client] = true
	p.mu.Unlock()
	defer func() {
		_ = client.Close()
		p.mu.Lock()
		delete(p.clients, client)
		p.mu.Unlock()
	}()
	if target == "" {
		return
	}
	dialled, err := net.DialTimeout("tcp", target, 5*time.Second)
	if err != nil {
		return
	}
	backend := net.Conn(slowly{dialled, p})
	defer func() { _ = backend.Close() }()
	done := make(chan struct{}, 2)
	for from, to := range map[net.Conn]net.Conn{client: backend, backend: client} {
		go func() {
			_, _ = io.Copy(to, from) // the other side learns of an error by the close
			done <- struct{}{}
		}()
	}
	<-done
}
