package main_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/openapi/openapitest"
)

// The gateway as its clients see it: the binary, under its own role, and clients of every interface.

const (
	soon  = time.Minute // far above what anything here takes; reached only by a test that fails
	token = "a-token-of-the-tests"
)

var binary string

func TestMain(m *testing.M) {
	http.DefaultTransport = openapitest.Transport{Next: http.DefaultTransport}
	os.Exit(jobstest.RunWithBinary(m, "api-gateway", &binary))
}

// gateway is a process of the binary, and its database.
type gateway struct {
	t    *testing.T
	db   *jobstest.Database
	addr string
	pid  int
	stop func() // as an operator does; waits for the end
}

func start(t *testing.T, settings ...string) *gateway {
	t.Helper()
	return startOn(t, jobstest.New(t), settings...)
}

// startOn starts one more gateway on a database.
func startOn(t *testing.T, db *jobstest.Database, settings ...string) *gateway {
	t.Helper()
	logFile := filepath.Join(t.TempDir(), "log")
	log, err := os.Create(logFile)
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(binary)
	command.Env = append([]string{
		"DATABASE_URL=" + db.As("api-gateway"), "HTTP_ADDR=127.0.0.1:0", "ADMIN_TOKEN=" + token, "GITHUB_WEBHOOK_SECRET=a-secret-of-the-tests",
	}, settings...)
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = command.Wait() }()
	g := &gateway{t: t, db: db, pid: command.Process.Pid}
	g.stop = func() {
		_ = command.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
			if !command.ProcessState.Success() {
				t.Errorf("after SIGTERM the gateway ended with %v", command.ProcessState)
			}
		case <-time.After(soon):
			_ = command.Process.Kill()
			t.Error("the gateway did not end after SIGTERM")
		}
	}
	t.Cleanup(func() {
		g.stop()
		_ = log.Close()
		content, _ := os.ReadFile(logFile)
		if strings.Contains(string(content), "panic") {
			t.Error("the gateway panicked")
		}
		if t.Failed() {
			t.Logf("the end of the gateway's log:\n%s", content[max(0, len(content)-4<<10):])
		}
	})
	for deadline := time.Now().Add(soon); g.addr == ""; {
		content, err := os.ReadFile(logFile)
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("wait for the address (%v): %s", err, content)
		}
		if _, rest, found := strings.Cut(string(content), `"addr":"`); found {
			g.addr, _, _ = strings.Cut(rest, `"`)
		}
	}
	return g
}

func (g *gateway) url() string { return "http://" + g.addr }

func (g *gateway) context() context.Context {
	ctx, cancel := context.WithTimeout(g.t.Context(), soon)
	g.t.Cleanup(cancel)
	return ctx
}

// answer is what REST said.
type answer struct {
	status int
	header http.Header
	body   string // without the final newline
}

// send makes a REST request with the token.
func (g *gateway) send(method, path, body string, headers ...string) answer {
	g.t.Helper()
	response := g.open(method, path, body, headers...)
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		g.t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer{response.StatusCode, response.Header, strings.TrimSuffix(string(text), "\n")}
}

func (g *gateway) open(method, path, body string, headers ...string) *http.Response {
	g.t.Helper()
	request, err := http.NewRequestWithContext(g.context(), method, g.url()+path, strings.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		if request.Header.Del(headers[i]); headers[i+1] != "" {
			request.Header.Set(headers[i], headers[i+1])
		}
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		g.t.Fatalf("%s %s: %v", method, path, err)
	}
	return response
}

func isEnd(err error) bool { return err == nil || errors.Is(err, io.EOF) }
