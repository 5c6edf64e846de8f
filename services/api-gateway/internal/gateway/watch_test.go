package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/gateway"
)

// viewer is a page's socket.
type viewer struct {
	t    *testing.T
	ctx  context.Context
	conn *websocket.Conn
}

// message is anything that the socket says.
type message struct {
	Type    string
	Run     *run
	Runs    []run
	JobID   string `json:"job_id"`
	Attempt int
	Offset  int64
	Data    []byte
	Ended   bool
	Code    string
	Field   string
}

func (s *server) watch(query string, headers ...string) *viewer {
	s.t.Helper()
	conn, status, err := s.dial(query, headers...)
	if err != nil {
		s.t.Fatalf("watch%s: %d %v", query, status, err)
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*limit)
	s.t.Cleanup(cancel)
	conn.SetReadLimit(1 << 20)
	v := &viewer{s.t, ctx, conn}
	s.t.Cleanup(v.leave)
	return v
}

func (s *server) dial(query string, headers ...string) (conn *websocket.Conn, status int, err error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), limit)
	defer cancel()
	header := http.Header{"Authorization": {"Bearer " + token}}
	for i := 0; i < len(headers); i += 2 {
		header.Set(headers[i], headers[i+1])
	}
	url := strings.Replace(s.url, "http", "ws", 1) + "/api/v1/watch" + query
	conn, response, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPHeader: header})
	if response != nil {
		status = response.StatusCode
		if err != nil {
			_ = response.Body.Close()
		}
	}
	return conn, status, err
}

func (v *viewer) leave() { _ = v.conn.CloseNow() }

func (v *viewer) say(m any) {
	v.t.Helper()
	text, _ := json.Marshal(m)
	if err := v.conn.Write(v.ctx, websocket.MessageText, text); err != nil {
		v.t.Fatalf("say %s: %v", text, err)
	}
}

func (v *viewer) follow(jobID string, attempt int, offset int64) {
	v.t.Helper()
	v.say(map[string]any{"type": "follow", "job_id": jobID, "attempt": attempt, "offset": offset})
}

// hear waits for a message that is wanted; others pass by.
func (v *viewer) hear(what string, wanted func(message) bool) message {
	v.t.Helper()
	for {
		_, text, err := v.conn.Read(v.ctx)
		if err != nil {
			v.t.Fatalf("wait for %s: %v", what, err)
		}
		var m message
		decode(v.t, string(text), &m)
		if wanted(m) {
			return m
		}
	}
}

func (v *viewer) hearStatus(status jobs.Status) run {
	v.t.Helper()
	return *v.hear("status "+string(status), func(m message) bool { return m.Run != nil && m.Run.Status == status }).Run
}

// hearLog reads pieces of a log from an offset on until it has size bytes, or (0) all of it. A gap or a repetition fails.
func (v *viewer) hearLog(jobID string, attempt int, offset int64, size int) []byte {
	v.t.Helper()
	var text []byte
	for ended := false; !ended && (size == 0 || len(text) < size); {
		m := v.hear("log", func(m message) bool { return m.Type == "log" && m.JobID == jobID && m.Attempt == attempt })
		if m.Offset != offset+int64(len(text)) {
			v.t.Fatalf("a piece from byte %d on, wanted byte %d", m.Offset, offset+int64(len(text)))
		}
		text, ended = append(text, m.Data...), m.Ended
	}
	return text
}

func TestWatcherSeesEveryState(t *testing.T) {
	t.Parallel()
	s := start(t)
	created := s.create()
	v := s.watch("?run=" + created.ID)
	first := v.hearStatus(jobs.StatusNew)
	if first.URL != created.URL || first.Version != created.Version || len(first.Jobs) != 1 {
		t.Errorf("first: %+v", first)
	}
	jobID := s.plan(created)
	planned := v.hearStatus(jobs.StatusRunning)
	if planned.Jobs[0].Name != "ci / test" || planned.Version <= first.Version {
		t.Errorf("planned: %+v", planned)
	}
	w := s.claim(jobID)
	s.db.Exec(t, "INSERT INTO ci_steps (job_id, attempt, number, name, status, started_at) VALUES ($1::text::bigint, 2, 1, 'go test', 'running', now())", jobID)
	stepping := v.hear("a running step", func(m message) bool {
		return m.Run != nil && len(m.Run.Jobs[0].Steps) == 1 && m.Run.Jobs[0].Steps[0].Status == "running"
	})
	s.db.Exec(t, "UPDATE ci_steps SET status = 'success', exit_code = 0, finished_at = now()")
	s.finish(jobID, jobs.StatusSuccess, w)
	last := v.hearStatus(jobs.StatusSuccess)
	if last.Version <= stepping.Run.Version || last.FinishedAt == nil || last.Jobs[0].Steps[0].Status != "success" {
		t.Errorf("last: %+v", last)
	}
}

func TestListIsLive(t *testing.T) {
	t.Parallel()
	s := start(t)
	v := s.watch("")
	v.hear("an empty list", func(m message) bool { return m.Type == "runs" && len(m.Runs) == 0 })
	created := s.create()
	v.hear("the run", func(m message) bool {
		return len(m.Runs) == 1 && m.Runs[0].ID == created.ID && m.Runs[0].Status == jobs.StatusNew
	})
	s.send("POST", "/api/v1/runs/"+created.ID+"/cancel", "")
	v.hear("its end", func(m message) bool { return len(m.Runs) == 1 && m.Runs[0].Status == jobs.StatusCancelled })
}

func TestLostWakeCostsTimeOnly(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.db.Exec(t, "ALTER TABLE ci_jobs DISABLE TRIGGER ci_jobs_notify_insert")
	s.db.Exec(t, "ALTER TABLE ci_jobs DISABLE TRIGGER ci_jobs_notify_update")
	list := s.watch("")
	list.hear("an empty list", func(m message) bool { return m.Type == "runs" && len(m.Runs) == 0 })
	created := s.create()
	list.hear("the run", func(m message) bool { return len(m.Runs) == 1 })
	v := s.watch("?run=" + created.ID)
	v.hearStatus(jobs.StatusNew)
	jobID := s.plan(created)
	v.hearStatus(jobs.StatusRunning)
	v.follow(jobID, 2, 0)
	w := s.claim(jobID)
	_, _ = fmt.Fprintln(w, "hello")
	if got := v.hearLog(jobID, 2, 0, 6); string(got) != "hello\n" {
		t.Errorf("log %q", got)
	}
	s.finish(jobID, jobs.StatusSuccess, w)
	v.hearStatus(jobs.StatusSuccess)
}

func TestReconnectedWatcherMissesNothing(t *testing.T) {
	t.Parallel()
	s := start(t)
	jobID := s.plan(s.create())
	w := s.claim(jobID)
	var want bytes.Buffer
	for i := range 40_000 {
		fmt.Fprintf(&want, "line %d \x00\xff\n", i)
	}
	var writing sync.WaitGroup
	writing.Go(func() {
		for text := want.Bytes(); len(text) > 0; {
			n := min(len(text), 10_007)
			_, _ = w.Write(text[:n])
			text = text[n:]
		}
		s.finish(jobID, jobs.StatusSuccess, w)
	})
	var got []byte
	for part := range 5 { // each connection breaks in the middle of something
		v := s.watch("?run=" + s.runOf(jobID))
		v.follow(jobID, 2, int64(len(got)))
		size := 100_000
		if part == 4 {
			size = 0
		}
		got = append(got, v.hearLog(jobID, 2, int64(len(got)), size)...)
		v.leave()
		got = got[:len(got)-len(got)%7*(4-part)/4] // what the page had not yet shown is asked for again
	}
	writing.Wait()
	if !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%d bytes, want %d", len(got), want.Len())
	}
}

func (s *server) runOf(jobID string) string {
	return jobstest.Value[string](s.t, s.db, "SELECT run_id::text FROM ci_jobs WHERE id = $1::text::bigint", jobID)
}

func TestReaderThatStopsReadingHoldsUpNobody(t *testing.T) {
	t.Parallel()
	s := start(t)
	created := s.create()
	jobID := s.plan(created)
	w := s.claim(jobID)
	text := bytes.Repeat([]byte("0123456789abcde\n"), 512<<10) // 8 MiB: more than any socket buffers
	_, _ = w.Write(text)
	slow := s.watch("?run=" + created.ID)
	slow.follow(jobID, 2, 0)
	slow.hearLog(jobID, 2, 0, 1) // and reads no more

	quick := s.watch("?run=" + created.ID)
	quick.follow(jobID, 2, 0)
	if got := quick.hearLog(jobID, 2, 0, len(text)); !bytes.Equal(got, text) {
		t.Errorf("%d bytes", len(got))
	}
	s.finish(jobID, jobs.StatusSuccess, w)
	quick.hearStatus(jobs.StatusSuccess)
}

func TestManyWatchersOfOneLogAllSeeItsEnd(t *testing.T) {
	t.Parallel()
	s := start(t)
	created := s.create()
	jobID := s.plan(created)
	w := s.claim(jobID)
	const watchers = 100
	var all sync.WaitGroup
	for range watchers {
		v := s.watch("?run=" + created.ID)
		v.follow(jobID, 2, 0)
		all.Go(func() {
			if got := v.hearLog(jobID, 2, 0, 0); string(got) != "hello\n" {
				t.Errorf("log %q", got)
			}
		})
	}
	_, _ = fmt.Fprintln(w, "hello")
	s.finish(jobID, jobs.StatusSuccess, w)
	all.Wait()
}

func TestStoppingSendsWatchersAway(t *testing.T) {
	t.Parallel()
	s := start(t)
	v := s.watch("?run=" + s.create().ID)
	v.hearStatus(jobs.StatusNew)
	s.stop()
	for {
		_, _, err := v.conn.Read(v.ctx)
		if err == nil {
			continue
		}
		if websocket.CloseStatus(err) != websocket.StatusGoingAway {
			t.Errorf("closed with %v", err)
		}
		return
	}
}

func TestPagesOfOtherSitesMayNotWatch(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *gateway.Options) { o.PublicURL = "https://ci.example.com" })
	host, run := strings.TrimPrefix(s.url, "http://"), s.create().ID
	for origin, may := range map[string]bool{
		"https://ci.example.com": true, "http://" + host: true,
		"http://ci.example.com": false, "https://ci.example.com.evil.example": false, "https://evil.example": false, "null": false,
		"https://ci.example.com:444": false, "file://": false, "http://127.0.0.1": false, " ": false,
	} {
		conn, status, err := s.dial("", "Origin", origin)
		if (err == nil) != may || err != nil && status != http.StatusForbidden {
			t.Errorf("origin %q: %d %v", origin, status, err)
		}
		if err == nil {
			_ = conn.CloseNow()
		}
		events := s.send("HEAD", "/api/v1/runs/"+run+"/events", "", "Origin", origin)
		if (events.status == http.StatusOK) != may || !may && events.status != http.StatusForbidden {
			t.Errorf("origin %q, events: %d", origin, events.status)
		}
	}
}

func TestBadMessagesEndTheConversation(t *testing.T) {
	t.Parallel()
	s := start(t)
	created := s.create()
	other := s.create().Jobs[0].ID
	jobID := created.Jobs[0].ID
	tests := []struct{ name, text, code, field string }{
		{"no JSON", `hello`, "invalid_message", ""},
		{"an array", `[]`, "invalid_message", ""},
		{"two", `{"type":"unfollow","job_id":"1"} {}`, "invalid_message", ""},
		{"an unknown field", `{"type":"follow","job_id":"` + jobID + `","attempt":1,"offset":0,"token":"x"}`, "invalid_message", ""},
		{"no type", `{"job_id":"` + jobID + `","attempt":1}`, "invalid_message", "type"},
		{"an unknown type", `{"type":"cancel","job_id":"` + jobID + `"}`, "invalid_message", "type"},
		{"no job", `{"type":"follow","attempt":1}`, "invalid_message", "job_id"},
		{"a job that is no number", `{"type":"follow","job_id":"x","attempt":1}`, "invalid_message", "job_id"},
		{"attempt 0", `{"type":"follow","job_id":"` + jobID + `","attempt":0}`, "invalid_message", "attempt"},
		{"an attempt too large", `{"type":"follow","job_id":"` + jobID + `","attempt":2147483648}`, "invalid_message", "attempt"},
		{"a negative offset", `{"type":"follow","job_id":"` + jobID + `","attempt":1,"offset":-1}`, "invalid_message", "offset"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			v := s.watch("?run=" + created.ID)
			if err := v.conn.Write(v.ctx, websocket.MessageText, []byte(test.text)); err != nil {
				t.Fatal(err)
			}
			m := v.hear("a problem", func(m message) bool { return m.Type == "problem" })
			if m.Code != test.code || m.Field != test.field {
				t.Errorf("%+v", m)
			}
			for {
				if _, _, err := v.conn.Read(v.ctx); err != nil {
					if websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
						t.Errorf("closed with %v", err)
					}
					return
				}
			}
		})
	}
	t.Run("a job of another run", func(t *testing.T) {
		v := s.watch("?run=" + created.ID)
		v.follow(other, 1, 0)
		if m := v.hear("a problem", func(m message) bool { return m.Type == "problem" }); m.Code != "log_unavailable" {
			t.Errorf("%+v", m)
		}
	})
	t.Run("too many logs", func(t *testing.T) {
		v := s.watch("?run=" + created.ID)
		for i := range 20 {
			v.follow(strconv.Itoa(1000+i), 1, 0)
		}
		v.hear("a problem", func(m message) bool { return m.Code == "log_unavailable" || m.Code == "too_many_logs" })
	})
	t.Run("a large message", func(t *testing.T) {
		v := s.watch("?run=" + created.ID)
		_ = v.conn.Write(v.ctx, websocket.MessageText, bytes.Repeat([]byte(" "), 64<<10))
		for {
			if _, _, err := v.conn.Read(v.ctx); err != nil {
				return // it is closed, with whatever code
			}
		}
	})
}

func TestDatabaseAwayIsSaidAndOvercome(t *testing.T) {
	t.Parallel()
	s := start(t)
	created := s.create()
	jobID := s.plan(created)
	v := s.watch("?run=" + created.ID)
	v.hearStatus(jobs.StatusRunning)

	name := jobstest.Value[string](t, s.db, "SELECT current_database()")
	other := jobstest.New(t) // to speak to the server from
	other.Exec(t, "ALTER DATABASE "+name+" ALLOW_CONNECTIONS false")
	other.Exec(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
	for _, request := range [][]string{
		{"GET", "/api/v1/runs", ""},
		{"GET", "/api/v1/jobs/" + jobID + "/log", ""},
		{"POST", "/api/v1/runs", `{"repository":"https://example.com/owner/name"}`},
	} {
		a := s.send(request[0], request[1], request[2])
		if p := a.problem(t); a.status != http.StatusServiceUnavailable || p.Code != "database_unavailable" || a.header.Get("Retry-After") == "" {
			t.Errorf("%v: %d %s", request, a.status, a.body)
		}
	}
	if a := s.deliver("push", "while-away", payload(t, "push")); a.status != http.StatusServiceUnavailable {
		t.Errorf("webhook: %d %s", a.status, a.body)
	}
	if a := s.send("GET", "/run/"+created.ID, ""); a.status != http.StatusServiceUnavailable || !strings.HasPrefix(a.header.Get("Content-Type"), "text/html") {
		t.Errorf("page: %d %s", a.status, a.body)
	}
	if a := s.send("GET", "/readyz", ""); a.status != http.StatusServiceUnavailable {
		t.Errorf("readyz: %d", a.status)
	}
	if a := s.send("GET", "/healthz", ""); a.status != http.StatusOK {
		t.Errorf("healthz: %d", a.status)
	}

	other.Exec(t, "ALTER DATABASE "+name+" ALLOW_CONNECTIONS true")
	for deadline := time.Now().Add(limit); ; {
		if s.send("GET", "/readyz", "").status == http.StatusOK {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("not ready again")
		}
	}
	s.db.Pool.Reset()
	s.finish(jobID, jobs.StatusSuccess, s.claim(jobID))
	v.hearStatus(jobs.StatusSuccess) // on the same socket
	s.create()
}
