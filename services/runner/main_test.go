package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/joblog"
	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
	"github.com/lockstep-ci/lockstep/pkg/jobs/source"
	"github.com/lockstep-ci/lockstep/pkg/jobs/spec"
	"github.com/lockstep-ci/lockstep/services/runner/internal/supervise"
)

// The runner as an operator and a user see it: the process, its settings, its signals, and what it writes under its own
// role. How steps run is tested in internal/.

const (
	repository = "https://github.com/acme/widgets"
	soon       = 30 * time.Second // far above what anything here takes; reached only by a test that fails
)

// TestMain lets the test binary be the runner and its supervisors too, so that they are built as the test is.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 1 && os.Args[1] == "supervise":
		syscall.Exit(supervise.Main(os.Args[2:])) // os.Exit takes a second under the race detector
	case os.Getenv("TEST_RUNNER") != "":
		main()
		syscall.Exit(0)
	}
	os.Exit(m.Run())
}

// bench is a database and a folder for runners.
type bench struct {
	t   *testing.T
	db  *jobstest.Database
	dir string // open to the jobs' users, as t.TempDir is not
}

func newBench(t *testing.T) *bench {
	t.Helper()
	t.Parallel()
	b := &bench{t: t, db: jobstest.New(t)}
	var err error
	if b.dir, err = os.MkdirTemp("", "runner"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(b.dir) })
	if err := os.Chmod(b.dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) work() string { return filepath.Join(b.dir, "work") }

// runner is a process that runs jobs.
type runner struct {
	*os.Process
	t     *testing.T
	said  output
	ended chan struct{}
	err   error // how, once it has ended
}

// output is what a process says.
type output struct {
	mu   sync.Mutex
	text []byte
	more chan struct{} // closed and made anew when there is more
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text = append(o.text, p...)
	close(o.more)
	o.more = make(chan struct{})
	return len(p), nil
}

// await waits until a text has been said.
func (o *output) await(t *testing.T, text string) {
	t.Helper()
	bound := time.After(soon)
	for {
		o.mu.Lock()
		found, more := bytes.Contains(o.text, []byte(text)), o.more
		o.mu.Unlock()
		if found {
			return
		}
		select {
		case <-more:
		case <-bound:
			t.Fatalf("the runner does not say %q", text)
		}
	}
}

// start starts a runner that knows a secret. It is stopped when the test ends.
func (b *bench) start(env ...string) *runner {
	b.t.Helper()
	r := &runner{t: b.t, ended: make(chan struct{}), said: output{more: make(chan struct{})}}
	command := exec.Command("/proc/self/exe")
	command.Env = append([]string{
		"TEST_RUNNER=1", "GORACE=atexit_sleep_ms=0", "PATH=" + os.Getenv("PATH"), "SECRET=canary",
		"DATABASE_URL=" + b.db.As("runner"), "EXECUTOR_UNSANDBOXED=true", "WORK_DIR=" + b.work(), "STEP_UID=64700", "POLL=200ms", "GRACE=1s",
	}, env...)
	command.Stdout, command.Stderr = &r.said, &r.said
	if err := command.Start(); err != nil {
		b.t.Fatal(err)
	}
	r.Process = command.Process
	go func() { defer close(r.ended); r.err = command.Wait() }()
	b.t.Cleanup(func() {
		_ = r.Signal(syscall.SIGCONT)
		_ = r.Signal(syscall.SIGTERM)
		select {
		case <-r.ended:
		case <-time.After(soon):
			b.t.Error("a runner does not end")
			_ = r.Kill()
			<-r.ended
		}
		if b.t.Failed() {
			b.t.Logf("a runner said:\n%s", r.said.text)
		}
	})
	return r
}

// end waits for the process's end.
func (r *runner) end() error {
	r.t.Helper()
	select {
	case <-r.ended:
		return r.err
	case <-time.After(soon):
		r.t.Fatal("the runner does not end")
		return nil
	}
}

// reap runs a reaper until the test ends.
func (b *bench) reap() {
	b.t.Helper()
	db := b.db.Open(b.t, "reaper")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- db.Reap(ctx, jobs.Reaping{Every: 50 * time.Millisecond, UnownedAfter: time.Hour, MaxFailures: 3})
	}()
	b.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Errorf("reap: %v", err)
		}
	})
}

// plan makes a job of scripts that a runner may claim.
func (b *bench) plan(scripts ...string) (job int64) {
	b.t.Helper()
	return b.planAs("initialized", scripts...)
}

func (b *bench) planAs(status string, scripts ...string) (job int64) {
	b.t.Helper()
	s := spec.Spec{SHA: strings.Repeat("a", 40), RunsOn: []string{"linux"}, TimeoutMinutes: 10, Env: map[string]string{"DIR": b.dir}}
	for i, script := range scripts {
		s.Steps = append(s.Steps, spec.Step{Number: i + 1, Name: fmt.Sprintf("step%d", i+1), Run: script})
	}
	var err error
	s.SourceID, err = source.Store(b.t.Context(), b.db.Pool, repository, hex.EncodeToString(make([]byte, 20)), func(w io.Writer) error {
		files := tar.NewWriter(w)
		for name, content := range map[string]string{"greeting": "hello from the tree\n", "folder/file": ""} {
			if err := files.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
				return err
			}
			if _, err := io.WriteString(files, content); err != nil {
				return err
			}
		}
		return files.Close()
	})
	if err != nil {
		b.t.Fatal(err)
	}
	text, err := spec.Encode(s)
	if err != nil {
		b.t.Fatal(err)
	}
	return jobstest.Value[int64](b.t, b.db, `
		WITH run AS (
			INSERT INTO ci_runs (repository, event, ref, head_sha, author) VALUES ($1, 'push', 'refs/heads/main', $2, 'jane') RETURNING id, repository
		), job AS (
			INSERT INTO ci_jobs (run_id, repository, status, name, job_key) SELECT id, repository, $4::ci_job_status, 'ci / test', 'test' FROM run RETURNING id
		)
		INSERT INTO ci_job_specs (job_id, spec) SELECT id, $3 FROM job RETURNING job_id`, repository, s.SHA, string(text), status)
}

func (b *bench) await(job int64, status string) {
	b.t.Helper()
	b.db.Await(b.t, soon, "SELECT status = $2::ci_job_status FROM ci_jobs WHERE id = $1", job, status)
}

// steps is the states of an attempt's steps.
func (b *bench) steps(job int64, attempt int) string {
	b.t.Helper()
	return jobstest.Value[string](b.t, b.db, `
		SELECT coalesce(string_agg(status || coalesce('(' || exit_code || ')', ''), ' ' ORDER BY number), '') FROM ci_steps WHERE job_id = $1 AND attempt = $2`, job, attempt)
}

func (b *bench) attempt(job int64) int {
	b.t.Helper()
	return jobstest.Value[int](b.t, b.db, "SELECT attempt FROM ci_jobs WHERE id = $1", job)
}

// log is an attempt's, without the first line, which names machine and ids.
func (b *bench) log(job int64, attempt int) string {
	b.t.Helper()
	day := jobstest.Value[time.Time](b.t, b.db, "SELECT r.log_day FROM ci_runs r JOIN ci_jobs j ON j.run_id = r.id WHERE j.id = $1", job)
	reader := joblog.NewReader(b.db.Pool, day, job, attempt)
	var all []byte
	for {
		p, next, err := reader.ReadFrom(b.t.Context(), int64(len(all)), 1<<20)
		if err != nil {
			b.t.Fatal(err)
		}
		if next == int64(len(all)) {
			break
		}
		all = append(all, p...)
	}
	first, rest, _ := strings.Cut(string(all), "\n")
	if want := fmt.Sprintf("lockstep: job %d of run ", job); !strings.HasPrefix(first, want) && first != "" {
		b.t.Errorf("the log begins with %q", first)
	}
	return rest
}

// pipe makes a named pipe that steps can use, as $DIR/<name>.
func (b *bench) pipe(name string) string {
	b.t.Helper()
	path := filepath.Join(b.dir, name)
	if err := errors.Join(syscall.Mkfifo(path, 0o666), os.Chmod(path, 0o666)); err != nil { // umask
		b.t.Fatal(err)
	}
	return path
}

// pulse is a named pipe that processes hold open while they live.
type pulse struct {
	t      *testing.T
	r, own *os.File
}

func (b *bench) pulse() *pulse {
	b.t.Helper()
	path := b.pipe("pulse")
	r, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { r.Close() })
	own, err := os.OpenFile(path, os.O_WRONLY, 0) // without a writer there is an end at once
	if err != nil {
		b.t.Fatal(err)
	}
	if err := r.SetReadDeadline(time.Now().Add(2 * soon)); err != nil {
		b.t.Fatal(err)
	}
	return &pulse{b.t, r, own}
}

// beats waits until n processes have said that they live.
func (p *pulse) beats(n int) {
	p.t.Helper()
	if _, err := io.ReadFull(p.r, make([]byte, 3*n)); err != nil {
		p.t.Fatalf("wait for the step: %v", err)
	}
	p.own.Close()
}

// stops waits until none of them lives.
func (p *pulse) stops() {
	p.t.Helper()
	if _, err := io.Copy(io.Discard, p.r); err != nil {
		p.t.Fatalf("some process of the step lives: %v", err)
	}
}

// stubborn is a step that never ends, nor does the daemon it leaves, which forks twice and ignores SIGTERM. Where a file
// says that this was so before, it ends well.
const stubborn = `
	if [ -e "$DIR/before" ]; then echo second try; exit 0; fi
	touch "$DIR/before"
	echo first try
	(trap "" TERM HUP INT; setsid sh -c '(exec 3>"$DIR/pulse"; echo up >&3; while :; do sleep 1000; done) &' </dev/null >/dev/null 2>&1 &)
	exec 3>"$DIR/pulse"; echo up >&3; while :; do sleep 1000; done`

func TestAWrongSettingEndsItWithOneLineThatNamesIt(t *testing.T) {
	t.Parallel()
	closed := t.TempDir() // to be shared with nobody
	if err := os.Chmod(closed, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct{ env, want string }{
		{"DATABASE_URL=", "DATABASE_URL is empty"},
		{"DATABASE_URL=postgres://somebody:hunter2@[::1/none", "DATABASE_URL: "},
		{"EXECUTOR_UNSANDBOXED=", "EXECUTOR_UNSANDBOXED: "},
		{"EXECUTOR_UNSANDBOXED=false", "EXECUTOR_UNSANDBOXED: this release runs steps without a sandbox"},
		{"EXECUTOR_UNSANDBOXED=perhaps", "EXECUTOR_UNSANDBOXED: "},
		{"TAKES=Nonsense", "TAKES: "},
		{"TAKES=running", "TAKES: "},
		{"CONCURRENCY=0", "CONCURRENCY: "},
		{"LEASE=1s", "LEASE: "},
		{"STEP_UID=0", "STEP_UID: "},
		{"CANCEL_GRACE=-1s", "CANCEL_GRACE: "},
		{"LOG_LIMIT=10", "LOG_LIMIT: "},
		{"PASS_ENV=GOPROXY,DATABASE_URL", "PASS_ENV: DATABASE_URL holds a password"},
		{"PASS_ENV=A=B", "PASS_ENV: "},
		{"WORK_DIR=" + closed, "WORK_DIR: "},
	} {
		command := exec.CommandContext(t.Context(), "/proc/self/exe")
		command.Env = []string{"TEST_RUNNER=1", "GORACE=atexit_sleep_ms=0", "DATABASE_URL=postgres://somebody:hunter2@127.0.0.1:1/none", "EXECUTOR_UNSANDBOXED=true", "WORK_DIR=" + filepath.Join(closed, "work"), row.env}
		if os.Geteuid() == 0 {
			command.Env = append(command.Env[:4:4], "WORK_DIR=/tmp/lockstep-runner-test", row.env)
		}
		out, err := command.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 {
			t.Errorf("%s: it ended with %v, want exit status 1", row.env, err)
		}
		if line, rest, _ := strings.Cut(string(out), "\n"); !strings.HasPrefix(line, "runner: ") || !strings.Contains(line, row.want) || rest != "" || strings.Contains(line, "hunter2") {
			t.Errorf("%s: it said %q, want one line with %q", row.env, out, row.want)
		}
	}
}

func TestAJobsStepsAndLogCanBeFollowed(t *testing.T) {
	b := newBench(t)
	gate := b.pipe("gate")
	job := b.plan("cat greeting; ls -A", `echo waiting; read x <"$DIR/gate"; echo "got $x"`, "echo done")
	b.start()
	b.await(job, "running")
	attempt := b.attempt(job)
	b.db.Await(t, soon, "SELECT EXISTS (SELECT FROM ci_steps WHERE job_id = $1 AND attempt = $2 AND number = 2 AND status = 'running')", job, attempt)
	b.db.Await(t, soon, "SELECT coalesce(sum(line_count), 0) = 7 FROM ci_logs WHERE job_id = $1", job)
	if got := b.steps(job, attempt); got != "success(0) running pending" {
		t.Errorf("half-way the steps are %s", got)
	}
	if err := os.WriteFile(gate, []byte("hello\n"), 0); err != nil {
		t.Fatal(err)
	}
	b.await(job, "success")
	if got := b.steps(job, attempt); got != "success(0) success(0) success(0)" {
		t.Errorf("in the end the steps are %s", got)
	}
	want := "lockstep: step 1: step1\nhello from the tree\nfolder\ngreeting\nlockstep: step 2: step2\nwaiting\ngot hello\nlockstep: step 3: step3\ndone\n"
	if diff := cmp.Diff(want, b.log(job, attempt)); diff != "" {
		t.Error(diff)
	}
	ordered := jobstest.Value[bool](t, b.db, `
		SELECT bool_and(started_at <= finished_at AND started_at BETWEEN now() - interval '1 minute' AND now() AND log_offset IS NOT NULL) FROM ci_steps WHERE job_id = $1`, job)
	if !ordered {
		t.Error("the steps' times or offsets are not right")
	}
}

func TestAFailingJobSaysWhy(t *testing.T) {
	b := newBench(t)
	job := b.plan("true", "echo no good; exit 3", "echo never")
	b.start()
	b.await(job, "failure")
	if got := b.steps(job, b.attempt(job)); got != "success(0) failure(3) skipped" {
		t.Errorf("the steps are %s", got)
	}
	if got := jobstest.Value[string](t, b.db, "SELECT reason FROM ci_jobs WHERE id = $1", job); got != "step 2 (step2): exit code 3" {
		t.Errorf("the reason is %q", got)
	}
	if log := b.log(job, b.attempt(job)); !strings.Contains(log, "no good\nlockstep: step 2 failed after ") || !strings.HasSuffix(log, ": exit code 3\n") {
		t.Errorf("the log is\n%s", log)
	}
}

func TestManyJobsShareFewSlots(t *testing.T) {
	b := newBench(t)
	const n = 12
	for i := range n {
		b.plan(fmt.Sprintf("head -c %d /dev/zero; mkdir -p x/y; chmod 0 x", 50_000*i))
	}
	b.start("CONCURRENCY=3", "LOG_LIMIT=200000")
	b.db.Await(t, 2*soon, "SELECT count(*) = $1 FROM ci_jobs WHERE status = 'success'", n)
	left, err := os.ReadDir(b.work())
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range left {
		if !strings.HasSuffix(entry.Name(), ".lock") {
			t.Errorf("left is %s", entry.Name())
		}
	}
	if len(left) > 6 { // a slot may look taken for a moment: a process that is just being started holds its lock too
		t.Errorf("%d slots for 3 jobs at once", len(left))
	}
}

func TestACancelledJobEnds(t *testing.T) {
	b := newBench(t)
	pulse := b.pulse()
	job := b.plan(stubborn, "echo never")
	b.start("CANCEL_GRACE=200ms")
	pulse.beats(2)
	gateway := b.db.Open(t, "api-gateway")
	if err := gateway.Cancel(t.Context(), jobstest.Value[int64](t, b.db, "SELECT run_id FROM ci_jobs WHERE id = $1", job), ""); err != nil {
		t.Fatal(err)
	}
	b.await(job, "cancelled")
	pulse.stops()
	if got := b.steps(job, b.attempt(job)); got != "cancelled(143) skipped" { // its daemon ignores SIGTERM, not itself
		t.Errorf("the steps are %s", got)
	}
	if log := b.log(job, b.attempt(job)); !strings.Contains(log, "lockstep: ending step 1: the job was cancelled\n") {
		t.Errorf("the log is\n%s", log)
	}
}

func TestAKilledRunnersJobGoesOnElsewhereAndNothingOfItsStepLives(t *testing.T) {
	b := newBench(t)
	b.reap()
	pulse := b.pulse()
	job := b.plan(stubborn)
	times := []string{"LEASE=3s", "BEAT=1s"}
	killed := b.start(times...)
	pulse.beats(2)
	attempt := b.attempt(job)
	if err := killed.Kill(); err != nil {
		t.Fatal(err)
	}
	b.start(times...)
	pulse.stops()
	b.await(job, "success")
	if got := b.attempt(job); got != attempt+1 {
		t.Errorf("attempt %d ended well, want %d", got, attempt+1)
	}
	if log := b.log(job, attempt+1); !strings.Contains(log, "second try\n") {
		t.Errorf("the log is\n%s", log)
	}
}

func TestAStoppedRunnerWritesNothingMore(t *testing.T) {
	b := newBench(t)
	b.reap()
	pulse := b.pulse()
	job := b.plan(stubborn)
	times := []string{"LEASE=3s", "BEAT=1s"}
	stopped := b.start(times...)
	pulse.beats(2)
	attempt := b.attempt(job)
	b.db.Await(t, soon, "SELECT EXISTS (SELECT FROM ci_steps WHERE job_id = $1 AND status = 'running')", job)
	if err := stopped.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	other := b.start(times...)
	b.await(job, "success")
	pulse.stops() // two leases after it was stopped
	rows := func() string {
		return jobstest.Value[string](t, b.db, `
			SELECT (SELECT string_agg(s::text, E'\n' ORDER BY s) FROM ci_steps s) || (SELECT string_agg(l::text, E'\n' ORDER BY l) FROM ci_logs l)
			    || (SELECT string_agg(j::text, E'\n') FROM ci_jobs j)`)
	}
	before := rows()
	if err := stopped.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	// It is back when it claims again; the other one may not.
	if err := other.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := other.end(); err != nil {
		t.Errorf("the other runner: %v", err)
	}
	b.db.Await(t, soon, "SELECT count(*) = 3 FROM ci_workers")
	if after := rows(); after != before {
		t.Errorf("a stopped runner wrote:\n%s", cmp.Diff(before, after))
	}
	if got := b.steps(job, attempt); got != "running" {
		t.Errorf("the lost attempt's steps are %s", got)
	}
	b.await(b.plan("echo next"), "success")
}

func TestAStepGoesOnWhileTheDatabaseIsAway(t *testing.T) {
	b := newBench(t)
	gate := b.pipe("gate")
	pulse := b.pulse()
	job := b.plan(`exec 3>"$DIR/pulse"; echo up >&3; read x <"$DIR/gate"; echo "got $x"; head -c 300000 /dev/zero`, "echo second")
	r := b.start()
	pulse.beats(1)
	name := jobstest.Value[string](t, b.db, "SELECT current_database()::text")
	b.db.Exec(t, "REVOKE CONNECT ON DATABASE "+name+" FROM PUBLIC")
	b.db.Exec(t, "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'lockstep_runner'")
	if err := os.WriteFile(gate, []byte("hello\n"), 0); err != nil {
		t.Fatal(err)
	}
	pulse.stops() // the step has ended, with nobody to tell
	r.said.await(t, "could not store the log")
	r.said.await(t, "could not write the steps")
	b.db.Exec(t, "GRANT CONNECT ON DATABASE "+name+" TO PUBLIC")
	b.await(job, "success")
	if got := b.steps(job, b.attempt(job)); got != "success(0) success(0)" {
		t.Errorf("the steps are %s", got)
	}
	want := "lockstep: step 1: step1\ngot hello\n" + strings.Repeat("\x00", 300000) + "\nlockstep: step 2: step2\nsecond\n"
	if log := b.log(job, b.attempt(job)); log != want {
		t.Errorf("the log has %d bytes, want %d", len(log), len(want))
	}
}

func TestARunnerThatIsToldToStopGivesItsJobBack(t *testing.T) {
	b := newBench(t)
	pulse := b.pulse()
	job := b.plan(stubborn)
	r := b.start("GRACE=100ms")
	pulse.beats(2)
	if err := r.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := r.end(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	pulse.stops()
	state := jobstest.Value[string](t, b.db, "SELECT status || ' ' || failures FROM ci_jobs WHERE id = $1", job)
	if state != "initialized 0" {
		t.Errorf("the job is %s", state)
	}
}

func TestAStepFindsNothingOfTheRunners(t *testing.T) {
	b := newBench(t)
	// The patterns do not match themselves: the script is no find.
	job := b.plan(`
		set +e
		grep -aoE 'canar[y]|postgres:/[/]|lockstep-tes[t]' /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null
		parent=$PPID
		while [ "$parent" -gt 0 ]; do
			cat /proc/$parent/environ /proc/$parent/maps && echo "process $parent can be read"
			ls -l /proc/$parent/fd/ 2>/dev/null | grep -c . | grep -v '^[01]$'
			parent=$(awk '/^PPid:/ {print $2}' /proc/$parent/status)
		done 2>/dev/null
		grep -rlE 'canar[y]|postgres:/[/]' "$HOME" "$TMPDIR" .. 2>/dev/null
		echo "looked"
	`)
	b.start()
	b.await(job, "success")
	if log := b.log(job, b.attempt(job)); log != "lockstep: step 1: step1\nlooked\n" {
		t.Errorf("the log is\n%s", log)
	}
}

func TestWhatCannotBeRunIsAnInfrastructureFailure(t *testing.T) {
	b := newBench(t)
	none := b.plan("true")
	b.db.Exec(t, "DELETE FROM ci_job_specs")
	lost := b.plan("true")
	b.db.Exec(t, "DELETE FROM ci_sources")
	b.start()
	for job, want := range map[int64]string{none: "read spec of job", lost: "unpack source"} {
		b.db.Await(t, soon, "SELECT status = 'blocked' AND failures = 1 FROM ci_jobs WHERE id = $1", job)
		if reason := jobstest.Value[string](t, b.db, "SELECT reason FROM ci_jobs WHERE id = $1", job); !strings.Contains(reason, want) {
			t.Errorf("the reason is %q, want %q", reason, want)
		}
	}
}

func TestItTakesFromTheStateItIsTold(t *testing.T) {
	b := newBench(t)
	// As the migration of a stage between initializer and runner would do.
	b.db.Exec(t, "INSERT INTO ci_transitions (from_status, to_status, role) VALUES ('new', 'running', 'lockstep_runner')")
	job, other := b.planAs("new", "true"), b.plan("true")
	b.start("TAKES=new")
	b.await(job, "success")
	if status := jobstest.Value[string](t, b.db, "SELECT status::text FROM ci_jobs WHERE id = $1", other); status != "initialized" {
		t.Errorf("a job that is not for it is %s", status)
	}
}
