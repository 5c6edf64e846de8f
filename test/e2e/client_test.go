package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"
)

// run, job and step are what the REST API says of them.
type run struct {
	ID         string     `json:"id"`
	Repository string     `json:"repository"`
	Ref        string     `json:"ref"`
	HeadSHA    string     `json:"head_sha"`
	Event      string     `json:"event"`
	Status     string     `json:"status"`
	URL        string     `json:"url"`
	CreatedAt  time.Time  `json:"created_at"`
	FinishedAt *time.Time `json:"finished_at"`
	Jobs       []job      `json:"jobs"`
}

type job struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Status  string `json:"status"`
	Attempt int    `json:"attempt"`
	Reason  string `json:"reason"`
	Steps   []step `json:"steps"`
}

type step struct {
	Number     int        `json:"number"`
	Name       string     `json:"name"`
	Status     string     `json:"status"`
	ExitCode   *int       `json:"exit_code"`
	StartedAt  *time.Time `json:"started_at"`
	FinishedAt *time.Time `json:"finished_at"`
}

func (r run) final() bool {
	switch r.Status {
	case "success", "failure", "error", "cancelled", "skipped":
		return true
	}
	return false
}

// job is the one with this name.
func (s *system) job(r run, name string) job {
	s.t.Helper()
	for _, j := range r.Jobs {
		if j.Name == name {
			return j
		}
	}
	s.t.Fatalf("run %s has no job %q: %+v", r.ID, name, r.Jobs)
	return job{}
}

// answer is what the gateway said.
type answer struct {
	code   int
	header http.Header
	text   string
}

// request asks the gateway as the admin. header holds names and values.
func (s *system) request(method, path string, body any, header ...string) answer {
	s.t.Helper()
	var content io.Reader
	if body != nil {
		content = bytes.NewReader(encode(body))
	}
	request, err := http.NewRequestWithContext(s.t.Context(), method, "http://"+s.addr+path, content)
	if err != nil {
		s.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+adminToken)
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatalf("read answer to %s %s: %v", method, path, err)
	}
	return answer{response.StatusCode, response.Header, string(text)}
}

// ask wants a code, and reads the answer's JSON into a value if there is one.
func (s *system) ask(method, path string, body any, code int, into any, header ...string) answer {
	s.t.Helper()
	got := s.request(method, path, body, header...)
	if got.code != code {
		s.t.Fatalf("%s %s was answered with %d, want %d: %s", method, path, got.code, code, got.text)
	}
	if into != nil {
		if err := json.Unmarshal([]byte(got.text), into); err != nil {
			s.t.Fatalf("%s %s was not answered with JSON: %v\n%s", method, path, err, got.text)
		}
	}
	return got
}

func (s *system) run(id string) run {
	s.t.Helper()
	var r run
	s.ask(http.MethodGet, "/api/v1/runs/"+id, nil, http.StatusOK, &r)
	return r
}

// await follows a run on the socket of its page until it is as wanted.
func (s *system) await(id, what string, wanted func(run) bool) run {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, "ws://"+s.addr+"/api/v1/watch?run="+id, //nolint:bodyclose // Dial's response has none to close
		&websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + adminToken}}})
	if err != nil {
		s.t.Fatalf("watch run %s: %v", id, err)
	}
	defer func() { _ = conn.CloseNow() }()
	conn.SetReadLimit(1 << 20)
	for last := "nothing"; ; {
		_, text, err := conn.Read(ctx)
		if err != nil {
			s.t.Fatalf("waited for run %s until it %s: %v; last was %s", id, what, err, last)
		}
		var message struct {
			Type string `json:"type"`
			Run  run    `json:"run"`
		}
		if err := json.Unmarshal(text, &message); err != nil {
			s.t.Fatalf("the socket of run %s said what is no JSON: %s", id, text)
		}
		if message.Type == "run" && wanted(message.Run) {
			return message.Run
		}
		last = string(text)
	}
}

// finish follows a run to its end and wants this status of it.
func (s *system) finish(id, status string) run {
	s.t.Helper()
	r := s.await(id, "ends", run.final)
	if diff := cmp.Diff(s.run(id), r); diff != "" {
		s.t.Errorf("the socket's run is not that of the API (-API +socket):\n%s", diff)
	}
	if r.Status != status {
		s.t.Fatalf("run %s ended with %s, want %s: %s", id, r.Status, status, encode(r))
	}
	return r
}

// log is a job's whole log.
func (s *system) log(j job) string {
	s.t.Helper()
	return s.read("/api/v1/jobs/"+j.ID+"/log", "text/plain")
}

// page is the HTML of a run's page.
func (s *system) page(id string) string {
	s.t.Helper()
	return s.read("/run/"+id, "text/html")
}

// read wants a document of this type.
func (s *system) read(path, kind string) string {
	s.t.Helper()
	got := s.ask(http.MethodGet, path, nil, http.StatusOK, nil)
	if is := got.header.Get("Content-Type"); !strings.HasPrefix(is, kind) {
		s.t.Fatalf("%s is %s, want %s: %s", path, is, kind, got.text)
	}
	return got.text
}
