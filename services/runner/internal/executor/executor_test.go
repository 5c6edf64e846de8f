package executor_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/spec"
	"github.com/lockstep-ci/lockstep/services/runner/internal/executor"
	"github.com/lockstep-ci/lockstep/services/runner/internal/process"
	"github.com/lockstep-ci/lockstep/services/runner/internal/supervise"
)

const patience = 30 * time.Second

// hide makes this process unreadable for its children, as service.Main does for the runner.
var hide = func() {}

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "supervise" {
		syscall.Exit(supervise.Main(os.Args[2:])) // os.Exit takes a second under the race detector
	}
	hide()
	os.Exit(m.Run())
}

// sha is the commit of all jobs here.
const sha = "0123456789abcdef0123456789abcdef01234567"

// bench is a box and all that a job leaves behind.
type bench struct {
	t         *testing.T
	box       *process.Box
	console   *executor.Console
	inherited map[string]string
	grace     time.Duration

	mu      sync.Mutex
	log     bytes.Buffer
	said    chan struct{} // size 1: something was written
	reports [][]executor.Step
}

func newBench(t *testing.T) *bench {
	t.Helper()
	dir, err := os.MkdirTemp("", "executor")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // t.TempDir lets no other user pass
		t.Fatal(err)
	}
	e, err := process.New(process.Options{Dir: filepath.Join(dir, "jobs"), FirstUID: 64500, Silence: patience})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, inherited: executor.Inherited(nil), grace: time.Second, said: make(chan struct{}, 1)}
	b.console = executor.NewConsole(b, func(err error) { t.Error(err) })
	if b.box, err = e.Open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.box.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(b.box.Work); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the work tree is still there: %v", err)
		}
	})
	if err := b.box.Supervise(b.console.Output); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case b.said <- struct{}{}:
	default:
	}
	return b.log.Write(p)
}

func (b *bench) Offset() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return int64(b.log.Len())
}

func (b *bench) text() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.log.String()
}

// await waits until a text is in the log.
func (b *bench) await(text string) {
	b.t.Helper()
	bound := time.After(patience)
	for !strings.Contains(b.text(), text) {
		select {
		case <-b.said:
		case <-bound:
			b.t.Fatalf("%q does not come; the log is\n%s", text, b.text())
		}
	}
}

// file puts a file into the work tree.
func (b *bench) file(name, content string) {
	b.t.Helper()
	path := filepath.Join(b.box.Work, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func job() *jobs.Job {
	return &jobs.Job{
		ID: 12, RunID: 11, Attempt: 1, Repository: "https://github.com/acme/widgets", Name: "ci / test",
		Event: "push", Ref: "refs/heads/main", Author: "jane", Trusted: true,
	}
}

// run runs steps, and returns how the job and each step ended.
func (b *bench) run(ctx context.Context, s spec.Spec) (executor.Result, []executor.Step, error) {
	b.t.Helper()
	s.SHA = sha
	if s.TimeoutMinutes == 0 {
		s.TimeoutMinutes = 10
	}
	for i := range s.Steps {
		s.Steps[i].Number = i + 1
		if s.Steps[i].Name == "" {
			s.Steps[i].Name = fmt.Sprintf("step%d", i+1)
		}
	}
	if err := b.box.HandOver(); err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	result, err := executor.Run(ctx, executor.Job{
		Job: job(), Spec: s, Box: b.box, Console: b.console, Inherited: b.inherited, CancelGrace: b.grace,
		Report: func(steps []executor.Step) { b.reports = append(b.reports, steps) },
	})
	return result, b.reports[len(b.reports)-1], err
}

// scripts are steps of their own.
func scripts(texts ...string) spec.Spec {
	var s spec.Spec
	for _, text := range texts {
		s.Steps = append(s.Steps, spec.Step{Run: text})
	}
	return s
}

func statuses(steps []executor.Step) string {
	var words []string
	for _, s := range steps {
		word := string(s.Status)
		if s.ExitCode != nil {
			word += fmt.Sprintf("(%d)", *s.ExitCode)
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

func TestAJobOfScriptsAndActionsSucceeds(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.file("greeting", "hello from the tree\n")
	s := scripts("", "cat greeting; printf unfinished", "echo third")
	s.Steps[0] = spec.Step{Uses: spec.Checkout}
	before := time.Now()
	result, steps, err := b.run(t.Context(), s)
	if err != nil || result != (executor.Result{Status: jobs.StatusSuccess}) {
		t.Fatalf("got %+v, %v\n%s", result, err, b.text())
	}
	if got := statuses(steps); got != "success success(0) success(0)" {
		t.Errorf("steps: %s", got)
	}
	want := `lockstep: step 1: step1
lockstep: the source of ` + sha + ` is in ` + b.box.Work + `
lockstep: step 2: step2
hello from the tree
unfinished
lockstep: step 3: step3
third
`
	if diff := cmp.Diff(want, b.text()); diff != "" {
		t.Error(diff)
	}
	for i, step := range steps {
		if step.Started.Before(before) || step.Finished.Before(step.Started) {
			t.Errorf("step %d: from %s to %s", i+1, step.Started, step.Finished)
		}
		if head := fmt.Sprintf("lockstep: step %d", i+1); !strings.HasPrefix(b.text()[*step.LogOffset:], head) {
			t.Errorf("at the log offset of step %d is %q", i+1, b.text()[*step.LogOffset:])
		}
	}
	var seen []string
	for _, report := range b.reports {
		seen = append(seen, statuses(report))
	}
	if diff := cmp.Diff([]string{
		"pending pending pending", "running pending pending", "success pending pending",
		"success running pending", "success success(0) pending",
		"success success(0) running", "success success(0) success(0)", "success success(0) success(0)",
	}, seen); diff != "" {
		t.Errorf("reports: %s", diff)
	}
}

func TestAFailingStepEndsTheJob(t *testing.T) {
	t.Parallel()
	for script, want := range map[string]struct {
		code   int
		reason string
	}{
		"exit 1":                      {1, "exit code 1"},
		"false\necho goes on":         {1, "exit code 1"}, // -e
		"exit 137":                    {137, "exit code 137"},
		"kill -KILL $$":               {137, "ended by signal 9 (killed)"},
		"kill -SEGV $$":               {139, "ended by signal 11 (segmentation fault)"},
		"no-such-program":             {127, "exit code 127"},
		"cd /nowhere\necho goes on":   {1, "exit code 1"},
		"echo fine\n(exit 3)\necho x": {3, "exit code 3"},
	} {
		b := newBench(t)
		result, steps, err := b.run(t.Context(), scripts("true", script, "echo never"))
		if wanted := (executor.Result{Status: jobs.StatusFailure, Reason: "step 2 (step2): " + want.reason}); err != nil || result != wanted {
			t.Errorf("%s: got %+v, %v, want %+v", script, result, err, wanted)
		}
		if got, want := statuses(steps), fmt.Sprintf("success(0) failure(%d) skipped", want.code); got != want {
			t.Errorf("%s: steps %s, want %s", script, got, want)
		}
		if strings.Contains(b.text(), "goes on") || strings.Contains(b.text(), "never") {
			t.Errorf("%s: the log is\n%s", script, b.text())
		}
	}
}

func TestShellsAreGitHubs(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		shell, script, want string
		fails               bool
	}{
		{"", "false | true; echo $0 $-; [ -n \"$BASH\" ]", "hB", false},
		{"bash", "shopt -qo pipefail; echo ok", "ok", false},
		{"bash", "false | true\necho never", "", true},
		{"bash", "shopt -q login_shell || echo ok", "ok", false},
		{"sh", "[ -z \"$BASH_VERSION\" ] || [ \"$POSIXLY_CORRECT\" ]; echo ok", "ok", false},
		{"sh", "false\necho never", "", true},
	} {
		b := newBench(t)
		s := scripts(row.script)
		s.Steps[0].Shell = row.shell
		result, _, err := b.run(t.Context(), s)
		if err != nil || (result.Status == jobs.StatusFailure) != row.fails {
			t.Errorf("%s: %s: got %+v, %v\n%s", row.shell, row.script, result, err, b.text())
		}
		if !strings.Contains(b.text(), row.want) || strings.Contains(b.text(), "never") {
			t.Errorf("%s: %s: the log is\n%s", row.shell, row.script, b.text())
		}
	}
}

func TestWithoutBashAStepRunsWithShAndSaysSo(t *testing.T) {
	t.Parallel()
	bin := t.TempDir()
	for dir := bin; dir != "/"; dir = filepath.Dir(dir) { // the job's user must pass
		if os.Geteuid() == 0 && strings.HasPrefix(dir, filepath.Clean(os.TempDir())+"/") {
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.Symlink("/bin/sh", filepath.Join(bin, "sh")); err != nil {
		t.Fatal(err)
	}
	b := newBench(t)
	b.inherited = map[string]string{"PATH": bin}
	result, _, err := b.run(t.Context(), scripts("echo still"))
	if err != nil || result.Status != jobs.StatusSuccess || !strings.Contains(b.text(), "there is no bash") || !strings.Contains(b.text(), "still\n") {
		t.Errorf("got %+v, %v\n%s", result, err, b.text())
	}

	b = newBench(t)
	b.inherited = map[string]string{"PATH": bin}
	s := scripts("echo never")
	s.Steps[0].Shell = "bash" // asked for in as many words
	result, _, err = b.run(t.Context(), s)
	if err != nil || result.Status != jobs.StatusFailure || !strings.Contains(result.Reason, "start bash: no such file") {
		t.Errorf("got %+v, %v\n%s", result, err, b.text())
	}
}

func TestAStepSeesItsOwnEnvironmentOnly(t *testing.T) {
	t.Setenv("DATABASE_URL", "postgres://canary")
	t.Setenv("GITHUB_TOKEN", "canary")
	t.Setenv("GITHUB_ACTIONS", "canary")
	t.Setenv("LC_TIME", "C")
	t.Setenv("TZ", "UTC")
	t.Setenv("GOPROXY", "off")
	b := newBench(t)
	b.inherited = executor.Inherited([]string{"GOPROXY", "NOT_THERE"})
	s := scripts("env", "env | grep LAYER; grep -a canary /proc/*/environ || echo clean")
	s.Env = map[string]string{"LAYER": "job", "OTHER": "job"}
	s.Steps[1].Env = map[string]string{"LAYER": "step"}
	if result, _, err := b.run(t.Context(), s); err != nil || result.Status != jobs.StatusSuccess {
		t.Fatalf("got %+v, %v\n%s", result, err, b.text())
	}
	if text := b.text(); strings.Contains(text, "canary") || !strings.Contains(text, "clean") {
		t.Errorf("a step found what is the runner's:\n%s", text)
	}
	first, second, _ := strings.Cut(b.text(), "lockstep: step 2")
	got := map[string]string{}
	for line := range strings.Lines(first) {
		if name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "="); ok {
			got[name] = value
		}
	}
	for _, name := range []string{"LANG", "LC_ALL", "LC_CTYPE", "SSL_CERT_FILE", "SSL_CERT_DIR", "_", "SHLVL", "PWD", "OLDPWD"} {
		delete(got, name) // the machine's, or bash's
	}
	want := map[string]string{
		"PATH": os.Getenv("PATH"), "LC_TIME": "C", "TZ": "UTC", "GOPROXY": "off",
		"CI": "true", "HOME": b.box.Home, "TMPDIR": b.box.Temp, "GITHUB_WORKSPACE": b.box.Work,
		"GITHUB_SHA": sha, "GITHUB_REF": "refs/heads/main", "GITHUB_REF_NAME": "main", "GITHUB_REPOSITORY": "acme/widgets",
		"GITHUB_EVENT_NAME": "push", "GITHUB_ACTOR": "jane", "LOCKSTEP_RUN_ID": "11", "LOCKSTEP_JOB_ID": "12",
		"LAYER": "job", "OTHER": "job",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(second, "LAYER=step\n") {
		t.Errorf("the step's own environment does not win:\n%s", second)
	}
}

func TestAStepOwnsItsFoldersAndNothingElse(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.file("sub/file", "x")
	s := scripts(`
		[ "$PWD" = "$GITHUB_WORKSPACE" ]
		touch made sub/made "$HOME/made" "$TMPDIR/made"; rm sub/file
		[ "$(stat -c %a "$HOME" "$TMPDIR" . | sort -u)" = 700 ]
		umask
	`, `! touch "$GITHUB_WORKSPACE/../made"; ls "$GITHUB_WORKSPACE/.." && exit 1; echo closed`)
	s.Steps[0].Shell = "bash"
	if os.Geteuid() != 0 {
		s.Steps = s.Steps[:1] // all is one user's
	}
	result, _, err := b.run(t.Context(), s)
	if err != nil || result.Status != jobs.StatusSuccess || !strings.Contains(b.text(), "0022\n") {
		t.Errorf("got %+v, %v\n%s", result, err, b.text())
	}
}

func TestAWorkingDirectoryStaysInTheTree(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ dir, want string }{
		{"sub", ""},
		{"sub/../sub/", ""},
		{"link", ""},
		{"none", "working-directory none: no such file or directory"},
		{"file", "working-directory: file is not a folder"},
		{"out", "working-directory out: path escapes from parent"},
		{"../home", "working-directory ../home: path escapes from parent"},
		{"/etc", "working-directory etc: no such file or directory"},
	} {
		b := newBench(t)
		b.file("sub/here", "found")
		b.file("file", "")
		if err := errors.Join(os.Symlink("sub", filepath.Join(b.box.Work, "link")), os.Symlink("/etc", filepath.Join(b.box.Work, "out"))); err != nil {
			t.Fatal(err)
		}
		s := scripts("cat here")
		s.Steps[0].WorkingDirectory = row.dir
		result, _, err := b.run(t.Context(), s)
		want := executor.Result{Status: jobs.StatusSuccess}
		if row.want != "" {
			want = executor.Result{Status: jobs.StatusFailure, Reason: "step 1 (step1): " + row.want}
		}
		if err != nil || result != want {
			t.Errorf("%s: got %+v, %v, want %+v", row.dir, result, err, want)
		}
	}
}

// stubborn announces itself and ignores SIGTERM, and so does what it leaves behind.
const stubborn = `trap "" TERM; (setsid sleep 1000 >/dev/null 2>&1 &); echo ready; while :; do sleep 1000; done`

func TestAStepThatTakesTooLongFails(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s := scripts("exec sleep 1000", "echo never")
	s.Steps[0].TimeoutMinutes = 0.2 / 60
	result, steps, err := b.run(t.Context(), s)
	if want := (executor.Result{Status: jobs.StatusFailure, Reason: "step 1 (step1): timed out after 200ms"}); err != nil || result != want {
		t.Errorf("got %+v, %v, want %+v", result, err, want)
	}
	if got := statuses(steps); got != "failure(143) skipped" {
		t.Errorf("steps: %s", got)
	}
}

func TestAJobThatTakesTooLongFails(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s := scripts("true", "sleep 1000", "echo never")
	s.TimeoutMinutes = 1.0 / 60
	result, steps, err := b.run(t.Context(), s)
	if want := (executor.Result{Status: jobs.StatusFailure, Reason: "the job timed out after 1s"}); err != nil || result != want {
		t.Errorf("got %+v, %v, want %+v", result, err, want)
	}
	if got := statuses(steps); got != "success(0) failure(143) skipped" {
		t.Errorf("steps: %s", got)
	}
}

func TestCancelGivesAStepTimeToCleanUp(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.grace = patience
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		b.await("ready\n")
		cancel(jobs.ErrCancelled)
	}()
	result, steps, err := b.run(ctx, scripts(`trap 'echo cleaned up; exit 9' TERM; echo ready; while :; do sleep 1000 & wait; done`, "echo never"))
	if want := (executor.Result{Status: jobs.StatusCancelled, Reason: "cancelled on request"}); err != nil || result != want {
		t.Errorf("got %+v, %v, want %+v", result, err, want)
	}
	if got := statuses(steps); got != "cancelled(9) skipped" {
		t.Errorf("steps: %s", got)
	}
	if !strings.Contains(b.text(), "cleaned up\n") {
		t.Errorf("the log is\n%s", b.text())
	}
}

func TestCancelEndsWhoDoesNotCleanUp(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		b.await("ready\n")
		cancel(jobs.ErrCancelled)
	}()
	result, steps, err := b.run(ctx, scripts(stubborn))
	if err != nil || result.Status != jobs.StatusCancelled || statuses(steps) != "cancelled(137)" {
		t.Errorf("got %+v, %s, %v", result, statuses(steps), err)
	}
}

func TestALostClaimEndsTheJobAtOnceWithoutAResult(t *testing.T) {
	t.Parallel()
	for cause, want := range map[error]string{
		jobs.ErrClaimLost: "cancelled(137) skipped",
		jobs.ErrStopping:  "cancelled(137) skipped",
		jobs.ErrDeadline:  "error(137) skipped",
	} {
		b := newBench(t)
		b.grace = time.Hour // it does not count
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() {
			b.await("ready\n")
			cancel(cause)
		}()
		result, steps, err := b.run(ctx, scripts(stubborn, "echo never"))
		if !errors.Is(err, cause) || result != (executor.Result{}) || statuses(steps) != want {
			t.Errorf("%v: got %+v, %s, %v", cause, result, statuses(steps), err)
		}
	}
}

func TestAJobThatIsOverBeforeItBeginsRunsNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(jobs.ErrCancelled)
	result, steps, err := b.run(ctx, scripts("echo never"))
	if err != nil || result.Status != jobs.StatusCancelled || statuses(steps) != "skipped" || strings.Contains(b.text(), "never") {
		t.Errorf("got %+v, %s, %v\n%s", result, statuses(steps), err, b.text())
	}
}

func TestSetupGoTakesTheGoThatIsThereOrSaysWhatIs(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.file("go.mod", "module m\n\ngo 1.21\n")
	b.file("new/go.mod", "module m\n\ngo 1.999\n")
	for name, script := range map[string]string{"1.22": "echo go version go1.22.5 linux/amd64", "sick": "echo oops; exit 3", "odd": "echo hello"} {
		b.file("bin/"+name+"/go", "#!/bin/sh\n[ \"$*\" = version ] || exit 9\n[ \"$GOTOOLCHAIN\" = local ] || exit 8\n"+script+"\n")
		if err := os.Chmod(filepath.Join(b.box.Work, "bin", name, "go"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, row := range []struct {
		bin  string
		with map[string]string
		says string // in the log when it fits, else the reason
		fits bool
	}{
		{"1.22", map[string]string{"go-version": "1.22"}, "Go 1.22.5 is there; go-version asks for 1.22", true},
		{"1.22", map[string]string{"go-version-file": "go.mod"}, "Go 1.22.5 is there; go.mod asks for >=1.21", true},
		{"1.22", nil, "Go 1.22.5 is there, and no version is asked for", true},
		{"1.22", map[string]string{"go-version": "1.23.x"}, "Go 1.22.5 is there; go-version asks for 1.23.x", false},
		{"1.22", map[string]string{"go-version-file": "new/go.mod"}, "Go 1.22.5 is there; new/go.mod asks for >=1.999", false},
		{"1.22", map[string]string{"go-version-file": "none"}, "go-version-file: openat none: no such file or directory", false},
		{"1.22", map[string]string{"go-version": "newest"}, `version "newest" of Go: "newest" is not understood`, false},
		{"none", map[string]string{"go-version": "1.22"}, "there is no Go on the PATH; go-version asks for 1.22", false},
		{"sick", map[string]string{"go-version": "1.22"}, "`go version` ended with code 3: oops\n", false},
		{"odd", map[string]string{"go-version": "1.22"}, "`go version` said \"hello\\n\"", false},
	} {
		s := spec.Spec{Steps: []spec.Step{{
			Uses: spec.SetupGo, With: row.with,
			Env: map[string]string{"PATH": filepath.Join(b.box.Work, "bin", row.bin), "GOTOOLCHAIN": "go1.99"},
		}}}
		result, _, err := b.run(t.Context(), s)
		if err != nil || (result.Status == jobs.StatusSuccess) != row.fits {
			t.Errorf("%s, %v: got %+v, %v", row.bin, row.with, result, err)
		}
		if says := b.text() + result.Reason; !strings.Contains(says, row.says) {
			t.Errorf("%s, %v: want %q in\n%s", row.bin, row.with, row.says, says)
		}
	}
}

func TestAPipeForAVersionFileHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s := scripts("mkfifo go.mod", "")
	s.Steps[1] = spec.Step{Uses: spec.SetupGo, With: map[string]string{"go-version-file": "go.mod"}}
	result, _, err := b.run(t.Context(), s)
	if err != nil || !strings.HasSuffix(result.Reason, "go.mod is not a file") {
		t.Errorf("got %+v, %v", result, err)
	}
}

func TestASupervisorThatIsLostIsAnErrorAndNotAResult(t *testing.T) {
	b := newBench(t) // the only one at this time, so that its supervisor is our only child
	go func() {
		b.await("ready\n")
		stats, _ := filepath.Glob("/proc/[0-9]*/status")
		for _, path := range stats {
			status, err := os.ReadFile(path)
			if err == nil && strings.Contains(string(status), fmt.Sprintf("\nPPid:\t%d\n", os.Getpid())) {
				pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}()
	result, steps, err := b.run(t.Context(), scripts("echo ready; exec sleep 1000", "echo never"))
	if !errors.Is(err, supervise.ErrSupervisorLost) || result != (executor.Result{}) || statuses(steps) != "error skipped" {
		t.Errorf("got %+v, %s, %v", result, statuses(steps), err)
	}
}
