package main_test

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
	"github.com/lockstep-ci/lockstep/services/github-notifier/internal/githubtest"
)

// The notifier as an operator sees it: the binary, its settings and its signals. How it reports is tested in
// internal/notifier.

const (
	token = "ghp_0123456789abcdefghij"
	soon  = 20 * time.Second // far above what anything here takes; reached only by a test that fails
)

var binary string

func TestMain(m *testing.M) { os.Exit(jobstest.RunWithBinary(m, "github-notifier", &binary)) }

func TestAWrongSettingEndsItWithOneLineThatNamesIt(t *testing.T) {
	t.Parallel()
	const url = "DATABASE_URL=postgres://somebody:hunter2@127.0.0.1:1/none"
	for name, test := range map[string]struct {
		env  []string
		want string
	}{
		"no database":             {nil, "DATABASE_URL is not set"},
		"an unknown level":        {[]string{url, "LOG_LEVEL=loud"}, "LOG_LEVEL: "},
		"no slots":                {[]string{url, "CONCURRENCY=0"}, "CONCURRENCY: 0 is not between 1 and 100"},
		"more than GitHub allows": {[]string{url, "CONCURRENCY=101"}, "CONCURRENCY: 101 is not between 1 and 100"},
		"no duration":             {[]string{url, "POLL=1"}, "POLL: "},
		"a busy loop":             {[]string{url, "POLL=1ms"}, "POLL: 1ms is less than 10ms"},
		"an API in the clear":     {[]string{url, "GITHUB_API_URL=http://api.github.com/"}, "GITHUB_API_URL: "},
		"an API with a password":  {[]string{url, "GITHUB_API_URL=https://me:hunter2@api.github.com/"}, "GITHUB_API_URL: "},
		"no API":                  {[]string{url, "GITHUB_API_URL="}, "GITHUB_API_URL: "},
		"a token of two lines":    {[]string{url, "GITHUB_TOKEN=hunter2\n"}, "GITHUB_TOKEN: "},
		"a page that is none":     {[]string{url, "PUBLIC_URL=ci.example.com"}, "PUBLIC_URL: "},
		"a page with a password":  {[]string{url, "PUBLIC_URL=https://me:hunter2@ci.example.com"}, "PUBLIC_URL: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			jobstest.Refuses(t, binary, test.env, test.want)
		})
	}
}

func TestSIGTERMLetsTheCallInFlightEnd(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	db, server := jobstest.New(t), githubtest.New(t, githubtest.After(release, githubtest.Created))
	planJob(t, db)
	p := start(t, db, server)
	server.Next(t)
	db.Await(t, soon, "SELECT bool_and(usename = 'lockstep_github_notifier') FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'github-notifier'")
	p.signal(t, syscall.SIGTERM)
	close(release)
	p.await(t)
	if !p.exit.Success() {
		t.Errorf("it ended with %s", p.exit)
	}
	if status := jobstest.Value[string](t, db, "SELECT status FROM ci_reports"); status != "notified" {
		t.Errorf("the report is %s", status)
	}
}

func TestKilledBetweenTheCallAndItsRecordItTellsAgain(t *testing.T) {
	t.Parallel()
	db, server := jobstest.New(t), githubtest.New(t, githubtest.Hang)
	planJob(t, db)
	p := start(t, db, server)
	server.Next(t)
	p.signal(t, syscall.SIGKILL)
	p.await(t)
	if status := jobstest.Value[string](t, db, "SELECT status FROM ci_reports"); status != "notifying" {
		t.Fatalf("the report is %s", status)
	}
	db.Exec(t, "UPDATE ci_reports SET deadline_at = now()")
	start(t, db, server)
	db.Await(t, soon, "SELECT status = 'notified' AND sent_version = version FROM ci_reports")
	if calls := server.Calls(); len(calls) != 2 || calls[0].State != calls[1].State || calls[0].Context != calls[1].Context {
		t.Errorf("GitHub was told %+v", calls)
	}
}

func TestStoppedPastItsDeadlineItChangesNothing(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	db, server := jobstest.New(t), githubtest.New(t, githubtest.After(release, githubtest.Status(500, "")))
	planJob(t, db)
	late := start(t, db, server)
	server.Next(t)
	late.signal(t, syscall.SIGSTOP)
	db.Exec(t, "UPDATE ci_reports SET deadline_at = now()")
	start(t, db, server)
	db.Await(t, soon, "SELECT status = 'notified' AND sent_version = version FROM ci_reports")
	row := jobstest.Value[string](t, db, "SELECT ci_reports::text FROM ci_reports")
	close(release)
	late.signal(t, syscall.SIGCONT)
	late.awaitLine(t, "claim lost")
	if now := jobstest.Value[string](t, db, "SELECT ci_reports::text FROM ci_reports"); now != row {
		t.Errorf("the late answer changed the report\nfrom %s\nto   %s", row, now)
	}
}

func TestNoAnswerMakesItShowTheToken(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]githubtest.Answer{
		"a reset":       githubtest.Reset,
		"a redirect":    githubtest.Status(307, "", "Location", "https://127.0.0.2:1/"),
		"a wrong token": githubtest.Status(401, `{"message": "Bad credentials"}`),
		"an error":      githubtest.Status(500, ""),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, server := jobstest.New(t), githubtest.New(t, answer)
			planJob(t, db)
			start(t, db, server, "LOG_LEVEL=debug").awaitLine(t, "will be told later")
			if row := jobstest.Value[string](t, db, "SELECT ci_reports::text FROM ci_reports"); strings.Contains(row, token) {
				t.Errorf("the token is in the report: %s", row)
			}
		}) // what it logged is looked at as it ends
	}
}

// process is a running binary.
type process struct {
	command *exec.Cmd
	ended   chan struct{}
	exit    *os.ProcessState // once ended

	mu  sync.Mutex
	out bytes.Buffer
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// start runs the binary on the test's database, under the notifier's role. It is ended when the test ends, and must not have
// shown its token by then.
func start(t *testing.T, db *jobstest.Database, server *githubtest.Server, env ...string) *process {
	t.Helper()
	p := &process{command: exec.Command(binary), ended: make(chan struct{})}
	p.command.Env = append([]string{"DATABASE_URL=" + db.As("github-notifier"), "GITHUB_API_URL=" + server.URL, "GITHUB_TOKEN=" + token}, env...)
	p.command.Stdout, p.command.Stderr = p, p
	if err := p.command.Start(); err != nil {
		t.Fatalf("start github-notifier: %v", err)
	}
	go func() {
		_ = p.command.Wait() // exit tells
		p.exit = p.command.ProcessState
		close(p.ended)
	}()
	t.Cleanup(func() {
		_ = p.command.Process.Signal(syscall.SIGTERM) // it may have ended by now
		p.await(t)
		if strings.Contains(p.said(), token) {
			t.Error("it shows its token")
		}
		if t.Failed() {
			t.Logf("github-notifier said:\n%s", p.said())
		}
	})
	return p
}

func (p *process) signal(t *testing.T, signal os.Signal) {
	t.Helper()
	if err := p.command.Process.Signal(signal); err != nil {
		t.Fatalf("signal %s: %v", signal, err)
	}
}

// await waits for its end.
func (p *process) await(t *testing.T) {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(soon):
		_ = p.command.Process.Kill()
		<-p.ended
		t.Errorf("github-notifier did not end within %s; killed", soon)
	}
}

// awaitLine waits until it has logged this.
func (p *process) awaitLine(t *testing.T, text string) {
	t.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(soon); !strings.Contains(p.said(), text); <-ticker.C {
		if time.Now().After(deadline) {
			t.Fatalf("it did not say %q within %s", text, soon)
		}
	}
}

// planJob makes a job that waits for a runner; the database makes its report.
func planJob(t *testing.T, db *jobstest.Database) {
	t.Helper()
	db.Exec(t, `
		WITH run AS (
			INSERT INTO ci_runs (repository, event, head_sha)
			VALUES ('https://github.com/acme/widgets', 'push', '0123456789abcdef0123456789abcdef01234567') RETURNING id, repository)
		INSERT INTO ci_jobs (run_id, repository, status, workflow, job_key, name)
		SELECT id, repository, 'initialized', '.ci/workflows/ci.yaml', 'test', 'ci / test' FROM run`)
}
