package gateway_test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// frame is a WebSocket frame as a client sends it: masked, with a mask of zeros.
func frame(first byte, payload string) string {
	head := []byte{first}
	switch n := len(payload); {
	case n < 126:
		head = append(head, 0x80|byte(n))
	case n < 1<<16:
		head = binary.BigEndian.AppendUint16(append(head, 0x80|126), uint16(n))
	default:
		head = binary.BigEndian.AppendUint64(append(head, 0x80|127), uint64(n))
	}
	return string(head) + "\x00\x00\x00\x00" + payload
}

const (
	text, binaryFrame, closing, ping, pong, more, last = 0x81, 0x82, 0x88, 0x89, 0x8a, 0x01, 0x80
)

// Each opens a socket and says something that no WebSocket, or none of ours, may: the gateway ends it within the test's limit.
func TestHostileFramesEndTheirSocket(t *testing.T) {
	t.Parallel()
	s := start(t)
	created := s.create()
	job := s.plan(created)
	before := s.rows()
	follow := func(rest string) string { return frame(text, `{"type":"follow","job_id":"`+job+`",`+rest+`}`) }
	tests := map[string]string{
		// No frames of a client.
		"a frame without a mask":        "\x81\x02{}",
		"a length of 2^63":              "\x81\xff\x80\x00\x00\x00\x00\x00\x00\x00",
		"a length of 2^63-1":            "\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00" + strings.Repeat(" ", 5<<10),
		"a length of 1 GiB":             "\x81\xff\x00\x00\x00\x00\x40\x00\x00\x00\x00\x00\x00\x00" + strings.Repeat(" ", 5<<10),
		"a reserved bit":                frame(0xc1, "{}"),
		"another reserved bit":          frame(0xa1, "{}"),
		"opcode 3":                      frame(0x83, "{}"),
		"opcode 15":                     frame(0x8f, "{}"),
		"a ping in pieces":              frame(0x09, "x"),
		"a ping of 126 bytes":           frame(ping, strings.Repeat("x", 126)),
		"a close of one byte":           frame(closing, "x"),
		"a close with a forbidden code": frame(closing, "\x03\xee"),
		"a close with code 0":           frame(closing, "\x00\x00"),
		"a close that is no UTF-8":      frame(closing, "\x03\xe8\xff"),
		"an end without a beginning":    frame(last, "{}"),
		"two beginnings":                frame(more, "{") + frame(text, "}"),
		"pieces without an end":         frame(more, "{") + strings.Repeat(frame(0, strings.Repeat(" ", 100)), 100),
		"a message of 5 KiB":            frame(text, strings.Repeat(" ", 5<<10)),
		"a message of 1 MiB":            frame(text, strings.Repeat(" ", 1<<20)),
		"HTTP":                          "GET / HTTP/1.1\r\nHost: ci\r\n\r\n",

		// No messages of ours.
		"binary":                         frame(binaryFrame, `{"type":"unfollow","job_id":"1"}`),
		"no UTF-8":                       frame(text, "{\"type\":\"\xff\"}"),
		"nothing":                        frame(text, ""),
		"white space":                    frame(text, " "),
		"NaN":                            frame(text, "NaN"),
		"null":                           frame(text, "null"),
		"a string":                       frame(text, `"follow"`),
		"half an object":                 frame(text, `{"type":"follow"`),
		"4,000 arrays":                   frame(text, strings.Repeat("[", 4_000)),
		"arrays as a value":              follow(`"attempt":` + strings.Repeat("[", 1_000) + strings.Repeat("]", 1_000)),
		"something behind it":            frame(text, `{"type":"unfollow","job_id":"1"}]`),
		"a NUL behind it":                frame(text, "{\"type\":\"unfollow\",\"job_id\":\"1\"}\x00"),
		"a mark before it":               frame(text, "\ufeff{\"type\":\"unfollow\",\"job_id\":\"1\"}"),
		"the same member twice":          follow(`"attempt":1,"attempt":2`),
		"a member in two cases":          follow(`"attempt":1,"Attempt":2`),
		"a member of other case":         frame(text, `{"TYPE":"unfollow","job_id":"1"}`),
		"a number for an id":             frame(text, `{"type":"follow","job_id":1,"attempt":1}`),
		"an id of 2^63":                  frame(text, `{"type":"follow","job_id":"9223372036854775808","attempt":1}`),
		"an id with a zero":              frame(text, `{"type":"follow","job_id":"01","attempt":1}`),
		"attempt 1e400":                  follow(`"attempt":1e400`),
		"attempt 1.5":                    follow(`"attempt":1.5`),
		"attempt 2^31":                   follow(`"attempt":2147483648`),
		"attempt 2^64":                   follow(`"attempt":18446744073709551616`),
		"attempt in letters":             follow(`"attempt":"1"`),
		"offset -1":                      follow(`"attempt":1,"offset":-1`),
		"offset 2^63":                    follow(`"attempt":1,"offset":9223372036854775808`),
		"no attempt":                     follow(`"offset":1`),
		"a type of the gateway":          frame(text, `{"type":"log","job_id":"1"}`),
		"a token":                        follow(`"attempt":1,"token":"x"`),
		"another protocol's first words": frame(text, `{"type":"connection_init"}`),
	}
	t.Run("at once", func(t *testing.T) {
		for name, said := range tests {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				conn, answers := s.upgrade(t, "/api/v1/watch?run="+created.ID)
				go func() { _, _ = io.WriteString(conn, said) }() // it may be cut off
				if err := untilClosed(answers); isTimeout(err) {
					t.Error("the socket goes on")
				}
				_ = conn.Close()
			})
		}
	})
	s.unharmed(before)
}

// A flood of what is allowed is served, or ends its own socket; nobody else feels it.
func TestFloodsOfASocketHoldUpNobody(t *testing.T) {
	t.Parallel()
	s := start(t)
	created := s.create()
	job := s.plan(created)
	before := s.rows()
	for _, said := range []string{frame(ping, "x"), frame(pong, "x"), frame(text, `{"type":"unfollow","job_id":"`+job+`"}`), frame(text, `{"type":"follow","job_id":"`+job+`","attempt":1,"offset":0}`)} {
		conn, answers := s.upgrade(t, "/api/v1/watch?run="+created.ID)
		go func() { _, _ = io.Copy(io.Discard, answers) }()
		for range 10 {
			if _, err := io.WriteString(conn, strings.Repeat(said, 1_000)); err != nil {
				break
			}
		}
	}
	v := s.watch("?run=" + created.ID)
	v.hear("the run", func(m message) bool { return m.Run != nil })
	s.unharmed(before)
}

// untilClosed reads the gateway's frames until it says goodbye (nil), or hangs up.
func untilClosed(answers *bufio.Reader) error {
	for {
		var head [2]byte
		if _, err := io.ReadFull(answers, head[:]); err != nil {
			return err
		}
		size := int64(head[1])
		if extra := map[int64]int{126: 2, 127: 8}[size]; extra > 0 {
			long := make([]byte, 8)
			if _, err := io.ReadFull(answers, long[8-extra:]); err != nil {
				return err
			}
			size = int64(binary.BigEndian.Uint64(long))
		}
		if _, err := io.CopyN(io.Discard, answers, size); err != nil || head[0] == closing {
			return err
		}
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// upgrade opens a WebSocket of which the test itself writes the frames.
func (s *server) upgrade(t *testing.T, path string) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(limit))
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: ci\r\nAuthorization: Bearer %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", path, token)
	answers := bufio.NewReader(conn)
	response, err := http.ReadResponse(answers, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%s: %d", path, response.StatusCode)
	}
	return conn, answers
}

func TestHostileHandshakesAreRefused(t *testing.T) {
	t.Parallel()
	s := start(t)
	created := s.create()
	before := s.rows()
	const key = "Sec-WebSocket-Key"
	tests := []struct {
		name    string
		change  []string
		status  int
		another string // path
	}{
		{"an origin of another site", []string{"Origin", "https://evil.example"}, 403, ""},
		{"an origin of null", []string{"Origin", "null"}, 403, ""},
		{"an origin that is empty", []string{"Origin", " "}, 403, ""},
		{"an origin of a host below", []string{"Origin", "http://evil.127.0.0.1"}, 403, ""},
		{"an origin of a host above", []string{"Origin", "http://127.0.0.1.evil.example"}, 403, ""},
		{"an origin of another port", []string{"Origin", "http://127.0.0.1:1"}, 403, ""},
		{"an origin of a file", []string{"Origin", "file://"}, 403, ""},
		{"an origin with a user", []string{"Origin", "http://127.0.0.1@evil.example"}, 403, ""},
		{"an origin of an extension", []string{"Origin", "chrome-extension://aaaa"}, 403, ""},
		{"an origin without a scheme", []string{"Origin", "127.0.0.1"}, 403, ""},
		{"GraphQL from another site", []string{"Origin", "https://evil.example", "Sec-WebSocket-Protocol", "graphql-transport-ws"}, 403, "/graphql"},
		{"no key", []string{key, ""}, 400, ""},
		{"a key that is none", []string{key, "x"}, 400, ""},
		{"a key of 1 KiB", []string{key, strings.Repeat("A", 1<<10)}, 400, ""},
		{"an old version", []string{"Sec-WebSocket-Version", "8"}, 400, ""},
		{"no version", []string{"Sec-WebSocket-Version", ""}, 400, ""},
		{"no upgrade", []string{"Connection", "keep-alive"}, 400, ""},
		{"a wrong token", []string{"Authorization", "Bearer wrong"}, 401, ""},
		{"no token", []string{"Authorization", ""}, 401, ""},
		{"a token as a protocol", []string{"Authorization", "", "Sec-WebSocket-Protocol", "bearer, " + token}, 401, ""},
		{"a token as a cookie", []string{"Authorization", "", "Cookie", "token=" + token}, 401, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := "/api/v1/watch?run=" + created.ID
			if test.another != "" {
				path = test.another
			}
			a := s.exchange("GET", path, "", func(h http.Header) {
				h.Set("Connection", "Upgrade")
				h.Set("Upgrade", "websocket")
				h.Set("Sec-WebSocket-Version", "13")
				h.Set(key, "AAAAAAAAAAAAAAAAAAAAAA==")
				set(test.change)(h)
			})
			if a.status != test.status {
				t.Errorf("%d %s, want %d", a.status, a.body, test.status)
			}
		})
	}
	s.unharmed(before)
}
