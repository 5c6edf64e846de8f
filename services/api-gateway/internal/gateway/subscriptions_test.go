package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/auth"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/gateway"
)

const transport = "graphql-transport-ws"

// subscriber is a client of graphql-transport-ws.
type subscriber struct {
	t    *testing.T
	conn *websocket.Conn
}

func (s *server) subscriber(headers ...string) *subscriber {
	s.t.Helper()
	conn, refused := s.dialGraphQL(transport, headers...)
	if conn == nil {
		s.t.Fatalf("refused with %d", refused)
	}
	return &subscriber{s.t, conn}
}

// dialGraphQL returns a connection, or the status that refused it.
func (s *server) dialGraphQL(protocol string, headers ...string) (*websocket.Conn, int) {
	s.t.Helper()
	header := http.Header{"Authorization": {"Bearer " + token}}
	for i := 0; i < len(headers); i += 2 {
		if header.Del(headers[i]); headers[i+1] != "" {
			header.Set(headers[i], headers[i+1])
		}
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), limit)
	defer cancel()
	conn, response, err := websocket.Dial(ctx, strings.Replace(s.url, "http", "ws", 1)+"/graphql", &websocket.DialOptions{HTTPHeader: header, Subprotocols: []string{protocol}}) //nolint:bodyclose // Dial closes it
	if err != nil {
		if response == nil {
			s.t.Fatal(err)
		}
		return nil, response.StatusCode
	}
	conn.SetReadLimit(1 << 20)
	s.t.Cleanup(func() { _ = conn.CloseNow() })
	return conn, 0
}

func (c *subscriber) say(message string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), limit)
	defer cancel()
	if err := c.conn.Write(ctx, websocket.MessageText, []byte(message)); err != nil {
		c.t.Fatalf("say %.100s: %v", message, err)
	}
}

func (c *subscriber) greet() *subscriber {
	c.t.Helper()
	c.say(`{"type":"connection_init","payload":{"client":"test"}}`)
	c.expect("connection_ack", "")
	return c
}

func (c *subscriber) subscribe(id, query string) {
	c.t.Helper()
	c.say(fmt.Sprintf(`{"type":"subscribe","id":%q,"payload":%s}`, id, question(c.t, query)))
}

// heard is one message of the server.
type heard struct {
	Type, ID string
	Payload  json.RawMessage
}

func (c *subscriber) hear() (m heard, err error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), limit)
	defer cancel()
	_, text, err := c.conn.Read(ctx)
	if err != nil {
		return m, err
	}
	decode(c.t, string(text), &m)
	return m, nil
}

func (c *subscriber) expect(kind, part string) heard {
	c.t.Helper()
	m, err := c.hear()
	if err != nil || m.Type != kind || !strings.Contains(string(m.Payload), part) {
		c.t.Fatalf("heard %s %s %s (%v), want %s with %s", m.Type, m.ID, m.Payload, err, kind, part)
	}
	return m
}

// closed reads until the connection ends, and returns with which code.
func (c *subscriber) closed() websocket.StatusCode {
	c.t.Helper()
	for {
		if _, err := c.hear(); err != nil {
			return websocket.CloseStatus(err)
		}
	}
}

func TestSubscriptionsKeepToTheProtocol(t *testing.T) {
	t.Parallel()
	s := start(t)
	r := s.create()
	const hello = `{"type":"connection_init"}`
	watch := `{"type":"subscribe","id":"a","payload":` + question(t, `subscription{runChanged(id:"`+r.ID+`"){id}}`) + `}`
	tests := []struct {
		name     string
		messages []string
		code     websocket.StatusCode
	}{
		{"no JSON", []string{"hello"}, 4400},
		{"a JSON list", []string{hello, "[]"}, 4400},
		{"an empty object", []string{"{}"}, 4400},
		{"two objects", []string{hello + hello}, 4400},
		{"an unknown member", []string{`{"type":"connection_init","x":1}`}, 4400},
		{"an unknown type", []string{hello, `{"type":"start","id":"a"}`}, 4400},
		{"what a server says", []string{hello, `{"type":"next","id":"a"}`}, 4400},
		{"an id that is a number", []string{hello, `{"type":"subscribe","id":1}`}, 4400},
		{"no id", []string{hello, `{"type":"subscribe","payload":{"query":"x"}}`}, 4400},
		{"a long id", []string{hello, `{"type":"subscribe","id":"` + strings.Repeat("i", 129) + `","payload":{}}`}, 4400},
		{"two greetings", []string{hello, hello}, 4429},
		{"no greeting", []string{watch}, 4401},
		{"an id that is taken", []string{hello, watch, watch}, 4409},
		{"a message of 300 KB", []string{hello, `{"type":"ping","payload":"` + strings.Repeat("x", 300<<10) + `"}`}, websocket.StatusMessageTooBig},
		{"a depth bomb", []string{hello, `{"type":"ping","payload":` + strings.Repeat("[", 100_000)}, 4400},
	}
	for _, test := range tests {
		c := s.subscriber()
		for _, message := range test.messages {
			_ = c.conn.Write(t.Context(), websocket.MessageText, []byte(message)) // of a long one not all is read
		}
		if code := c.closed(); code != test.code && (test.code != websocket.StatusMessageTooBig || code != -1) {
			t.Errorf("%s: closed with %d, want %d", test.name, code, test.code)
		}
	}
	c := s.subscriber()
	if err := c.conn.Write(t.Context(), websocket.MessageBinary, []byte(hello)); err != nil || c.closed() != 4400 {
		t.Errorf("binary messages are read (%v)", err)
	}
	for _, protocol := range []string{"graphql-ws", "soap"} {
		if conn, _ := s.dialGraphQL(protocol); conn == nil || (&subscriber{t, conn}).closed() != websocket.StatusPolicyViolation {
			t.Errorf("%s is spoken", protocol)
		}
	}
	silent := s.subscriber()
	c = s.subscriber().greet()
	c.say(`{"type":"ping"}`)
	c.expect("pong", "")
	c.say(`{"type":"pong"}`)
	for payload, code := range map[string]string{
		`null`: "query", `{}`: "query", `"x"`: "invalid_json", `[]`: "batch_refused", `{"query":"{workers{id}}"}`: "no_subscription",
		`{"query":"mutation{cancelRun(id:1){run{id}}}"}`: "no_subscription", `{"query":"{"}`: "invalid_query",
		`{"query":"subscription{a:runChanged(id:1){id} b:runChanged(id:1){id}}"}`: "invalid_query", `{"query":"subscription{__typename}"}`: "invalid_query",
		`{"query":"subscription{...on Subscription{__schema{queryType{name}}}}"}`: "invalid_query",
	} {
		c.say(`{"type":"subscribe","id":"x","payload":` + payload + `}`)
		c.expect("error", code)
	}
	c.say(`{"type":"complete","id":"none"}`)
	for i := range 8 {
		c.subscribe(fmt.Sprint(i), `subscription{runChanged(id:"`+r.ID+`"){id}}`)
		c.expect("next", r.ID)
	}
	c.subscribe("8", `subscription{runChanged(id:"`+r.ID+`"){id}}`)
	c.expect("error", "too_many_subscriptions")
	c.say(`{"type":"complete","id":"3"}`)
	c.subscribe("3", `subscription{runChanged(id:"`+r.ID+`"){status}}`)
	c.expect("next", "new")
	s.send("POST", "/api/v1/runs/"+r.ID+"/cancel", "")
	for ended := map[string]bool{}; len(ended) < 8; {
		if m, err := c.hear(); err != nil || m.Type != "next" && m.Type != "complete" {
			t.Fatalf("%+v %v", m, err)
		} else if m.Type == "complete" {
			ended[m.ID] = true
		}
	}
	if code := silent.closed(); code != 4408 {
		t.Errorf("without a greeting it ends with %d", code)
	}
}

func TestSubscriptionsAreNotForEverybody(t *testing.T) {
	t.Parallel()
	s := start(t)
	open := start(t, func(o *gateway.Options) { o.AnonymousRead = true })
	for _, test := range []struct {
		s       *server
		headers []string
		refused int
	}{
		{s, nil, 0},
		{s, []string{"Authorization", ""}, http.StatusUnauthorized},
		{s, []string{"Authorization", "Bearer another-token-of-the-tests"}, http.StatusUnauthorized},
		{s, []string{"Authorization", basicAuth(token)}, http.StatusUnauthorized},
		{open, []string{"Authorization", ""}, 0},
		{s, []string{"Origin", s.url}, 0},
		{s, []string{"Origin", "https://evil.example"}, http.StatusForbidden},
		{s, []string{"Origin", "null"}, http.StatusForbidden},
		{s, []string{"Origin", s.url + ".evil.example"}, http.StatusForbidden},
		{open, []string{"Authorization", "", "Origin", "https://evil.example"}, http.StatusForbidden},
	} {
		conn, refused := test.s.dialGraphQL(transport, test.headers...)
		if refused != test.refused {
			t.Errorf("%v: %d, want %d", test.headers, refused, test.refused)
		}
		if conn != nil {
			(&subscriber{t, conn}).greet()
		}
	}
}

// A client that comes back behind the last byte it has misses none, though every connection breaks off at its first piece, and
// though nobody reads while the log grows.
func TestLogLinesGoOnBehindTheLastByte(t *testing.T) {
	t.Parallel()
	s := start(t)
	r := s.create()
	id := s.plan(r)
	w := s.claim(id)
	var want, got bytes.Buffer
	type piece struct {
		Attempt int
		Offset  int64
		Data    []byte
		Ended   bool
	}
	told := func(m heard) piece {
		var said struct{ Data struct{ LogLines piece } }
		if m.Type != "next" || bytes.Contains(m.Payload, []byte("errors")) {
			t.Fatalf("%s %s", m.Type, m.Payload)
		}
		decode(t, string(m.Payload), &said)
		p := said.Data.LogLines
		if p.Offset != int64(got.Len()) || p.Attempt != 2 {
			t.Fatalf("attempt %d, byte %d, and there are %d: %.300s", p.Attempt, p.Offset, got.Len(), m.Payload)
		}
		got.Write(p.Data)
		return p
	}
	from := ""
	for line := range 5 {
		fmt.Fprintf(io.MultiWriter(&want, w), "line %d %s\n", line, strings.Repeat("\xff\x00é", line*9000))
		c := s.subscriber().greet()
		c.subscribe("log", `subscription{logLines(jobId:"`+id+`"`+from+`){attempt offset data ended}}`)
		told(c.expect("next", "logLines"))
		_ = c.conn.CloseNow()
		from = fmt.Sprintf(",from:{attempt:2,offset:%d}", got.Len())
	}
	c := s.subscriber().greet()
	c.subscribe("log", `subscription{logLines(jobId:"`+id+`"`+from+`){attempt offset data ended}}`)
	for range 12 {
		_, _ = io.MultiWriter(&want, w).Write(bytes.Repeat([]byte("nobody reads this yet, and it is long enough to fill what lies between\n"), 1000))
	}
	s.finish(id, jobs.StatusFailure, w)
	for {
		m, err := c.hear()
		if err != nil {
			t.Fatal(err)
		}
		if m.Type == "complete" {
			break
		}
		told(m)
	}
	if !bytes.Equal(got.Bytes(), want.Bytes()) {
		t.Errorf("%d bytes were told, %d written", got.Len(), want.Len())
	}
}

func TestStoppingTellsSubscribersToComeBack(t *testing.T) {
	t.Parallel()
	s := start(t)
	r := s.create()
	c := s.subscriber().greet()
	c.subscribe("run", `subscription{runChanged(id:"`+r.ID+`"){id}}`)
	c.expect("next", r.ID)
	s.stop()
	c.expect("error", "stopping")
	if code := c.closed(); code != websocket.StatusGoingAway {
		t.Errorf("closed with %d", code)
	}
}

func TestSubscriptionsEndWithTheirToken(t *testing.T) {
	t.Parallel()
	s := start(t)
	r := s.create()
	header, id := s.issue(auth.Prefix+"watches", "read", nil)
	c := s.subscriber("Authorization", header).greet()
	c.subscribe("run", `subscription{runChanged(id:"`+r.ID+`"){id}}`)
	c.expect("next", r.ID)
	if e := s.askAs(header, `mutation{cancelRun(id:"`+r.ID+`"){run{id}}}`).refused(t); e.Extensions.Status != http.StatusForbidden || e.Extensions.Code != "forbidden" {
		t.Errorf("a token that reads cancels: %+v", e)
	}
	s.db.Exec(t, "UPDATE ci_tokens SET revoked_at = now() WHERE id = $1", id)
	if code := c.closed(); code != 4403 {
		t.Errorf("closed with %d", code)
	}
}
