package tutorial_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
)

const (
	token = "tutorial-token-0123456789"
	soon  = 30 * time.Second // far above what anything here takes; reached only by a test that fails
)

// reader is somebody who follows the tutorial.
type reader struct {
	t        *testing.T
	page     page // what is still to be read
	tree     string
	dir      string // of homes, logs and repositories
	db       *jobstest.Database
	addr     string // of the gateway
	password string // of every role
	guard    *guard
	running  []*service
}

func newReader(t *testing.T) *reader {
	t.Helper()
	t.Cleanup(func() { forgetScanner(t) }) // behind the database, whose grants name the role
	r := &reader{t: t, page: readPage(t), db: jobstest.New(t), guard: newGuard(t)}
	var err error
	if r.dir, err = os.MkdirTemp("", "lockstep-tutorial-"); err != nil { // t.TempDir is not passable for the steps' users
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(r.dir); err != nil {
			t.Errorf("remove the copy: %v", err)
		}
	})
	if err := os.Chmod(r.dir, 0o711); err != nil {
		t.Fatal(err)
	}
	r.tree = filepath.Join(r.dir, "tree")
	copyTree(t, r.tree)
	as, err := url.Parse(r.db.As("scanner"))
	if err != nil {
		t.Fatal(err)
	}
	r.password, _ = as.User.Password()
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(r.logs())
		}
		for _, s := range r.running {
			s.stop()
		}
	})
	return r
}

// forgetScanner drops the one role that outlives the test's database. Another test's database may still need it.
func forgetScanner(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	server, err := pgx.Connect(ctx, os.Getenv("TEST_DATABASE_URL"))
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = server.Close(ctx) }()
	_, err = server.Exec(ctx, "DROP ROLE IF EXISTS lockstep_scanner")
	var failure *pgconn.PgError
	if errors.As(err, &failure) && failure.Code == "2BP01" { // dependent_objects_still_exist
		return
	}
	if err != nil {
		t.Error(err)
	}
}

func TestTheTutorialAddsAStage(t *testing.T) {
	t.Parallel()
	r := newReader(t)

	r.follow("1. The labels", "2. The rules", "3. The role", "4. The binary")

	// The five services are at work on the schema of before, and stay so while it changes under them.
	for _, name := range []string{"api-gateway", "initializer", "reaper", "runner"} {
		r.start(name, builtIn[name])
	}
	r.addr = r.running[0].serves()
	r.pass(r.run(r.repository("before", nil)), "initializing→initialized running→success")
	r.stop("runner")

	r.follow("5. Run it")
	clean := r.repository("clean", nil)
	r.pass(r.run(clean), "initializing→initialized scanning→scanned running→success")

	planted := r.repository("planted", map[string]string{"deploy/id_ed25519": "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA\n"})
	r.refuse(planted, `"deploy/id_ed25519" holds a private key`)

	if !testing.Short() { // it waits for a lease
		r.takeOver(clean)
	}
	r.moves(clean)

	r.follow("What the others make of it", "Scale it", "Deploy it")
	r.command("", "go", append(append([]string{"test", "-count=1"}, race...), "./test/deploy/...")...)

	r.follow("Roll it out without a pause")
	r.stop("scanner")
	waiting := r.run(clean)
	r.db.Await(t, soon, "SELECT EXISTS (SELECT FROM ci_jobs WHERE run_id = $1 AND status = 'initialized')", waiting)
	if _, err := r.db.Pool.Exec(t.Context(), "UPDATE ci_jobs SET status = 'running' WHERE run_id = $1", waiting); err == nil || !strings.Contains(err.Error(), "illegal transition from initialized to running") {
		t.Errorf("to run what was not scanned: %v, want that it is illegal", err)
	}
	r.start("scanner", r.startsBy("scanner"))
	r.pass(waiting, "initializing→initialized scanning→scanned running→success")

	r.stop("scanner")
	r.stop("runner")
	if n := jobstest.Value[int64](t, r.db, r.page.blocks["Take it out again"][0].text); n != 0 {
		t.Errorf("%d jobs are on their way through the stage, want none", n)
	}
	r.follow("Take it out again")
	r.start("runner", builtIn["runner"])
	r.pass(r.run(clean), "initializing→initialized running→success")

	if len(r.page.sections) > 0 {
		t.Errorf("sections of the tutorial that nobody follows: %q", r.page.sections)
	}
}

// takeOver kills a scanner that holds a job, and wants another one to end it.
func (r *reader) takeOver(repository string) {
	r.t.Helper()
	r.stop("scanner")
	run := r.run(repository)
	r.db.Await(r.t, soon, "SELECT EXISTS (SELECT FROM ci_jobs WHERE run_id = $1 AND status = 'initialized')", run)

	// Whoever wants to read what the job is to do has to wait.
	lock, err := r.db.Pool.Begin(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = lock.Rollback(r.t.Context()) }()
	if _, err := lock.Exec(r.t.Context(), "LOCK TABLE ci_job_specs IN ACCESS EXCLUSIVE MODE"); err != nil {
		r.t.Fatal(err)
	}
	dies := r.start("scanner", r.startsBy("scanner"))
	r.db.Await(r.t, soon, "SELECT EXISTS (SELECT FROM ci_jobs WHERE run_id = $1 AND status = 'scanning')", run)
	r.start("scanner", r.startsBy("scanner"))
	dies.kill()
	if err := lock.Rollback(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	r.pass(run, "initializing→initialized scanning→initialized scanning→scanned running→success")
}

// moves tries each transition of the tutorial under the role that it is for. Then it lets the reaper admit a job that waited
// behind a failed runner, and cancels it.
func (r *reader) moves(repository string) {
	r.t.Helper()
	r.stop("scanner")
	r.stop("runner")
	run := r.run(repository)
	r.db.Await(r.t, soon, "SELECT EXISTS (SELECT FROM ci_jobs WHERE run_id = $1 AND status = 'initialized')", run)
	tried := 0
	for _, from := range []string{"initialized", "scanning", "scanned", "running", "blocked"} {
		if from != "initialized" {
			r.db.Exec(r.t, "UPDATE ci_jobs SET status = $2::ci_job_status, not_before = 'infinity' WHERE run_id = $1", run, from)
		}
		rules, err := r.db.Pool.Query(r.t.Context(), `
			SELECT to_status::text, replace(role, 'lockstep_', '') FROM ci_transitions
			WHERE  from_status = $1::ci_job_status AND (from_status IN ('scanning', 'scanned') OR to_status IN ('scanning', 'scanned'))`, from)
		if err != nil {
			r.t.Fatal(err)
		}
		var to, role string
		_, err = pgx.ForEachRow(rules, []any{&to, &role}, func() error {
			tried++
			return r.move(run, to, role)
		})
		if err != nil {
			r.t.Errorf("from %s: %v", from, err)
		}
	}
	if n := jobstest.Value[int](r.t, r.db, "SELECT count(*)::integer FROM ci_transitions WHERE 'scanning' IN (from_status, to_status) OR 'scanned' IN (from_status, to_status)"); n != tried {
		r.t.Errorf("tried %d transitions of %d", tried, n)
	}
	r.db.Exec(r.t, "UPDATE ci_jobs SET not_before = now() WHERE run_id = $1", run)
	r.db.Await(r.t, soon, "SELECT status = 'scanned' FROM ci_jobs WHERE run_id = $1", run)
	r.ask(http.MethodPost, "/api/v1/runs/"+run+"/cancel", nil)
	if status, _ := r.ended(run); status != "cancelled" {
		r.t.Errorf("a run that waited behind the scanner ended as %s, want cancelled", status)
	}
	for _, name := range []string{"scanner", "runner"} {
		r.start(name, r.startsBy(name))
	}
}

// move makes one transition under a service's role, and takes it back.
func (r *reader) move(run, to, service string) error {
	conn, err := pgx.Connect(r.t.Context(), r.db.As(strings.ReplaceAll(service, "_", "-")))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(r.t.Context()) }()
	undone := errors.New("undone")
	err = pgx.BeginFunc(r.t.Context(), conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(r.t.Context(), "UPDATE ci_jobs SET status = $2::ci_job_status WHERE run_id = $1", run, to); err != nil {
			return err
		}
		return undone
	})
	if errors.Is(err, undone) {
		return nil
	}
	return fmt.Errorf("%s moves it to %s: %w", service, to, err)
}

// startsBy is the command by which the tutorial starts a service.
func (r *reader) startsBy(name string) string {
	r.t.Helper()
	for _, b := range r.page.blocks["5. Run it"] {
		if len(b.words) == 3 && b.words[2] == name {
			return b.text
		}
	}
	r.t.Fatalf("the tutorial does not start %s", name)
	return ""
}

// repository makes a git repository with one workflow and these files, and returns its URL.
func (r *reader) repository(name string, files map[string]string) string {
	r.t.Helper()
	folder := filepath.Join(r.dir, "repositories", name)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		r.t.Fatal(err)
	}
	r.write(filepath.Join(folder, ".ci/workflows/ci.yml"), "on: push\njobs:\n  test:\n    runs-on: ubuntu-latest\n    steps:\n      - run: echo hello\n")
	for path, content := range files {
		r.write(filepath.Join(folder, path), content)
	}
	for _, args := range [][]string{{"init", "--quiet", "--initial-branch=main"}, {"add", "--all"}, {"commit", "--quiet", "--message=first"}} {
		cmd := exec.CommandContext(r.t.Context(), "git", args...)
		cmd.Dir = folder
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + folder, "GIT_CONFIG_NOSYSTEM=1",
			"GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=ada@example.com", "GIT_COMMITTER_NAME=Ada", "GIT_COMMITTER_EMAIL=ada@example.com"}
		if out, err := cmd.CombinedOutput(); err != nil {
			r.t.Fatalf("git %s: %v\n%s", args[0], err, out)
		}
	}
	return "file://" + folder
}

// run asks the gateway for a run and returns its id.
func (r *reader) run(repository string) string {
	r.t.Helper()
	body, err := json.Marshal(map[string]string{"repository": repository})
	if err != nil {
		r.t.Fatal(err)
	}
	var run struct{ ID string }
	if err := json.Unmarshal(r.ask(http.MethodPost, "/api/v1/runs", body), &run); err != nil || run.ID == "" {
		r.t.Fatalf("start a run: %v", err)
	}
	return run.ID
}

func (r *reader) ask(method, path string, body []byte) []byte {
	r.t.Helper()
	request, err := http.NewRequestWithContext(r.t.Context(), method, "http://"+r.addr+path, bytes.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode >= 300 {
		r.t.Fatalf("%s %s: %s %v\n%s", method, path, response.Status, err, answer)
	}
	return answer
}

// ended waits for a run's end and returns its status and the attempts of its job, as stage→outcome.
func (r *reader) ended(run string) (status, attempts string) {
	r.t.Helper()
	r.db.Await(r.t, soon, "SELECT finished_at IS NOT NULL FROM ci_runs WHERE id = $1", run)
	return jobstest.Value[string](r.t, r.db, "SELECT status::text FROM ci_runs WHERE id = $1", run),
		jobstest.Value[string](r.t, r.db, `SELECT string_agg(a.stage || '→' || a.outcome, ' ' ORDER BY a.attempt)
			FROM ci_attempts a JOIN ci_jobs j ON j.id = a.job_id WHERE j.run_id = $1`, run)
}

// pass wants a run to succeed, by these attempts.
func (r *reader) pass(run, want string) {
	r.t.Helper()
	if status, attempts := r.ended(run); status != "success" || attempts != want {
		r.t.Fatalf("run %s ended as %s by way of %s, want success by way of %s", run, status, attempts, want)
	}
}

// refuse wants a run of the repository to fail in the scanner, and page, API and GitHub to be told why.
func (r *reader) refuse(repository, reason string) {
	r.t.Helper()
	run := r.run(repository)
	if status, attempts := r.ended(run); status != "failure" || attempts != "initializing→initialized scanning→failure" {
		r.t.Fatalf("run %s ended as %s by way of %s, want failure in the scanner", run, status, attempts)
	}
	var told struct {
		Jobs []struct{ Status, Reason string }
	}
	if err := json.Unmarshal(r.ask(http.MethodGet, "/api/v1/runs/"+run, nil), &told); err != nil {
		r.t.Fatal(err)
	}
	if len(told.Jobs) != 1 || told.Jobs[0].Status != "failure" || told.Jobs[0].Reason != reason {
		r.t.Errorf("the API tells %+v, want a failure: %s", told.Jobs, reason)
	}
	if page := r.ask(http.MethodGet, "/run/"+run, nil); !bytes.Contains(page, []byte("deploy/id_ed25519")) {
		r.t.Errorf("the page does not say why:\n%s", page)
	}
	report := jobstest.Value[string](r.t, r.db, "SELECT state || ': ' || description FROM ci_reports WHERE run_id = $1", run)
	if report != "failure: "+reason {
		r.t.Errorf("GitHub is to be told %s", report)
	}
}
