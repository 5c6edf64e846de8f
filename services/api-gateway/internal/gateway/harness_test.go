package gateway_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest"
	"go.uber.org/zap/zaptest/observer"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/joblog"
	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/gateway"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/openapi/openapitest"
)

const (
	token  = "a-token-of-the-tests"
	secret = "a-secret-of-the-tests"
	limit  = 20 * time.Second // for anything that a test waits for
)

// server is a gateway on a real database, under its own role, behind real HTTP.
type server struct {
	t    *testing.T
	db   *jobstest.Database
	url  string
	said *observer.ObservedLogs // what it logged at error level
	stop func()                 // as SIGTERM does; waits for the end
}

func start(t *testing.T, change ...func(*gateway.Options)) *server {
	t.Helper()
	db := jobstest.New(t)
	core, said := observer.New(zap.ErrorLevel)
	url, stop := serveLogging(t, db.Open(t, "api-gateway"), core, change...)
	return &server{t: t, db: db, url: url, said: said, stop: stop}
}

// serve is a gateway on a queue; stop is called in the end, if it was not before.
func serve(t testing.TB, queue *jobs.DB, change ...func(*gateway.Options)) (url string, stop func()) {
	t.Helper()
	return serveLogging(t, queue, zapcore.NewNopCore(), change...)
}

func serveLogging(t testing.TB, queue *jobs.DB, also zapcore.Core, change ...func(*gateway.Options)) (url string, stop func()) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	options := gateway.Options{
		AdminToken: token, WebhookSecrets: []string{"an-older-secret-of-the-tests", secret}, PublicURL: "http://" + listener.Addr().String(),
	}
	for _, c := range change {
		c(&options)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	log := zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel), zaptest.WrapOptions(zap.WrapCore(func(c zapcore.Core) zapcore.Core { return zapcore.NewTee(c, also) })))
	go func() { served <- gateway.New(queue, options, log).Serve(ctx, listener) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-served:
			if err != nil {
				t.Errorf("serve: %v", err)
			}
		case <-time.After(limit):
			t.Error("the gateway did not stop")
		}
	}
	t.Cleanup(stop)
	return "http://" + listener.Addr().String(), stop
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   string
}

// problem is the body of an answer that is a problem.
type problem struct {
	Type, Title, Code, Field, Detail string
	Status                           int
	RequestID                        string `json:"request_id"`
}

func (a answer) problem(t *testing.T) problem {
	t.Helper()
	if kind := a.header.Get("Content-Type"); kind != "application/problem+json" {
		t.Errorf("%d is not a problem but %s: %s", a.status, kind, a.body)
	}
	var p problem
	decode(t, a.body, &p)
	if p.Status != a.status || p.Title != http.StatusText(a.status) || p.Type == "" || p.Detail == "" || p.RequestID != a.header.Get("X-Request-Id") {
		t.Errorf("answer %d has the problem %+v", a.status, p)
	}
	return p
}

// send makes a request. Headers are pairs; the admin token is sent unless they have an Authorization ("" for none).
func (s *server) send(method, path, body string, headers ...string) answer {
	s.t.Helper()
	return s.exchange(method, path, body, set(headers))
}

func set(headers []string) func(http.Header) {
	return func(h http.Header) {
		for i := 0; i < len(headers); i += 2 {
			if h.Del(headers[i]); headers[i+1] != "" {
				h.Set(headers[i], headers[i+1])
			}
		}
	}
}

func (s *server) exchange(method, path, body string, change func(http.Header)) answer {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), limit)
	defer cancel()
	response := s.request(ctx, method, path, body, change)
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatalf("%s %s: read answer: %v", method, path, err)
	}
	return answer{response.StatusCode, response.Header, string(text)}
}

func (s *server) open(ctx context.Context, method, path, body string, headers ...string) *http.Response {
	s.t.Helper()
	return s.request(ctx, method, path, body, set(headers))
}

func (s *server) request(ctx context.Context, method, path, body string, change func(http.Header)) *http.Response {
	s.t.Helper()
	request, err := http.NewRequestWithContext(ctx, method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	change(request.Header)
	response, err := client.Do(request)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	return response
}

// client holds each answer against the document, and shows redirects as they are.
var client = http.Client{
	Transport:     openapitest.Transport{Next: http.DefaultTransport},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// deliver posts a webhook as GitHub does.
func (s *server) deliver(event, id, payload string, headers ...string) answer {
	s.t.Helper()
	return s.send("POST", "/webhooks/github", payload, append([]string{
		"Authorization", "", "X-GitHub-Event", event, "X-GitHub-Delivery", id, "X-Hub-Signature-256", sign(secret, payload),
	}, headers...)...)
}

func sign(secret, payload string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(payload))
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}

// run is what the API says of a run.
type run struct {
	ID, Repository, Event, URL string
	Ref                        *string
	HeadSHA                    *string `json:"head_sha"`
	Status                     jobs.Status
	CreatedAt                  time.Time  `json:"created_at"`
	FinishedAt                 *time.Time `json:"finished_at"`
	Version                    int64
	Jobs                       []job
}

type job struct {
	ID, Name, Reason string
	Status           jobs.Status
	Attempt          int
	Steps            []step
}

type step struct {
	Number     int
	Name       string
	Status     string
	ExitCode   *int       `json:"exit_code"`
	StartedAt  *time.Time `json:"started_at"`
	FinishedAt *time.Time `json:"finished_at"`
}

// create makes a run of example.com/owner/name by the API.
func (s *server) create() run {
	s.t.Helper()
	a := s.send("POST", "/api/v1/runs", `{"repository":"https://example.com/owner/name"}`)
	if a.status != http.StatusCreated {
		s.t.Fatalf("create a run: %d %s", a.status, a.body)
	}
	var r run
	decode(s.t, a.body, &r)
	return r
}

func (s *server) get(id string) run {
	s.t.Helper()
	a := s.send("GET", "/api/v1/runs/"+id, "")
	if a.status != http.StatusOK {
		s.t.Fatalf("get run %s: %d %s", id, a.status, a.body)
	}
	var r run
	decode(s.t, a.body, &r)
	return r
}

// plan answers a run's first job as an initializer would: it becomes the job `test`, which a runner may claim.
func (s *server) plan(r run) (jobID string) {
	s.t.Helper()
	jobID = r.Jobs[0].ID
	s.db.Exec(s.t, "UPDATE ci_jobs SET status = 'initializing' WHERE id = $1::text::bigint", jobID)
	s.db.Exec(s.t, "UPDATE ci_jobs SET status = 'initialized', name = 'ci / test', workflow = '.ci/workflows/ci.yml', job_key = 'test' WHERE id = $1::text::bigint", jobID)
	return jobID
}

// claim takes a planned job as a runner would, and begins its log.
func (s *server) claim(jobID string) *joblog.Writer {
	s.t.Helper()
	var j jobs.Job
	err := s.db.Pool.QueryRow(context.Background(), `UPDATE ci_jobs j SET status = 'running' FROM ci_runs r
		WHERE j.id = $1::text::bigint AND r.id = j.run_id RETURNING j.id, j.attempt, j.claim_token, r.log_day`, jobID).
		Scan(&j.ID, &j.Attempt, &j.Token, &j.LogDay)
	if err != nil {
		s.t.Fatalf("claim job %s: %v", jobID, err)
	}
	w, err := joblog.NewWriter(s.db.Pool, &j, joblog.Options{Dir: s.t.TempDir(), Limit: joblog.DefaultLimit, Log: zap.NewNop()})
	if err != nil {
		s.t.Fatal(err)
	}
	return w
}

func (s *server) finish(jobID string, status jobs.Status, w *joblog.Writer) {
	s.t.Helper()
	if w != nil {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		if err := w.Close(ctx); err != nil {
			s.t.Fatalf("close the log: %v", err)
		}
	}
	s.db.Exec(s.t, "UPDATE ci_jobs SET status = $2 WHERE id = $1::text::bigint", jobID, string(status))
}

func decode(t *testing.T, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("decode %q: %v", text, err)
	}
}

func (s *server) count(table string) int64 {
	s.t.Helper()
	return jobstest.Value[int64](s.t, s.db, fmt.Sprintf("SELECT count(*) FROM %s", table))
}
