package main_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
	"github.com/lockstep-ci/lockstep/services/initializer/internal/git/gittest"
)

// The initializer as an operator sees it: the binary, its settings, its signals, and what it can do under its own role.

const soon = 20 * time.Second // far above what anything here takes; reached only by a test that fails

var binary string

func TestMain(m *testing.M) { os.Exit(jobstest.RunWithBinary(m, "initializer", &binary)) }

func TestAWrongSettingEndsItWithOneLineThatNamesIt(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ setting, want string }{
		"no database":           {"DATABASE_URL=", "DATABASE_URL is empty"},
		"no slots":              {"CONCURRENCY=0", "CONCURRENCY: 0 is not between"},
		"a short lease":         {"LEASE=5s", "LEASE: 5s is less than three times BEAT"},
		"nothing to take":       {"TAKES=", `TAKES: "" is not a state`},
		"no state to take":      {"TAKES=x; DROP TABLE y", "TAKES: "},
		"no labels":             {"RUNNER_LABELS=", "RUNNER_LABELS is empty"},
		"an empty label":        {"RUNNER_LABELS=a,,b", `RUNNER_LABELS: "" is not a label`},
		"a label with a space":  {"RUNNER_LABELS=a, b", `RUNNER_LABELS: " b" is not a label`},
		"neither yes nor no":    {"ALLOW_FILE_URLS=perhaps", "ALLOW_FILE_URLS: "},
		"no target":             {"GIT_INSTEAD_OF=https://github.com/", "GIT_INSTEAD_OF: it is not of the form"},
		"an odd target":         {"GIT_INSTEAD_OF=https://github.com/=ext::sh", "GIT_INSTEAD_OF: it is not of the form"},
		"a relative target":     {"GIT_INSTEAD_OF=https://github.com/=file://repositories", "GIT_INSTEAD_OF: it is not of the form"},
		"a login in the target": {"GIT_INSTEAD_OF=https://github.com/=https://u:hunter2@b/", "GIT_INSTEAD_OF: it is not of the form"},
		"a token with a line":   {"GIT_TOKEN=hunter2\n", "GIT_TOKEN: it holds a character that no token has"},
		"a URL for a host":      {"GIT_TOKEN_HOST=https://github.com", "GIT_TOKEN_HOST: "},
		"no time":               {"GIT_TIMEOUT=0", "GIT_TIMEOUT: 0s is less than 1s"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			jobstest.Refuses(t, binary, []string{"PATH=" + os.Getenv("PATH"), "DATABASE_URL=postgres://somebody:" + jobstest.Secret + "@127.0.0.1:1/none", test.setting}, test.want)
		})
	}
}

func TestItInitializesUntilSIGTERMAndLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	database := jobstest.New(t)
	r := gittest.New(t)
	sha := r.Commit("main", map[string]gittest.Node{
		".ci/workflows/ci.yml": gittest.File("on: push\njobs: {a: {runs-on: gpu, steps: [{run: x}]}}\n"),
	})
	temporary := t.TempDir()
	command := exec.CommandContext(t.Context(), binary)
	command.Env = []string{
		"PATH=" + os.Getenv("PATH"), "TMPDIR=" + temporary, "DATABASE_URL=" + database.As("initializer"),
		"GIT_INSTEAD_OF=https://github.com/=file://" + filepath.Dir(filepath.Dir(r.Folder)) + "/", "RUNNER_LABELS=gpu",
	}
	var out bytes.Buffer
	command.Stdout, command.Stderr = &out, &out
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if t.Failed() {
			t.Logf("initializer said:\n%s", out.String())
		}
	}()
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()

	run := jobstest.Value[int64](t, database, "INSERT INTO ci_jobs (repository, status) VALUES ('https://github.com/octo/cat', 'new') RETURNING run_id")
	database.Await(t, soon, "SELECT bool_and(status = 'initialized' AND name = '.ci/workflows/ci.yml / a') FROM ci_jobs WHERE run_id = $1", run)
	if got := jobstest.Value[string](t, database, "SELECT head_sha FROM ci_runs WHERE id = $1", run); got != sha {
		t.Errorf("the run's commit is %s, want %s", got, sha)
	}
	refused := jobstest.Value[int64](t, database, "INSERT INTO ci_jobs (repository, status) VALUES ($1, 'new') RETURNING run_id", r.URL)
	database.Await(t, soon, "SELECT bool_and(status = 'failure' AND reason LIKE '%ALLOW_FILE_URLS%') FROM ci_jobs WHERE run_id = $1", refused)
	if !jobstest.Value[bool](t, database, "SELECT count(*) > 0 AND bool_and(usename = 'lockstep_initializer') FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'initializer'") {
		t.Error("it is not connected under its own role and name")
	}

	if err := command.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(soon):
		t.Fatalf("it did not end within %s of SIGTERM", soon)
	}
	if left, err := os.ReadDir(temporary); err != nil || len(left) > 0 {
		t.Errorf("it left %v, %v", left, err)
	}
}
