package initialize_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
	"github.com/lockstep-ci/lockstep/pkg/jobs/source"
	"github.com/lockstep-ci/lockstep/pkg/jobs/spec"
	"github.com/lockstep-ci/lockstep/services/initializer/internal/git"
	"github.com/lockstep-ci/lockstep/services/initializer/internal/git/gittest"
	"github.com/lockstep-ci/lockstep/services/initializer/internal/initialize"
)

const soon = 20 * time.Second // far above what anything here takes; reached only by a test that fails

// start runs the stage on the test's database, under the initializer's own role, until the test ends.
func start(t *testing.T) (*jobstest.Database, *jobs.DB) {
	t.Helper()
	database := jobstest.New(t)
	db := database.Open(t, "initializer")
	client, err := git.Open(git.Settings{AllowFile: true, Timeout: time.Minute, MaxBytes: source.MaxPackedBytes})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- db.Work(ctx, jobs.Stage{
			Name: "initializer", Takes: jobs.StatusNew, Holds: jobs.StatusInitializing, Gives: jobs.StatusInitialized,
			Slots: 4, Lease: 20 * time.Second, Beat: time.Second, Poll: 200 * time.Millisecond,
			Do: initialize.New(db.Pool(), client, []string{"linux"}).Initialize,
		})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("stage: %v", err)
		}
		if err := client.Close(); err != nil {
			t.Errorf("close git: %v", err)
		}
	})
	return database, db
}

// enqueue accepts a run as the gateway would.
func enqueue(t *testing.T, database *jobstest.Database, run jobs.NewRun) (id int64) {
	t.Helper()
	enqueued, err := database.Open(t, "api-gateway").Enqueue(t.Context(), run)
	if err != nil {
		t.Fatal(err)
	}
	return enqueued.RunID
}

// answered waits until no job of the run is new or held, and returns the run and its jobs, a line each.
func answered(t *testing.T, database *jobstest.Database, run int64) (string, []string) {
	t.Helper()
	database.Await(t, soon, "SELECT bool_and(status NOT IN ('new', 'initializing')) FROM ci_jobs WHERE run_id = $1", run)
	rows, err := database.Pool.Query(t.Context(), `
		SELECT concat_ws('|', status, name, workflow, job_key, matrix_index, needs::text, fail_fast, timeout, reason)
		FROM   ci_jobs WHERE run_id = $1 ORDER BY id`, run)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	about := jobstest.Value[string](t, database, "SELECT concat_ws('|', status, coalesce(ref, '-'), coalesce(head_sha, '-')) FROM ci_runs WHERE id = $1", run)
	return about, lines
}

func check(t *testing.T, database *jobstest.Database, run int64, about string, lines ...string) {
	t.Helper()
	gotAbout, got := answered(t, database, run)
	if gotAbout != about {
		t.Errorf("the run is %q, want %q", gotAbout, about)
	}
	if diff := cmp.Diff(lines, got); diff != "" {
		t.Errorf("jobs differ (-want +got):\n%s", diff)
	}
}

const ci = `
name: CI
on: push
jobs:
  build:
    runs-on: linux
    timeout-minutes: 1.5
    steps:
      - uses: actions/checkout@v4
      - run: echo ${{ github.repository }} ${{ github.ref_name }} ${{ github.actor }}
  test:
    needs: build
    runs-on: linux
    strategy: {matrix: {go: [1, 2]}}
    steps: [{run: go test ./...}]
  lint:
    runs-on: linux
    steps: [{run: x}]
`

func TestACommitBecomesItsJobsInOneAnswer(t *testing.T) {
	t.Parallel()
	database, db := start(t)
	r := gittest.New(t)
	sha := r.Commit("main", map[string]gittest.Node{
		".github/workflows/ci.yml":  gittest.File(ci),
		".github/workflows/bad.yml": gittest.File("on: push\njobs: {a: {runs-on: mac, steps: [{run: x, if: y}]}}\n"),
		"go.mod":                    gittest.File("module m\n"),
	})
	run := enqueue(t, database, jobs.NewRun{Repository: r.URL, Event: "push", Ref: "refs/heads/main", HeadSHA: sha, Author: "mona", Trusted: true})
	const w = ".github/workflows/ci.yml"
	check(t, database, run, "running|refs/heads/main|"+sha,
		"initialized|CI / build|"+w+"|build|0|{}|f|00:11:30|",
		"blocked|CI / test (1)|"+w+"|test|0|{build}|t|06:10:00|",
		"blocked|CI / test (2)|"+w+"|test|1|{build}|t|06:10:00|",
		"initialized|CI / lint|"+w+"|lint|0|{}|f|06:10:00|",
		"failure|.github/workflows/bad.yml|.github/workflows/bad.yml||0|{}|f|00:10:00|"+
			".github/workflows/bad.yml:2:21: no runner has the label \"mac\" (labels here: linux)\n"+
			".github/workflows/bad.yml:2:43: key \"if\" is not supported in a step (supported: env, id, name, run, shell, timeout-minutes, uses, with, working-directory)",
	)

	// What the runner reads is complete.
	data := jobstest.Value[[]byte](t, database, "SELECT spec FROM ci_job_specs JOIN ci_jobs ON id = job_id WHERE run_id = $1 AND job_key = 'build'", run)
	s, err := spec.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	if s.Steps[1].Run != "echo octo/cat main mona" || s.SHA != sha || s.TimeoutMinutes != 1.5 {
		t.Errorf("spec is %+v", s)
	}
	folder := t.TempDir()
	if err := source.Unpack(t.Context(), db.Pool(), s.SourceID, folder); err != nil {
		t.Fatal(err)
	}
	if content, err := os.ReadFile(filepath.Join(folder, "go.mod")); err != nil || string(content) != "module m\n" {
		t.Errorf("go.mod is %q, %v", content, err)
	}
	if n := jobstest.Value[int64](t, database, "SELECT count(*) FROM ci_job_specs"); n != 4 {
		t.Errorf("%d specs, want one for each job that can run", n)
	}

	// GitHub is told of each.
	got := jobstest.Value[string](t, database, "SELECT string_agg(context || ' ' || state, ', ' ORDER BY context COLLATE \"C\") FROM ci_reports WHERE sha = $1", sha)
	want := "lockstep/.github/workflows/bad.yml failure, lockstep/CI / build pending, lockstep/CI / lint pending, lockstep/CI / test (1) pending, lockstep/CI / test (2) pending"
	if got != want {
		t.Errorf("reports: %s\nwant:    %s", got, want)
	}

	// In the plan's order, each with a turn of its own in the runners' queue.
	if !jobstest.Value[bool](t, database, "SELECT count(DISTINCT turn) = 2 FROM ci_jobs WHERE run_id = $1 AND status = 'initialized'", run) {
		t.Error("the claimable jobs have no turns of their own")
	}
}

func TestARerunSharesTheSource(t *testing.T) {
	t.Parallel()
	database, _ := start(t)
	r := gittest.New(t)
	r.Commit("main", map[string]gittest.Node{".ci/workflows/ci.yml": gittest.File(ci)})
	for range 2 {
		answered(t, database, enqueue(t, database, jobs.NewRun{Repository: r.URL, Event: "manual", Trusted: true}))
	}
	if got := jobstest.Value[string](t, database, "SELECT count(*) || ' ' || (SELECT count(DISTINCT spec->>'source_id') FROM ci_job_specs) FROM ci_sources"); got != "1 1" {
		t.Errorf("sources, and sources that are used: %s, want 1 1", got)
	}
}

func TestWhatIsMeantIsResolved(t *testing.T) {
	t.Parallel()
	database, _ := start(t)
	r := gittest.New(t)
	files := map[string]gittest.Node{".ci/workflows/ci.yml": gittest.File("on: push\njobs: {a: {runs-on: linux, steps: [{run: x}]}}\n")}
	main := r.Commit("main", files)
	files["more"] = gittest.File("x")
	dev := r.Commit("dev", files)
	r.Git("", "tag", "-a", "-m", "m", "v1", dev)
	tag := r.Git("", "rev-parse", "v1")
	const job = "initialized|.ci/workflows/ci.yml / a|.ci/workflows/ci.yml|a|0|{}|f|06:10:00|"
	for name, row := range map[string]struct {
		run  jobs.NewRun
		want string
	}{
		"nothing: the default branch": {jobs.NewRun{}, "refs/heads/main|" + main},
		"branch":                      {jobs.NewRun{Ref: "dev"}, "refs/heads/dev|" + dev},
		"tag":                         {jobs.NewRun{Ref: "v1"}, "refs/tags/v1|" + dev},
		"commit":                      {jobs.NewRun{HeadSHA: dev}, "-|" + dev},
		"commit as a ref":             {jobs.NewRun{Ref: dev}, "-|" + dev},
		"commit of a branch":          {jobs.NewRun{Ref: "main", HeadSHA: dev}, "refs/heads/main|" + dev},
		"the tag's own id":            {jobs.NewRun{Ref: "refs/tags/v1", HeadSHA: tag}, "refs/tags/v1|" + dev},
	} {
		t.Run(name, func(t *testing.T) {
			row.run.Repository, row.run.Event, row.run.Trusted = r.URL, "manual", true
			check(t, database, enqueue(t, database, row.run), "running|"+row.want, job)
		})
	}
	t.Run("INSERT of three columns", func(t *testing.T) {
		run := jobstest.Value[int64](t, database, "INSERT INTO ci_jobs (repository, status, status_change_time) VALUES ($1, 'new', now()) RETURNING run_id", r.URL)
		check(t, database, run, "running|refs/heads/main|"+main, job)
	})
}

func TestWhatTheUserCanMendIsAFailureThatSaysWhat(t *testing.T) {
	t.Parallel()
	database, _ := start(t)
	r := gittest.New(t)
	none := r.Commit("none", map[string]gittest.Node{"README.md": gittest.File("x")})
	bad := r.Commit("bad", map[string]gittest.Node{
		".ci/workflows/a.yml": gittest.File("on: push\n"),
		".ci/workflows/b.yml": {Mode: "120000", Content: "/etc/passwd"},
	})
	link := r.Commit("link", map[string]gittest.Node{".github/workflows": {Mode: "120000", Content: "x"}})
	pull := r.Commit("pull", map[string]gittest.Node{".ci/workflows/a.yml": gittest.File("on: pull_request\njobs: {a: {runs-on: linux, steps: [{run: x}]}}\n")})
	const blank = "|initialize|||0|{}|f|00:15:00|"
	for name, row := range map[string]struct {
		run   jobs.NewRun
		about string
		lines []string
	}{
		"no workflow": {jobs.NewRun{Ref: "none"}, "failure|refs/heads/none|" + none,
			[]string{"failure" + blank + "the commit has no workflow: there is no *.yml or *.yaml file in .ci/workflows or .github/workflows"}},
		"none for the event": {jobs.NewRun{Ref: "pull"}, "skipped|refs/heads/pull|" + pull,
			[]string{"skipped" + blank + "none of the 1 workflow files wants to run on this event: manual of refs/heads/pull"}},
		"only mistakes": {jobs.NewRun{Ref: "bad"}, "failure|refs/heads/bad|" + bad,
			[]string{
				`failure|.ci/workflows/a.yml|.ci/workflows/a.yml||0|{}|f|00:10:00|.ci/workflows/a.yml:1:1: "jobs" section is missing in workflow`,
				`failure|.ci/workflows/b.yml|.ci/workflows/b.yml||0|{}|f|00:10:00|.ci/workflows/b.yml:1:1: is a symbolic link; a workflow must be a file`,
			}},
		"a folder that is a link": {jobs.NewRun{Ref: "link"}, "failure|refs/heads/link|" + link,
			[]string{"failure" + blank + ".github/workflows is a symbolic link, not a folder: no workflow can be read there"}},
		"no such branch": {jobs.NewRun{Ref: "nope"}, "failure|nope|-",
			[]string{"failure" + blank + `the repository has no branch or tag "nope"`}},
		"no such commit": {jobs.NewRun{HeadSHA: strings.Repeat("12", 20)}, "failure|-|" + strings.Repeat("12", 20),
			[]string{"failure" + blank + "the commit does not exist in the repository"}},
		"no such repository": {jobs.NewRun{Repository: "file:///nowhere/cat"}, "failure|-|-",
			[]string{"failure" + blank + "there is no such repository"}},
	} {
		t.Run(name, func(t *testing.T) {
			row.run.Event, row.run.Trusted = "manual", true
			if row.run.Repository == "" {
				row.run.Repository = r.URL
			}
			check(t, database, enqueue(t, database, row.run), row.about, row.lines...)
		})
	}
}

func TestFiltersOfPathsCompareWithTheBase(t *testing.T) {
	t.Parallel()
	database, _ := start(t)
	r := gittest.New(t)
	files := map[string]gittest.Node{
		".ci/workflows/docs.yml": gittest.File("on: {push: {paths: ['docs/**']}}\njobs: {docs: {runs-on: linux, steps: [{run: x}]}}\n"),
		".ci/workflows/go.yml":   gittest.File("on: {push: {paths: ['**.go']}}\njobs: {go: {runs-on: linux, steps: [{run: x}]}}\n"),
	}
	base := r.Commit("main", files)
	files["docs/a.md"] = gittest.File("x")
	sha := r.Commit("main", files)
	docs := "initialized|.ci/workflows/docs.yml / docs|.ci/workflows/docs.yml|docs|0|{}|f|06:10:00|"
	golang := "initialized|.ci/workflows/go.yml / go|.ci/workflows/go.yml|go|0|{}|f|06:10:00|"
	for name, row := range map[string]struct {
		base  string
		lines []string
	}{
		"one changed":         {base, []string{docs}},
		"nothing to compare":  {"", []string{docs, golang}},
		"a base that is gone": {strings.Repeat("12", 20), []string{docs, golang}},
	} {
		t.Run(name, func(t *testing.T) {
			run := enqueue(t, database, jobs.NewRun{Repository: r.URL, Event: "push", Ref: "refs/heads/main", HeadSHA: sha, BaseSHA: row.base, Trusted: true})
			check(t, database, run, "running|refs/heads/main|"+sha, row.lines...)
		})
	}
}

func TestFiltersOfBranchesLookAtWhereAPullRequestWantsToGo(t *testing.T) {
	t.Parallel()
	database, _ := start(t)
	r := gittest.New(t)
	sha := r.Commit("main", map[string]gittest.Node{
		".ci/workflows/main.yml":    gittest.File("on: {pull_request: {branches: [main]}}\njobs: {a: {runs-on: linux, steps: [{run: x}]}}\n"),
		".ci/workflows/release.yml": gittest.File("on: {pull_request: {branches: ['release/**']}}\njobs: {b: {runs-on: linux, steps: [{run: x}]}}\n"),
	})
	for base, line := range map[string]string{
		"refs/heads/main":        "initialized|.ci/workflows/main.yml / a|.ci/workflows/main.yml|a|0|{}|f|06:10:00|",
		"refs/heads/release/1.0": "initialized|.ci/workflows/release.yml / b|.ci/workflows/release.yml|b|0|{}|f|06:10:00|",
	} {
		run := enqueue(t, database, jobs.NewRun{
			Repository: r.URL, Event: "pull_request", Ref: "refs/pull/7/head", HeadSHA: sha, BaseRef: base, PullRequest: 7, Trusted: true,
		})
		check(t, database, run, "running|refs/pull/7/head|"+sha, line)
	}
}

func TestJobsOfALimitedRepositoryAreAdmitted(t *testing.T) {
	t.Parallel()
	database, _ := start(t)
	r := gittest.New(t)
	r.Commit("main", map[string]gittest.Node{".ci/workflows/ci.yml": gittest.File("on: push\njobs: {a: {runs-on: linux, strategy: {matrix: {x: [1, 2, 3]}}, steps: [{run: x}]}}\n")})
	database.Exec(t, "INSERT INTO ci_repositories (repository, max_running) VALUES ($1, 2)", r.URL)
	run := enqueue(t, database, jobs.NewRun{Repository: r.URL, Event: "manual", Trusted: true})
	answered(t, database, run)
	if got := jobstest.Value[string](t, database, "SELECT string_agg(status::text, ' ' ORDER BY id) FROM ci_jobs WHERE run_id = $1", run); got != "initialized initialized blocked" {
		t.Errorf("jobs are %s, want two admitted and one to wait", got)
	}
}

func TestAFailureOfTheWayThereIsTriedAgain(t *testing.T) {
	t.Parallel()
	database, _ := start(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := fmt.Sprintf("https://%s/octo/cat", listener.Addr())
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	run := enqueue(t, database, jobs.NewRun{Repository: url, Event: "manual", Trusted: true})
	about, lines := answered(t, database, run)
	if !strings.HasPrefix(about, "new|") || !strings.HasPrefix(lines[0], "blocked|initialize|") || !strings.Contains(lines[0], "connect") {
		t.Errorf("got %q %q, want a job that waits for its next try and says why", about, lines)
	}
	if got := jobstest.Value[string](t, database, "SELECT failures || ' ' || admit_to || ' ' || (not_before > now()) FROM ci_jobs WHERE run_id = $1", run); got != "1 new true" {
		t.Errorf("failures, way back and backoff: %s", got)
	}
}

func TestCancelEndsAFetchThatHangs(t *testing.T) {
	t.Parallel()
	database, _ := start(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		buffer := make([]byte, 1<<10)
		for err == nil { // never an answer; until git is dead
			_, err = conn.Read(buffer)
		}
		_ = conn.Close()
	}()
	t.Cleanup(func() { _ = listener.Close() })
	run := enqueue(t, database, jobs.NewRun{Repository: fmt.Sprintf("https://%s/octo/cat", listener.Addr()), Event: "manual", Trusted: true})
	database.Await(t, soon, "SELECT bool_and(status = 'initializing') FROM ci_jobs WHERE run_id = $1", run)
	if err := database.Open(t, "api-gateway").Cancel(t.Context(), run, ""); err != nil {
		t.Fatal(err)
	}
	check(t, database, run, "cancelled|-|-", "cancelled|initialize|||0|{}|f|00:15:00|cancelled on request")
	_ = listener.Close() // should git not have come so far
	select {
	case <-gone:
	case <-time.After(soon):
		t.Error("git still waits for the server")
	}
}
