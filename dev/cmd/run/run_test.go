package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-ci/lockstep/dev/internal/guard"
)

// TestMain lets the test binary hold the lock of a state folder until its standard input ends.
func TestMain(m *testing.M) {
	if dir := os.Getenv("RUN_TEST_LOCK"); dir != "" {
		_, err := lockState(dir)
		say("%v", err)
		_, _ = io.Copy(io.Discard, os.Stdin)
		return
	}
	os.Exit(m.Run())
}

func TestASecondLauncherNamesTheFirst(t *testing.T) {
	dir := t.TempDir()
	first := exec.Command(os.Args[0])
	first.Env = append(os.Environ(), "RUN_TEST_LOCK="+dir)
	stdin, err := first.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stdin.Close() }()
	stdout, err := first.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "<nil>\n" {
		t.Fatalf("the first: %s %v", line, err)
	}
	want := "`make run` of this checkout runs already, as pid " + strconv.Itoa(first.Process.Pid) + ": stop that first"
	if _, err := lockState(dir); err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	if err := first.Process.Kill(); err != nil { // leaves the file
		t.Fatal(err)
	}
	_ = first.Wait()
	third, err := lockState(dir)
	if err != nil {
		t.Fatal(err)
	}
	third.close()
}

func TestATakenAddressIsSaidWithTheSetting(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	_, err = listenAddr(listener.Addr().String())
	if err == nil || !strings.HasPrefix(err.Error(), "HTTP_ADDR: somebody else listens on "+listener.Addr().String()) {
		t.Errorf("error %v", err)
	}
	if got, err := listenAddr("127.0.0.1:0"); err != nil || strings.HasSuffix(got, ":0") {
		t.Errorf("port 0 became %s, %v", got, err)
	}
}

func TestARepositoryIsFoundByPathOrURL(t *testing.T) {
	top, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	tree, bare, plain := filepath.Join(top, "a tree"), filepath.Join(top, "bare"), filepath.Join(top, "plain")
	mustGit(t, top, "init", "-q", tree)
	mustGit(t, top, "init", "-q", "--bare", bare)
	for _, dir := range []string{filepath.Join(tree, "sub"), plain} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(top)
	for _, test := range []struct{ name, repo, want, wantError string }{
		{"a work tree", tree, "file://" + top + "/a%20tree", ""},
		{"a bare repository", bare, "file://" + bare, ""},
		{"a relative path", "bare", "file://" + bare, ""},
		{"a URL", "https://github.com/owner/name", "https://github.com/owner/name", ""},
		{"an owner and a name", "owner/name", "https://github.com/owner/name", ""},
		{"a folder wins over owner and name", "a tree/sub", "", "is within the repository " + tree},
		{"a folder that is no repository", plain, "", plain + " is not a git repository"},
		{"a path that is not there", "./owner/name", "", "no such file"},
		{"a word", "nothing", "", "no such file"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := chooseRepository(t.Context(), test.repo, "v1", "", "")
			if test.wantError != "" {
				if err == nil || !strings.Contains(err.Error(), test.wantError) {
					t.Errorf("error %v, want one with %q", err, test.wantError)
				}
				return
			}
			if err != nil || got.url != test.want || got.ref != "v1" {
				t.Errorf("got %+v, %v; want %s", got, err, test.want)
			}
		})
	}
}

func TestTheExampleGetsACommitOnlyWhenItChanged(t *testing.T) {
	example, dir := t.TempDir(), filepath.Join(t.TempDir(), "example")
	file := filepath.Join(example, "file")
	head := func(content string) string {
		t.Helper()
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		url, err := exampleRepository(t.Context(), example, dir)
		if err != nil || url != "file://"+dir {
			t.Fatalf("URL %s, %v", url, err)
		}
		return mustGit(t, dir, "rev-parse", "HEAD")
	}
	first, same, changed := head("1"), head("1"), head("2")
	if first != same || first == changed {
		t.Errorf("commits %s, %s, %s; want the first two to be one", first, same, changed)
	}
	if got := mustGit(t, dir, "log", "--format=%H %an", "main"); got != changed+" Lockstep\n"+first+" Lockstep" {
		t.Errorf("history:\n%s", got)
	}
}

func TestEachServiceGetsItsOwnCredentialsOnly(t *testing.T) {
	for _, name := range []string{"GITHUB_TOKEN", "GIT_TOKEN", "ADMIN_TOKEN", "TEST_DATABASE_URL", "OPS_ADDR", "LISTEN_DATABASE_URL"} {
		t.Setenv(name, "secret-"+name)
	}
	t.Setenv("CONCURRENCY", "9")
	urls := map[string]string{}
	for _, service := range serviceNames {
		urls[service] = "postgres://" + service
	}
	got := map[string][]string{}
	for service, env := range settings(urls, "addr", "token") {
		seen := map[string]string{}
		for _, variable := range env { // the last one counts
			name, value, _ := strings.Cut(variable, "=")
			seen[name] = value
		}
		for _, name := range []string{"GITHUB_TOKEN", "GIT_TOKEN", "ADMIN_TOKEN", "TEST_DATABASE_URL", "OPS_ADDR", "LISTEN_DATABASE_URL", "DATABASE_URL", "CONCURRENCY"} {
			if value, ok := seen[name]; ok {
				got[service] = append(got[service], name+"="+value)
			}
		}
	}
	want := map[string][]string{
		"api-gateway":     {"ADMIN_TOKEN=token", "DATABASE_URL=postgres://api-gateway", "CONCURRENCY=9"},
		"initializer":     {"GIT_TOKEN=secret-GIT_TOKEN", "DATABASE_URL=postgres://initializer", "CONCURRENCY=9"},
		"runner":          {"DATABASE_URL=postgres://runner", "CONCURRENCY=9"},
		"github-notifier": {"GITHUB_TOKEN=secret-GITHUB_TOKEN", "DATABASE_URL=postgres://github-notifier", "CONCURRENCY=9"},
		"reaper":          {"DATABASE_URL=postgres://reaper", "CONCURRENCY=9"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("environments (-want +got):\n%s", diff)
	}
}

func TestALoginIsTheOwnersURLUnderAnotherName(t *testing.T) {
	for _, test := range []struct{ owner, want string }{
		{"postgres://o:p@h:1/d?sslmode=disable", "postgres://lockstep_api_gateway:x@h:1/d?sslmode=disable"},
		{"postgres:///d?host=/run", "postgres://lockstep_api_gateway:x@/d?host=/run"},
		{"host=h user=o dbname=d", ""},
	} {
		got, err := loginURL(test.owner, "api-gateway", "x")
		if got != test.want || (err != nil) != (test.want == "") {
			t.Errorf("login for %s is %s, %v; want %s", test.owner, got, err, test.want)
		}
	}
}

func TestAServiceThatDiesIsStartedAgainAndAStubbornOneIsKilled(t *testing.T) {
	dir := t.TempDir()
	program, pipe := filepath.Join(dir, "service"), filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	// Ends at its first start. At the second it ignores SIGTERM, as does what it started; both hold the pipe.
	script := `#!/bin/sh
trap '' TERM
[ -e "$0.started" ] || { touch "$0.started"; exit 3; }
exec 3> "${0%service}pipe"
sleep 600 &
echo ready >&3
wait
`
	if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	watch, err := guard.Start(`kill -KILL 0`)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s := &services{cancel: cancel, guard: watch}
	log, err := openLog("service", filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	s.done.Go(func() { s.keep(ctx, program, os.Environ(), 200*time.Millisecond, log) })

	file, err := os.Open(pipe) // returns when the second start has opened it
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	if err := file.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	held := bufio.NewReader(file)
	if line, err := held.ReadString('\n'); err != nil || line != "ready\n" {
		t.Errorf("the service said %q, %v", line, err)
	}
	s.stop()
	if rest, err := io.ReadAll(held); err != nil || len(rest) > 0 { // ends when nobody holds the pipe
		t.Errorf("%q, %v", rest, err)
	}
}

func TestOutputCannotDriveTheTerminal(t *testing.T) {
	for _, test := range []struct{ name, line, want string }{
		{"text", "ok  \tpkg  0.1s é", "ok  \tpkg  0.1s é"},
		{"colours stay, and end with the line", "\x1b[31mred", "\x1b[31mred\x1b[0m"},
		{"the cursor stays where it is", "a\x1b[2K\x1b[1Ab\rc", "abc"},
		{"so does the title", "a\x1b]0;mine\x07b\x1b]2;x\x1b\\c", "abc"},
		{"broken UTF-8 and NUL", "a\xff\x00b", "a\ufffdb"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := printable(test.line); got != test.want {
				t.Errorf("printable(%q) = %q, want %q", test.line, got, test.want)
			}
		})
	}
}

func TestOnlyWarningsOfALogAreShown(t *testing.T) {
	for _, test := range []struct{ line, want string }{
		{`{"level":"info","msg":"claimed"}`, ""},
		{`{"level":"warn","msg":"claim refused","error":"no role","job_id":"1"}`, "warn: claim refused: no role"},
		{`runner: DATABASE_URL is not set`, "runner: DATABASE_URL is not set"},
	} {
		if got := brief([]byte(test.line)); got != test.want {
			t.Errorf("brief(%s) = %q, want %q", test.line, got, test.want)
		}
	}
}

func mustGit(t *testing.T, dir string, args ...string) string {
	t.Helper()
	out, err := git(t.Context(), dir, nil, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
