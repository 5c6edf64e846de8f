package e2e_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
)

// Whatever happens to PostgreSQL, no service ends: each says in few lines what is wrong, and goes on when it is over. The
// job at hand ends at its first attempt.
func TestServicesOutliveTroubleOfTheDatabase(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for locks and leases")
	}
	t.Parallel()
	server := newServer(t)
	s := newSystemOn(t, server.db)
	s.lease = 12 * time.Second
	s.start()
	repo := s.repository("octo/slow", workflow(`
name: ci
on: push
jobs:
  wait:
    runs-on: ubuntu-latest
    steps:
      - run: ': >`+s.file("at")+`."$GITHUB_REF_NAME"; until [ -e `+s.file("go")+`."$GITHUB_REF_NAME" ]; do sleep 0.05; done; echo gone on'
`))
	// Jobs start before the trouble and end in it or after it.
	during := func(name string, trouble func(), over func()) {
		t.Helper()
		began := time.Now()
		_, pushed := s.deliver("push", newUUID(), pushPayload(repo, "refs/heads/"+name, repo.head))
		id := pushed.RunID
		eventually(t, 20*time.Second, "the step runs", func() bool {
			_, err := os.Stat(s.file("at." + name))
			return err == nil
		})
		attempt := s.job(s.run(id), "ci / wait").Attempt
		trouble()
		s.create("go." + name)
		over()
		r := s.finish(id, "success")
		if j := s.job(r, "ci / wait"); j.Attempt != attempt {
			t.Errorf("%s: the job ended at attempt %d, and was at %d before", name, j.Attempt, attempt)
		}
		for _, p := range s.processes {
			if !p.running() {
				t.Fatalf("%s: %s ended:\n%s", name, p.service, p.output(t))
			}
		}
		if dead := jobstest.Value[int](t, s.db, "SELECT count(dead_at)::int FROM ci_workers"); dead != 0 {
			t.Errorf("%s: %d workers were taken for dead", name, dead)
		}
		t.Logf("%s: over after %s", name, time.Since(began))
	}

	conn := server.owner()
	execute := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	during("locked", func() {
		execute("BEGIN")
		execute("LOCK TABLE ci_jobs IN ACCESS EXCLUSIVE MODE")
		s.allSay("locked by another session", "initializer", "runner", "reaper")
		s.refused("GET")
	}, func() { execute("COMMIT") })

	during("full", func() {
		for _, service := range services {
			execute(fmt.Sprintf("ALTER ROLE lockstep_%s CONNECTION LIMIT 0", strings.ReplaceAll(service, "-", "_")))
		}
		server.cut()
		s.allSay("takes no more connections", services...)
		s.refused("GET")
	}, func() {
		for _, service := range services {
			execute(fmt.Sprintf("ALTER ROLE lockstep_%s CONNECTION LIMIT -1", strings.ReplaceAll(service, "-", "_")))
		}
	})

	during("read-only", func() {
		server.mayWrite(false)
		s.allSay("the database is read-only", "initializer", "runner", "github-notifier", "reaper")
		s.refused("POST")
	}, func() { server.mayWrite(true) })

	// More than a lease goes by while every answer takes more than a second.
	during("slow", func() {
		server.proxy.delay(1200 * time.Millisecond)
		leased := time.After(s.lease + time.Second)
		s.push(s.repository("octo/hello", workflow(oneJob))) // jobs go on all the same
		<-leased
	}, func() {
		s.db.Await(t, 2*time.Minute, "SELECT count(*) = 1 FROM ci_runs WHERE repository LIKE '%octo/hello' AND status = 'success'")
		server.proxy.delay(0)
	})

	// A service that starts while the server is away waits for it.
	during("away", func() {
		server.stop()
		s.start("runner", "reaper")
		s.allSay("cannot be reached", "initializer", "runner", "reaper", "github-notifier", "api-gateway")
		s.refused("GET")
	}, func() { server.start() })
	s.db.Await(t, 20*time.Second, "SELECT count(*) = 2 FROM ci_workers WHERE stage = 'runner' AND dead_at IS NULL")

	for _, p := range s.processes {
		if warnings := p.troubles(t, ""); len(warnings) > 25 {
			t.Errorf("%s warned %d times:\n%s", p.service, len(warnings), strings.Join(warnings, "\n"))
		}
	}
}

// Of several hosts the one that may write is taken, also when that is another one by and by.
func TestOfSeveralHostsTheOneThatMayWriteIsTaken(t *testing.T) {
	t.Parallel()
	first, second := newServer(t), newServer(t)
	s := newSystemOn(t, second.db)
	var at []*url.URL
	for _, server := range []*server{first, second} {
		one, err := url.Parse(server.db.As("runner"))
		if err != nil {
			t.Fatal(err)
		}
		at = append(at, one)
	}
	both := *at[0]
	both.Host = at[0].Host + "," + at[1].Host
	s.more["runner"] = []string{"DATABASE_URL=" + both.String(), "BEAT=1s"}
	const works = "SELECT count(*) = 1 FROM ci_workers WHERE dead_at IS NULL AND beat_at > clock_timestamp() - interval '3 seconds'"
	first.mayWrite(false)
	s.start("runner")
	second.db.Await(t, 20*time.Second, works)
	first.mayWrite(true)
	second.mayWrite(false)
	first.db.Await(t, 20*time.Second, works)
}

// owner is a connection that may write whatever the server's default is, past the proxy's delays.
func (s *server) owner() *pgx.Conn {
	s.t.Helper()
	conn, err := pgx.Connect(s.t.Context(), s.running.URL)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close(s.t.Context()) })
	if _, err := conn.Exec(s.t.Context(), "SET default_transaction_read_only = off"); err != nil {
		s.t.Fatal(err)
	}
	return conn
}

// cut ends all connections; the test's own pool begins anew.
func (s *server) cut() {
	s.proxy.cut()
	s.db.Pool.Reset()
}

// mayWrite settles whether sessions that begin from now on may write, and ends those of before when they may not.
func (s *server) mayWrite(may bool) {
	s.t.Helper()
	conn := s.owner()
	sql := fmt.Sprintf("ALTER DATABASE %s SET default_transaction_read_only = %v", pgx.Identifier{conn.Config().Database}.Sanitize(), !may)
	if _, err := conn.Exec(s.t.Context(), sql); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
	if !may {
		s.cut()
	}
}

// troubles are the warnings about the database whose words hold these.
func (p *process) troubles(t testing.TB, words string) []string {
	t.Helper()
	var found []string
	lines := bufio.NewScanner(bytes.NewReader(p.output(t)))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var fields struct{ Msg, Level, Trouble string }
		if json.Unmarshal(lines.Bytes(), &fields) == nil && fields.Level == "warn" &&
			fields.Msg == "the database does not serve us" && strings.Contains(fields.Trouble, words) {
			found = append(found, lines.Text())
		}
	}
	return found
}

// said waits for such a warning.
func (p *process) said(t testing.TB, words string) {
	t.Helper()
	eventually(t, 30*time.Second, fmt.Sprintf("%s warns that %s", p.service, words), func() bool { return len(p.troubles(t, words)) > 0 })
}

// allSay waits until each process of these services has said so.
func (s *system) allSay(words string, names ...string) {
	s.t.Helper()
	for _, name := range names {
		for _, p := range s.processes {
			if p.service == name {
				p.said(s.t, words)
			}
		}
	}
}

// refused wants the gateway to say for now: 503, and when to come back.
func (s *system) refused(method string) {
	s.t.Helper()
	var body any
	if method == http.MethodPost {
		body = map[string]string{"repository": "https://github.com/octo/slow"}
	}
	answer := s.request(method, "/api/v1/runs", body)
	if answer.code != http.StatusServiceUnavailable || answer.header.Get("Retry-After") == "" {
		s.t.Errorf("the gateway answered %d, Retry-After %q, want 503 and some seconds: %s", answer.code, answer.header.Get("Retry-After"), answer.text)
	}
}
