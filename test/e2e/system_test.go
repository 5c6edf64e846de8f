package e2e_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
)

// What no log, page or step may ever show. The roles' password is jobstest's.
const (
	adminToken    = "canary-admin-token-6sYv0Zq1"
	webhookSecret = "canary-webhook-secret-Qm3xT8"
	githubToken   = "canary-github-token-d0Lr7Wk"
	gitToken      = "canary-git-token-V4hNp2c"
)

// system is one installation: a database, a GitHub, a folder for repositories, and the binaries that the test starts.
type system struct {
	t         testing.TB
	db        *jobstest.Database
	github    *github
	dir       string // everything of this system is below it
	addr      string // of the gateway; the same one after a restart
	lease     time.Duration
	more      map[string][]string // environment by service, beyond what all tests need
	processes []*process
}

// newSystem makes everything but the processes. When the test ends, it stops them and wants nothing left of them.
func newSystem(t testing.TB) *system {
	t.Helper()
	return newSystemOn(t, jobstest.New(t))
}

func newSystemOn(t testing.TB, db *jobstest.Database) *system {
	t.Helper()
	s := &system{t: t, db: db, addr: freeAddress(t), lease: 20 * time.Second, more: map[string][]string{}}
	var err error
	if s.dir, err = os.MkdirTemp("", "lockstep-e2e-"); err != nil { // t.TempDir is not passable for the steps' users
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(s.dir); err != nil {
			t.Errorf("remove the system's folder: %v", err)
		}
	})
	for folder, mode := range map[string]fs.FileMode{".": 0o711, "shared": 0o777} {
		path := filepath.Join(s.dir, folder)
		if err := errors.Join(os.MkdirAll(path, 0o700), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
	}
	s.github = newGitHub(t)
	t.Cleanup(func() {
		s.github.letGo()
		for _, p := range s.processes {
			p.stop(t)
		}
		var left []string
		for deadline := time.Now().Add(5 * time.Second); ; <-time.After(20 * time.Millisecond) {
			if left = traces(s.dir); len(left) == 0 || time.Now().After(deadline) {
				break
			}
		}
		if len(left) > 0 {
			t.Errorf("processes left behind:\n%s", strings.Join(left, "\n"))
		}
		if t.Failed() {
			for _, p := range s.processes {
				t.Logf("log of %s, process %d:\n%s", p.service, p.pid, p.output(t))
			}
		}
	})
	return s
}

// freeAddress is a loopback address below the range from which systems take ports for outgoing connections, so that it
// stays free until the gateway listens on it, also while that is being restarted.
func freeAddress(t testing.TB) string {
	t.Helper()
	for range 100 {
		random := make([]byte, 2)
		_, _ = rand.Read(random) // never fails (crypto/rand)
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(20000+(int(random[0])<<8+int(random[1]))%10000))
		if listener, err := net.Listen("tcp", addr); err == nil {
			_ = listener.Close()
			return addr
		}
	}
	t.Fatal("no free port on 127.0.0.1 from 20000 to 29999")
	return ""
}

// start starts the services named, all five when none is, and waits until the gateway answers.
func (s *system) start(names ...string) {
	s.t.Helper()
	if len(names) == 0 {
		names = services
	}
	for _, name := range names {
		s.processes = append(s.processes, spawn(s.t, name, s.dir, s.environment(name)))
	}
	if slices.Contains(names, "api-gateway") {
		s.ready()
	}
}

func (s *system) ready() {
	s.t.Helper()
	gateway := s.the("api-gateway")
	eventually(s.t, 20*time.Second, "the gateway is ready", func() bool {
		if !gateway.running() {
			s.t.Fatalf("the gateway ended: %s\n%s", gateway.cmd.ProcessState, gateway.output(s.t))
		}
		response, err := http.Get("http://" + s.addr + "/readyz")
		if err != nil {
			return false
		}
		_ = response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
}

// environment is all that a service finds in its environment.
func (s *system) environment(service string) []string {
	s.t.Helper()
	home := filepath.Join(s.dir, service, "home")
	temp := filepath.Join(s.dir, service, "tmp")
	for _, folder := range []string{home, temp} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			s.t.Fatalf("make folder of %s: %v", service, err)
		}
	}
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "TMPDIR=" + temp, "DATABASE_URL=" + s.db.As(service)}
	if service == "api-gateway" {
		env = append(env, "HTTP_ADDR="+s.addr, "PUBLIC_URL=http://"+s.addr, "ADMIN_TOKEN="+adminToken, "GITHUB_WEBHOOK_SECRET="+webhookSecret)
	} else {
		env = append(env, "OPS_ADDR=127.0.0.1:0")
	}
	switch service {
	case "initializer", "runner":
		env = append(env, "LEASE="+s.lease.String(), "BEAT="+min(5*time.Second, s.lease/3).String(), "GRACE=2s", "RETRY_AFTER=300ms")
	}
	switch service {
	case "initializer":
		env = append(env, "ALLOW_FILE_URLS=true", "GIT_TOKEN="+gitToken, "GIT_INSTEAD_OF=https://github.com/=file://"+s.repositories()+"/")
	case "runner":
		env = append(env, "EXECUTOR_UNSANDBOXED=true", "CANCEL_GRACE=1s")
	case "github-notifier":
		env = append(env, "GITHUB_TOKEN="+githubToken, "GITHUB_API_URL="+s.github.URL, "PUBLIC_URL=http://"+s.addr)
	}
	return append(env, s.more[service]...)
}

// repositories is the folder that stands for https://github.com/.
func (s *system) repositories() string { return filepath.Join(s.dir, "github.com") }

// the is the last started living process of a service.
func (s *system) the(service string) *process {
	s.t.Helper()
	for _, p := range slices.Backward(s.processes) {
		if p.service == service && p.running() {
			return p
		}
	}
	s.t.Fatalf("no %s is running", service)
	return nil
}

// holder waits until a run's only job is held in the state given, and returns the process that holds it.
func (s *system) holder(run, status string) *process {
	s.t.Helper()
	const held = `FROM ci_jobs j JOIN ci_workers w ON w.id = j.worker_id WHERE j.run_id = $1 AND j.status = $2::ci_job_status`
	s.db.Await(s.t, 20*time.Second, "SELECT EXISTS (SELECT "+held+")", run, status)
	name := jobstest.Value[string](s.t, s.db, "SELECT w.name "+held, run, status) // host:pid
	for _, p := range s.processes {
		if strings.HasSuffix(name, fmt.Sprintf(":%d", p.pid)) {
			return p
		}
	}
	s.t.Fatalf("worker %s, which holds run %s, is none of ours", name, run)
	return nil
}

// file is a path that steps may write to and wait for.
func (s *system) file(name string) string { return filepath.Join(s.dir, "shared", name) }

// create makes such a file.
func (s *system) create(name string) {
	s.t.Helper()
	if err := os.WriteFile(s.file(name), nil, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// lives waits until a process is there that has such a file's path among its arguments.
func (s *system) lives(name string) {
	s.t.Helper()
	eventually(s.t, 20*time.Second, name+" lives", func() bool { return len(named(s.file(name))) > 0 })
}

// gone wants what lives has seen to have ended within the limit.
func (s *system) gone(name string, limit time.Duration) {
	s.t.Helper()
	var left []string
	defer func() {
		if len(left) > 0 {
			s.t.Logf("it is %s", strings.Join(left, "\n"))
		}
	}()
	eventually(s.t, limit, name+" is gone", func() bool {
		left = named(s.file(name))
		return len(left) == 0
	})
}
