package main_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
)

// What hostile clients do below HTTP's requests: to the binary, which must neither fall, nor grow, nor store anything of it.

const maxMemory = 512 << 10 // KiB: what the gateway may ever have held at once

// rows counts the rows of each table.
func (g *gateway) rows() map[string]int64 {
	g.t.Helper()
	rows := map[string]int64{}
	tables := jobstest.Value[[]string](g.t, g.db, `SELECT array_agg(relname::text) FROM pg_class
		WHERE relkind IN ('r', 'p') AND NOT relispartition AND relnamespace = 'public'::regnamespace`)
	for _, table := range tables {
		rows[table] = jobstest.Value[int64](g.t, g.db, "SELECT count(*) FROM "+table)
	}
	return rows
}

// unharmed sees that there are as many rows as before, that the gateway serves, and what it has held in memory. (That it has not
// panicked is seen when it stops.)
func (g *gateway) unharmed(before map[string]int64) {
	g.t.Helper()
	after := g.rows()
	maps.DeleteFunc(after, func(table string, _ int64) bool { _, was := before[table]; return !was })
	if diff := cmp.Diff(before, after); diff != "" {
		g.t.Errorf("rows (-before +after):\n%s", diff)
	}
	if a := g.send("GET", "/readyz", ""); a.status != http.StatusOK {
		g.t.Errorf("it is not ready: %d %s", a.status, a.body)
	}
	if most := g.memory(); most > maxMemory {
		g.t.Errorf("it has held %d KiB", most)
	}
}

// memory is the most that the process has held, in KiB; 0 where that cannot be known.
func (g *gateway) memory() int {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.pid))
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0
	}
	most, _ := strconv.Atoi(fields[0])
	return most
}

// converse sends bytes as they are, half-closes, and returns the statuses of all that is answered until the end.
func (g *gateway) converse(text string) (statuses []int, err error) {
	conn, err := net.Dial("tcp", g.addr)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(soon))
	go func() {
		_, _ = io.WriteString(conn, text) // it may be cut off
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	answers := bufio.NewReader(conn)
	for {
		response, err := http.ReadResponse(answers, nil)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), isReset(err):
			return statuses, nil
		case err != nil:
			return statuses, err
		}
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		statuses = append(statuses, response.StatusCode)
	}
}

func isReset(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && !op.Timeout()
}

func TestHostileConnectionsAreRefused(t *testing.T) {
	t.Parallel()
	g := start(t)
	before := g.rows()
	const (
		line = "POST /api/v1/runs HTTP/1.1\r\n"
		host = "Host: ci\r\n"
		auth = "Authorization: Bearer " + token + "\r\n"
		kind = "Content-Type: application/json\r\n"
		head = line + host + auth + kind
		body = `{"repository":"https://example.com/owner/name"}`
	)
	length := fmt.Sprintf("Content-Length: %d\r\n", len(body))
	get := func(more string) string { return "GET /api/v1/runs HTTP/1.1\r\n" + host + auth + more + "\r\n" }
	smuggled := "POST /api/v1/runs HTTP/1.1\r\n" + host + kind + length + "\r\n" + body // without credentials
	tests := []struct {
		name, text string
		statuses   []int // empty: closed without a word
	}{
		// Where one request ends and the next begins.
		{"a length and chunks, a request behind the last chunk", head + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled, []int{400, 401}},
		{"chunks and a length, a request in the body", head + "Transfer-Encoding: chunked\r\nContent-Length: " + strconv.Itoa(len(smuggled)+5) + "\r\n\r\n0\r\n\r\n" + smuggled, []int{400, 401}},
		{"two lengths", head + length + "Content-Length: 3\r\n\r\n" + body, []int{400}},
		{"two lengths in one", head + "Content-Length: 47, 3\r\n\r\n" + body, []int{400}},
		{"a length with a plus", head + "Content-Length: +47\r\n\r\n" + body, []int{400}},
		{"a negative length", head + "Content-Length: -1\r\n\r\n" + body, []int{400}},
		{"a hexadecimal length", head + "Content-Length: 0x2f\r\n\r\n" + body, []int{400}},
		{"a length of 30 digits", head + "Content-Length: " + strings.Repeat("9", 30) + "\r\n\r\n" + body, []int{400}},
		{"a length of 2^63", head + "Content-Length: 9223372036854775808\r\n\r\n" + body, []int{400}},
		{"an empty length", head + "Content-Length: \r\n\r\n" + body, []int{400}},
		{"a length that is no number", head + "Content-Length: many\r\n\r\n" + body, []int{400}},
		{"less than was said", head + "Content-Length: 100\r\n\r\n" + body, []int{400}},
		{"an exabyte that does not come", head + "Content-Length: 1152921504606846976\r\n\r\n" + body, []int{400}},
		{"more than was said", head + "Content-Length: 1\r\n\r\n" + body, []int{400, 400}},
		{"a space before the colon", head + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", []int{400}},
		{"an encoding that nobody knows", head + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", []int{501}}, // RFC 9112, 6.1
		{"chunks of chunks", head + "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", []int{501}},
		{"two encodings", head + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", []int{501}},
		{"a packed transfer", head + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", []int{501}},
		{"an encoding behind a vertical tab", head + "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", []int{400}},
		{"a chunk that is no number", head + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", []int{400}},
		{"a chunk of 2^64", head + "Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n", []int{400}},
		{"a negative chunk", head + "Transfer-Encoding: chunked\r\n\r\n-1\r\n", []int{400}},
		{"a chunk that ends early", head + "Transfer-Encoding: chunked\r\n\r\n2f\r\n" + body[:10], []int{400}},
		{"a chunk without its line break", head + "Transfer-Encoding: chunked\r\n\r\n2f\r\n" + body + "0\r\n\r\n", []int{400}},
		{"no last chunk", head + "Transfer-Encoding: chunked\r\n\r\n2f\r\n" + body + "\r\n", []int{400}},
		{"a chunk's extension of 64 KiB", head + "Transfer-Encoding: chunked\r\n\r\n2f;" + strings.Repeat("x", 64<<10) + "\r\n" + body + "\r\n0\r\n\r\n", []int{400}},
		{"a chunked body of 8 MiB", head + "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("400\r\n"+strings.Repeat(" ", 1<<10)+"\r\n", 8<<10), []int{413}},
		{"50,000 chunks of a byte", head + "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("1\r\n \r\n", 50_000) + "0\r\n\r\n", []int{400}},
		{"chunks to HTTP/1.0", strings.Replace(head, "HTTP/1.1", "HTTP/1.0", 1) + "Transfer-Encoding: chunked\r\n\r\n2f\r\n" + body + "\r\n0\r\n\r\n", []int{400}},

		// Lines and fields.
		{"no host", "GET /api/v1/runs HTTP/1.1\r\n\r\n", []int{400}},
		{"two hosts", "GET /api/v1/runs HTTP/1.1\r\n" + host + "Host: evil\r\n\r\n", []int{400}},
		{"a host with a space", "GET /api/v1/runs HTTP/1.1\r\nHost: ci evil\r\n\r\n", []int{400}},
		{"a host with a path", "GET /api/v1/runs HTTP/1.1\r\nHost: ci/evil\r\n\r\n", []int{400}},
		{"a broken escape", "GET /api/v1/runs/%zz HTTP/1.1\r\n" + host + "\r\n", []int{400}},
		{"a NUL in the path", "GET /api/v1/runs/\x00 HTTP/1.1\r\n" + host + "\r\n", []int{400}},
		{"a tab for a space", "GET\t/api/v1/runs\tHTTP/1.1\r\n" + host + "\r\n", []int{400}},
		{"two spaces", "GET  /api/v1/runs HTTP/1.1\r\n" + host + "\r\n", []int{400}},
		{"no version", "GET /api/v1/runs\r\n" + host + "\r\n", []int{400}},
		{"a version that is none", "GET /api/v1/runs HTTP/x\r\n" + host + "\r\n", []int{400}},
		{"another version", "GET /api/v1/runs HTTP/3.0\r\n" + host + "\r\n", []int{505}}, // RFC 9110, 15.6.6
		{"no path", "GET HTTP/1.1\r\n" + host + "\r\n", []int{400}},
		{"a tunnel", "CONNECT db.internal:5432 HTTP/1.1\r\nHost: db.internal:5432\r\n\r\n", []int{405}},
		{"as a proxy", "GET http://169.254.169.254/latest/meta-data HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n", []int{404}},
		{"a field without a colon", get("nonsense\r\n"), []int{400}},
		{"a field without a name", get(": x\r\n"), []int{400}},
		{"a field whose name has a space", get("X Y: x\r\n"), []int{400}},
		{"a NUL in a field", get("X: a\x00b\r\n"), []int{400}},
		{"a carriage return in a field", get("X: a\rb\r\n"), []int{400}},
		{"10,000 fields", get(strings.Repeat("A: b\r\n", 10_000)), []int{431}},
		{"a field of 1 MiB", get("X: " + strings.Repeat("x", 1<<20) + "\r\n"), []int{431}},
		{"a key of 1 MiB", head + "Idempotency-Key: " + strings.Repeat("k", 1<<20) + "\r\n" + length + "\r\n" + body, []int{431}},
		{"a path of 1 MiB", "GET /" + strings.Repeat("a", 1<<20) + " HTTP/1.1\r\n" + host + "\r\n", []int{431}},
		{"half a header", head, []int{400}},
		{"a line without an end", strings.Repeat("A", 10_000), []int{400}},

		// Other protocols.
		{"nothing", "", []int{}},
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("\x00", 505) + "\r\n\r\n", []int{400}},
		{"SSH", "SSH-2.0-OpenSSH_9.2\r\n\r\n", []int{400}},
		{"Redis", "*1\r\n$4\r\nPING\r\n\r\n", []int{400}},
		{"PostgreSQL", "\x00\x00\x00\x08\x04\xd2\x16\x2f\r\n\r\n", []int{400}},
		{"the PROXY protocol", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\n" + host + "\r\n", []int{400}},
		{"HTTP/2 to HTTP/1", "GET /api/v1/runs HTTP/1.1\r\n" + host + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n", []int{401}},
		{"half of HTTP/2's first words", "PRI * HTTP/2.0\r\n\r\nS", []int{404}},
		{"HTTP/2, then nonsense", http2.ClientPreface + strings.Repeat("\xff", 100), nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			statuses, err := g.converse(test.text)
			if test.statuses == nil { // it is answered in another protocol
				return
			}
			if err != nil || fmt.Sprint(statuses) != fmt.Sprint(test.statuses) {
				t.Errorf("answered %v, error %v, want %v", statuses, err, test.statuses)
			}
		})
	}
	g.unharmed(before)
}

// frames is an HTTP/2 connection that says what it likes.
type frames struct {
	*http2.Framer
	conn net.Conn
	text bytes.Buffer
	pack *hpack.Encoder
}

func (g *gateway) frames(t *testing.T) *frames {
	t.Helper()
	conn, err := net.Dial("tcp", g.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(soon))
	_, _ = io.WriteString(conn, http2.ClientPreface)
	f := &frames{Framer: http2.NewFramer(conn, conn), conn: conn}
	f.AllowIllegalWrites = true
	f.pack = hpack.NewEncoder(&f.text)
	_ = f.WriteSettings()
	return f
}

// fields are header fields as they are sent.
func (f *frames) fields(pairs ...string) []byte {
	f.text.Reset()
	for i := 0; i < len(pairs); i += 2 {
		_ = f.pack.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	return bytes.Clone(f.text.Bytes())
}

func (f *frames) request(id uint32, end bool, more ...string) {
	_ = f.WriteHeaders(http2.HeadersFrameParam{
		StreamID: id, EndHeaders: true, EndStream: end,
		BlockFragment: f.fields(append([]string{":method", "GET", ":scheme", "http", ":authority", "ci", ":path", "/api/v1/runs", "authorization", "Bearer " + token}, more...)...),
	})
}

// ends reads until the gateway ends the connection.
func (f *frames) ends(t *testing.T) {
	t.Helper()
	for {
		if _, err := f.ReadFrame(); err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				t.Error("the connection goes on")
			}
			return
		}
	}
}

func TestHostileFramesEndTheirConnection(t *testing.T) {
	t.Parallel()
	g := start(t)
	before := g.rows()
	tests := map[string]func(*frames){
		"10,000 requests, each taken back": func(f *frames) {
			for id := uint32(1); id < 20_000; id += 2 {
				f.request(id, true)
				_ = f.WriteRSTStream(id, http2.ErrCodeCancel)
			}
			_ = f.WriteData(0, false, nil) // in case all of it was taken
		},
		"a header without an end": func(f *frames) {
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.fields(":method", "GET")})
			more := f.fields("x", strings.Repeat("x", 8<<10))
			for range 10_000 {
				if f.WriteContinuation(1, false, more) != nil {
					return
				}
			}
		},
		"a continuation of nothing": func(f *frames) { _ = f.WriteContinuation(1, true, nil) },
		"something between two pieces": func(f *frames) {
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1})
			_ = f.WritePing(false, [8]byte{})
		},
		"fields that cannot be unpacked": func(f *frames) {
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, BlockFragment: []byte("\xff\xff\xff\xff\xff")})
		},
		"an even number":                func(f *frames) { f.request(2, true) },
		"a number below the last one":   func(f *frames) { f.request(9, true); f.request(7, true) },
		"data before a request":         func(f *frames) { _ = f.WriteData(1, true, []byte("x")) },
		"data of stream 0":              func(f *frames) { _ = f.WriteData(0, true, []byte("x")) },
		"a window that grows too large": func(f *frames) { _ = f.WriteWindowUpdate(0, 1<<31-1) },
		"a window that does not grow":   func(f *frames) { _ = f.WriteWindowUpdate(0, 0) },
		"a setting that cannot be": func(f *frames) {
			_ = f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<32 - 1})
		},
		"a frame of 16 MiB": func(f *frames) { _ = f.WriteRawFrame(http2.FrameData, 0, 1, make([]byte, 1<<24-1)) },
		"a push": func(f *frames) {
			_ = f.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, EndHeaders: true})
		},
		"goodbye": func(f *frames) { _ = f.WriteGoAway(0, http2.ErrCodeNo, nil); _ = f.conn.(*net.TCPConn).CloseWrite() },
	}
	t.Run("at once", func(t *testing.T) {
		for name, attack := range tests {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				f := g.frames(t)
				done := make(chan struct{})
				go func() { defer close(done); attack(f) }()
				f.ends(t)
				<-done
			})
		}
	})
	g.unharmed(before)
}

func TestHostileHeadersOfHTTP2AreRefused(t *testing.T) {
	t.Parallel()
	g := start(t)
	f := g.frames(t)
	f.ReadMetaHeaders = hpack.NewDecoder(4<<10, nil)
	long := make([]string, 0, 2_000)
	for i := range 1_000 { // packed small, unpacked large
		long = append(long, "x-"+strconv.Itoa(i%10), strings.Repeat("x", 100))
	}
	requests := map[uint32][]string{
		1:  long,
		3:  {"connection", "keep-alive"},
		5:  {"transfer-encoding", "chunked"},
		7:  {"Upper-Case", "x"},
		9:  {":path", "/api/v1/workers"},
		11: {"te", "gzip"},
		13: {"content-length", "5"},
	}
	for id := uint32(1); id <= 13; id += 2 {
		f.request(id, true, requests[id]...)
	}
	for len(requests) > 0 {
		frame, err := f.ReadFrame()
		if err != nil {
			t.Fatalf("%d were not answered: %v", len(requests), err)
		}
		switch frame := frame.(type) {
		case *http2.RSTStreamFrame: // RFC 9113, 8.1.1: a malformed request
			delete(requests, frame.StreamID)
		case *http2.MetaHeadersFrame:
			if strings.HasPrefix(frame.PseudoValue("status"), "4") {
				delete(requests, frame.StreamID)
			} else {
				t.Errorf("request %d: %s", frame.StreamID, frame.PseudoValue("status"))
			}
		}
	}
}

// Somebody who sends a byte now and then holds a connection, and nothing else, and not for long.
func TestSlowClientsHoldUpNobody(t *testing.T) {
	t.Parallel()
	g := start(t)
	before := g.rows()
	const each = 100
	starts := map[string]string{
		"header": "GET /api/v1/runs HTTP/1.1\r\nHost: ci\r\nX-Slow: ",
		"body":   "POST /api/v1/runs HTTP/1.1\r\nHost: ci\r\nContent-Type: application/json\r\nAuthorization: Bearer " + token + "\r\nContent-Length: 1000\r\n\r\n{",
		"chunks": "POST /lockstep.v1.RunService/CreateRun HTTP/1.1\r\nHost: ci\r\nContent-Type: application/json\r\nAuthorization: Bearer " + token + "\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
		"HTTP/2": http2.ClientPreface[:10],
	}
	var cut sync.WaitGroup
	for name, text := range starts {
		for range each {
			conn, err := net.Dial("tcp", g.addr)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close() })
			_, _ = io.WriteString(conn, text)
			if name == "header" || name == "HTTP/2" {
				cut.Go(func() {
					_ = conn.SetDeadline(time.Now().Add(soon))
					if _, err := io.Copy(io.Discard, conn); err != nil && !isReset(err) {
						t.Errorf("a slow %s: %v", name, err)
					}
				})
			}
		}
	}
	began := time.Now()
	for range 10 {
		if a := g.send("GET", "/api/v1/runs", ""); a.status != http.StatusOK {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("others waited %s", took)
	}
	cut.Wait() // ReadHeaderTimeout
	g.unharmed(before)
}

func TestThousandsOfConnectionsHoldUpNobody(t *testing.T) {
	t.Parallel()
	g := start(t)
	before := g.rows()
	idle, _ := strconv.Atoi(os.Getenv("LOCKSTEP_TEST_CONNECTIONS"))
	for range max(idle, 2_000) {
		conn, err := net.Dial("tcp", g.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	g.unharmed(before)
}
