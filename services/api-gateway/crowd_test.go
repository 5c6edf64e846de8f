package main_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/protobuf/proto"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
	lockstepv1 "github.com/lockstep-ci/lockstep/services/api-gateway/gen/lockstep/v1"
	"github.com/lockstep-ci/lockstep/services/api-gateway/gen/lockstep/v1/lockstepv1connect"
)

// Many at once, and slow ones. `make bench` does the same in full size.

func TestDeliveriesThatComeManyTimesToManyGatewaysAreOneRunEach(t *testing.T) {
	t.Parallel()
	const deliveries, copies, gateways, senders = 100, 20, 4, 16
	db := jobstest.New(t)
	var to []*gateway
	for range gateways {
		to = append(to, startOn(t, db))
	}
	order := rand.Perm(deliveries * copies)
	var next atomic.Int64
	var mu sync.Mutex
	answers := map[string]map[string]int{} // by delivery: how often each run was named
	var all sync.WaitGroup
	for range senders {
		all.Go(func() {
			for i := next.Add(1); int(i) <= len(order); i = next.Add(1) {
				id := fmt.Sprintf("delivery-%d", order[i-1]%deliveries)
				run := to[rand.IntN(gateways)].deliver(id)
				mu.Lock()
				if answers[id] == nil {
					answers[id] = map[string]int{}
				}
				answers[id][run]++
				mu.Unlock()
			}
		})
	}
	all.Wait()
	stored := jobstest.Value[map[string]string](t, db, "SELECT jsonb_object_agg(idempotency_key, id::text) FROM ci_runs")
	if n := jobstest.Value[int](t, db, "SELECT count(*)::integer FROM ci_runs"); n != deliveries || len(stored) != deliveries {
		t.Errorf("%d runs for %d deliveries", n, deliveries)
	}
	for id, runs := range answers {
		if runs[stored[id]] != copies {
			t.Errorf("%s is run %s, and was answered with %v", id, stored[id], runs)
		}
	}
}

// deliver posts a signed push, and returns the run that the answer names.
func (g *gateway) deliver(id string) (run string) {
	body := `{"ref":"refs/heads/main","before":"` + strings.Repeat("0", 40) + `","after":"` + strings.Repeat("a", 40) +
		`","repository":{"id":1,"full_name":"owner/name","html_url":"https://github.com/owner/name","owner":{"login":"owner","id":2}},"sender":{"login":"ada","id":1}}`
	mac := hmac.New(sha256.New, []byte("a-secret-of-the-tests"))
	mac.Write([]byte(body))
	a := g.send("POST", "/webhooks/github", body, "Authorization", "", "X-GitHub-Event", "push", "X-GitHub-Delivery", id,
		"X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	var answer struct {
		RunID string `json:"run_id"`
	}
	if err := json.Unmarshal([]byte(a.body), &answer); err != nil || a.status != http.StatusAccepted {
		g.t.Errorf("%s: %d %s", id, a.status, a.body)
	}
	return answer.RunID
}

func TestACrowdOfWatchersMissesNothing(t *testing.T) {
	t.Parallel()
	g := start(t)
	run, job := g.create()
	g.plan(job)
	w := g.claim(job)
	kinds := []func(*watcher) error{ // ten of them are 200 watchers
		func(one *watcher) error { return g.followBySocket(run, job, one) },
		func(one *watcher) error {
			_, err := g.listen("/api/v1/runs/"+run+"/events?logs="+job, "", one, nil)
			return err
		},
	}
	for _, client := range g.rpcs(token) {
		kinds = append(kinds, func(one *watcher) error { // a log only: the run's end is told to others
			return client.stream(g.context(), lockstepv1connect.JobServiceFollowLogProcedure, &lockstepv1.FollowLogRequest{JobId: job},
				func() proto.Message { return &lockstepv1.FollowLogResponse{} }, func(m proto.Message) { one.add(m.(*lockstepv1.FollowLogResponse)) })
		})
	}
	const crowd = 200
	var all sync.WaitGroup
	watchers := make([]*watcher, crowd)
	for i := range watchers {
		watchers[i] = &watcher{name: fmt.Sprintf("watcher %d of kind %d", i, i%len(kinds))}
		all.Go(func() { watchers[i].err = kinds[i%len(kinds)](watchers[i]) })
	}
	g.watched(func(n int) bool { return n == crowd })

	var want bytes.Buffer
	for line := range 200 { // each step is a change that nobody is notified of, among those that everybody is
		fmt.Fprintf(io.MultiWriter(&want, w), "line %d\n", line)
		if line%10 == 0 {
			g.db.Exec(t, "INSERT INTO ci_steps (job_id, attempt, number, name, status) VALUES ($1::text::bigint, 2, $2, 'a step', 'running')", job, line+1)
		}
	}
	if n := jobstest.Value[int](t, g.db, "SELECT count(*)::integer FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'api-gateway' AND query LIKE 'SELECT pg_notify%'"); n > 1 {
		t.Errorf("the gateway listens on %d connections", n)
	}
	g.end(job, jobs.StatusSuccess, w)
	all.Wait()
	last := g.send("GET", "/api/v1/runs/"+run, "").body
	for i, one := range watchers {
		if got := strings.TrimPrefix(one.log.String(), "2:"); one.err != nil || got != want.String() {
			t.Errorf("%s: %v, and %d bytes of %d", one.name, one.err, len(got), want.Len())
		}
		if i%len(kinds) < 2 && (len(one.states) == 0 || one.states[len(one.states)-1] != last) {
			t.Errorf("%s saw %d states, but not the last", one.name, len(one.states))
		}
	}
	g.watched(func(n int) bool { return n == 0 })
}

// followBySocket watches until the run has ended, and the log of its second attempt.
func (g *gateway) followBySocket(run, job string, one *watcher) error {
	ctx := g.context()
	conn, err := g.dial(ctx, run, nil)
	if err != nil {
		return err
	}
	defer func() { _ = conn.CloseNow() }()
	if err := follow(ctx, conn, job, 0); err != nil {
		return err
	}
	for ended, final := false, false; !ended || !final; {
		_, message, err := conn.Read(ctx)
		if err != nil {
			return err
		}
		m := one.hear(g.t, message)
		ended, final = ended || m.Ended, final || strings.Contains(string(m.Run), `"status":"success","url"`)
	}
	return nil
}

func (g *gateway) dial(ctx context.Context, run string, client *http.Client) (*websocket.Conn, error) {
	conn, _, err := websocket.Dial(ctx, "ws://"+g.addr+"/api/v1/watch?run="+run, //nolint:bodyclose // Dial closes it
		&websocket.DialOptions{HTTPClient: client, HTTPHeader: http.Header{"Authorization": {"Bearer " + token}}})
	if err == nil {
		conn.SetReadLimit(1 << 20)
	}
	return conn, err
}

// follow asks for the log of a job's second attempt.
func follow(ctx context.Context, conn *websocket.Conn, job string, offset int64) error {
	return conn.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `{"type":"follow","job_id":%q,"attempt":2,"offset":%d}`, job, offset))
}

// watched waits until as many watch as wanted.
func (g *gateway) watched(wanted func(n int) bool) {
	g.t.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(soon); ; <-ticker.C {
		_, rest, _ := strings.Cut(g.send("GET", "/metrics", "").body, "\nlockstep_watchers ")
		text, _, _ := strings.Cut(rest, "\n")
		n, err := strconv.Atoi(text)
		switch {
		case err != nil:
			g.t.Fatalf("the metrics have no lockstep_watchers: %v", err)
		case wanted(n):
			return
		case time.Now().After(deadline):
			g.t.Fatalf("%d watch", n)
		}
	}
}

// A reader that takes nothing, or next to nothing, is dropped: it costs little memory, holds up nobody, and lacks nothing when
// it has come back.
func TestSlowReadersAreDroppedAndGoOnWhereTheyStopped(t *testing.T) {
	t.Parallel()
	g := start(t)
	run, job := g.create()
	g.plan(job)
	w := g.claim(job)
	text := bytes.Repeat([]byte("0123456789abcde\n"), 512<<10) // 8 MiB: more than sockets hold
	if _, err := w.Write(text); err != nil {
		t.Fatal(err)
	}
	ctx := g.context()
	reading := make(chan struct{}) // closed: from now on everybody reads as fast as there is something to read
	type reader struct {
		name string
		conn *websocket.Conn
		got  chan int64 // sent once: how many bytes of the log had come when the connection ended
	}
	var readers []reader
	for i := range 12 {
		r := reader{name: "reads never", got: make(chan int64, 1)}
		if i%2 == 1 {
			r.name = "reads a byte a second"
		}
		client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &slowConn{Conn: conn, quick: reading}, conn.(*net.TCPConn).SetReadBuffer(128 << 10)
		}}}
		var err error
		if r.conn, err = g.dial(ctx, run, client); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = r.conn.CloseNow() }()
		if err := follow(ctx, r.conn, job, 0); err != nil {
			t.Fatal(err)
		}
		go func() {
			if r.name == "reads never" {
				<-reading
			}
			var size int64
			for {
				_, message, err := r.conn.Read(ctx)
				if err != nil {
					r.got <- size
					return
				}
				var m told
				if err := json.Unmarshal(message, &m); err != nil || m.Type == "log" && m.Offset != size {
					t.Errorf("who %s got %.80s after %d bytes (%v)", r.name, message, size, err)
				}
				size += int64(len(m.Data))
			}
		}()
		readers = append(readers, r)
	}
	quick := &watcher{name: "a quick one"}
	done := make(chan error, 1)
	go func() { done <- g.followBySocket(run, job, quick) }()

	g.watched(func(n int) bool { return n <= 1 }) // the quick one
	if peak := peakMemory(t, g.pid); peak > 80<<20 {
		t.Errorf("the gateway has held %d MiB for %d slow readers of a log of %d MiB", peak>>20, len(readers), len(text)>>20)
	}
	for _, r := range readers[2:] {
		_ = r.conn.CloseNow()
	}
	close(reading)
	for _, r := range readers[2:] {
		<-r.got
	}
	g.end(job, jobs.StatusSuccess, w)
	if err := <-done; err != nil || strings.TrimPrefix(quick.log.String(), "2:") != string(text) {
		t.Errorf("the quick one: %v, %d bytes", err, quick.log.Len())
	}
	for _, r := range readers[:2] { // one of each kind comes back
		size := <-r.got
		if size >= int64(len(text)) {
			t.Errorf("who %s was not dropped", r.name)
		}
		if rest := g.logFrom(run, job, size); size+rest != int64(len(text)) {
			t.Errorf("who %s got %d bytes, then %d, of %d", r.name, size, rest, len(text))
		}
	}
}

// What the gateway tells is written past the WebSocket library, which answers pings on the same connection.
func TestPongsFitBetweenWhatIsTold(t *testing.T) {
	t.Parallel()
	g := start(t)
	run, job := g.create()
	g.plan(job)
	w := g.claim(job)
	ctx := g.context()
	conn, err := g.dial(ctx, run, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.CloseNow() }()
	if err := follow(ctx, conn, job, 0); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var pongs atomic.Int64
	var pinging sync.WaitGroup
	for range 32 { // each waits for its pong
		pinging.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if err := conn.Ping(ctx); err != nil {
					t.Errorf("ping: %v", err)
					return
				}
				pongs.Add(1)
			}
		})
	}
	const lines = 40_000 // 4 MB: they come in many pieces
	for line := range lines {
		if _, err := fmt.Fprintf(w, "%99d\n", line); err != nil {
			t.Fatal(err)
		}
	}
	var size int64
	for size < 100*lines {
		_, message, err := conn.Read(ctx)
		var m told
		if err == nil {
			err = json.Unmarshal(message, &m)
		}
		if err != nil || m.Type == "log" && m.Offset != size {
			t.Fatalf("after %d bytes: %.80s (%v)", size, message, err)
		}
		size += int64(len(m.Data))
	}
	close(done)
	go func() { _, _, _ = conn.Read(ctx) }() // for the last pongs
	pinging.Wait()
	if n := pongs.Load(); n <= 32 {
		t.Errorf("%d pongs while the log came", n)
	}
	g.end(job, jobs.StatusSuccess, w)
}

// logFrom follows a log from a byte on to its end, and returns how long that is.
func (g *gateway) logFrom(run, job string, offset int64) (size int64) {
	g.t.Helper()
	ctx := g.context()
	conn, err := g.dial(ctx, run, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	defer func() { _ = conn.CloseNow() }()
	if err := follow(ctx, conn, job, offset); err != nil {
		g.t.Fatal(err)
	}
	for ended := false; !ended; {
		_, message, err := conn.Read(ctx)
		var m told
		if err == nil {
			err = json.Unmarshal(message, &m)
		}
		if err != nil || m.Type == "log" && m.Offset != offset+size {
			g.t.Fatalf("after %d bytes: %.80s (%v)", offset+size, message, err)
		}
		size, ended = size+int64(len(m.Data)), m.Ended
	}
	return size
}

// slowConn reads a byte a second until it may be quick.
type slowConn struct {
	net.Conn
	quick <-chan struct{}
	head  bool
}

func (c *slowConn) Read(p []byte) (int, error) {
	if !c.head { // the answer that makes it a WebSocket
		c.head = true
		return c.Conn.Read(p)
	}
	select {
	case <-c.quick:
		return c.Conn.Read(p)
	case <-time.After(time.Second):
		return c.Conn.Read(p[:1])
	}
}

func peakMemory(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if errors.Is(err, os.ErrNotExist) {
		return 0 // not Linux
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	fields := strings.Fields(rest)
	if err != nil || len(fields) == 0 {
		t.Fatalf("memory of the gateway: %v", err)
	}
	kB, err := strconv.Atoi(fields[0])
	if err != nil {
		t.Fatalf("memory of the gateway: %v", err)
	}
	return kB << 10
}
