package gateway_test

import (
	"cmp"
	"context"
	"encoding/binary"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"connectrpc.com/connect"
)

// call is a request of Connect, gRPC or gRPC-Web that must be refused with a code of these protocols, or with a status of HTTP.
type call struct {
	name, method, kind, body string
	headers                  []string
	want                     string
}

func TestHostileCallsAreRefused(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.create()
	before := s.rows()
	for _, test := range hostileCalls() {
		t.Run(test.name, func(t *testing.T) {
			if got := s.callCode(t, test); got != test.want {
				t.Errorf("it ends with %s, want %s", got, test.want)
			}
		})
	}
	s.unharmed(before)
}

var (
	connectCode = regexp.MustCompile(`"code":\s*"([a-z_]+)"`)
	grpcStatus  = regexp.MustCompile(`grpc-status: ([0-9]+)`)
)

// callCode makes a call and returns how it ended, in the words of Connect.
func (s *server) callCode(t *testing.T, c call) string {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	verb := http.MethodPost
	if c.kind == "GET" {
		verb = c.kind
	}
	request, err := http.NewRequestWithContext(ctx, verb, s.url+"/lockstep.v1."+c.method, strings.NewReader(c.body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	if verb == http.MethodPost && c.kind != "" {
		request.Header.Set("Content-Type", c.kind)
	}
	set(c.headers)(request.Header)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if len(text) > 4<<10 {
		t.Errorf("it is answered with %d bytes", len(text))
	}
	status := cmp.Or(response.Header.Get("Grpc-Status"), response.Trailer.Get("Grpc-Status"))
	if found := grpcStatus.FindSubmatch(text); found != nil {
		status = string(found[1])
	}
	if n, err := strconv.ParseUint(status, 10, 8); err == nil && n > 0 {
		return connect.Code(n).String()
	}
	if found := connectCode.FindSubmatch(text); found != nil {
		return string(found[1])
	}
	return strconv.Itoa(response.StatusCode)
}

// framed is a message as gRPC frames it.
func framed(flags byte, message string) string {
	return string(binary.BigEndian.AppendUint32([]byte{flags}, uint32(len(message)))) + message
}

func hostileCalls() []call {
	const (
		create, get, list, follow = "RunService/CreateRun", "RunService/GetRun", "RunService/ListRuns", "JobService/FollowLog"
		json, proto               = "application/json", "application/proto"
		grpc, web, stream         = "application/grpc", "application/grpc-web+proto", "application/connect+json"
		invalid, large, unknown   = "invalid_argument", "resource_exhausted", "unimplemented"
		good                      = `{"repository":"` + goodURL + `"}`
	)
	bomb := strings.Repeat(" ", 64<<20)
	tests := []call{
		{"JSON: nothing", get, json, "", nil, invalid},
		{"JSON: a mark before it", create, json, "\ufeff" + good, nil, invalid},
		{"JSON: UTF-16", create, json, inUTF16(good, 0), nil, invalid},
		{"JSON: no UTF-8", create, json, "{\"repository\":\"\xff\"}", nil, invalid},
		{"JSON: half a character", create, json, `{"repository":"https://example.com/o/\ud800"}`, nil, invalid},
		{"JSON: a NUL", create, json, `{"repository":"https://example.com/o/n\u0000"}`, nil, invalid},
		{"JSON: NaN", create, json, `{"repository":NaN}`, nil, invalid},
		{"JSON: an array", create, json, "[" + good + "]", nil, invalid},
		{"JSON: null", create, json, "null", nil, invalid},
		{"JSON: a number for a string", get, json, `{"id":1}`, nil, invalid},
		{"JSON: the same field twice", get, json, `{"id":"1","id":"2"}`, nil, invalid},
		{"JSON: the same field by both its names", create, json, `{"repository":"` + goodURL + `","idempotencyKey":"a","idempotency_key":"b"}`, nil, invalid},
		{"JSON: limit 1e400", list, json, `{"limit":1e400}`, nil, invalid},
		{"JSON: limit 2^31", list, json, `{"limit":2147483648}`, nil, invalid},
		{"JSON: limit 1.5", list, json, `{"limit":1.5}`, nil, invalid},
		{"JSON: limit in letters", list, json, `{"limit":"ten"}`, nil, invalid},
		{"JSON: limit Infinity", list, json, `{"limit":"Infinity"}`, nil, invalid},
		{"JSON: a cursor of another list", list, json, `{"cursor":"am9iczox"}`, nil, invalid},
		{"JSON: an object for a string", get, json, `{"id":{"$gt":""}}`, nil, invalid},
		{"JSON: something behind it", get, json, `{"id":"1"}{"id":"2"}`, nil, invalid},
		{"JSON: a comment", get, json, `{"id":"1"/**/}`, nil, invalid},
		{"JSON: single quotes", get, json, `{'id':'1'}`, nil, invalid},
		{"JSON: 20,000 deep in an unknown field", get, json, `{"x":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + "}", nil, invalid},
		{"JSON: 300 KiB", create, json, `{"repository":"` + strings.Repeat("x", 300<<10) + `"}`, nil, large},
		{"JSON: gzip that is none", get, json, `{"id":"1"}`, []string{"Content-Encoding", "gzip"}, invalid},
		{"JSON: a bomb", get, json, packed(bomb), []string{"Content-Encoding", "gzip"}, large},
		{"JSON: an encoding that nobody knows", get, json, `{"id":"1"}`, []string{"Content-Encoding", "br"}, unknown},
		{"JSON: another protocol version", get, json, `{"id":"1"}`, []string{"Connect-Protocol-Version", "99"}, invalid},
		{"JSON: a negative timeout", get, json, `{"id":"1"}`, []string{"Connect-Timeout-Ms", "-1"}, invalid},
		{"JSON: a timeout that is no number", get, json, `{"id":"1"}`, []string{"Connect-Timeout-Ms", "soon"}, invalid},
		{"JSON: a timeout of 30 digits", get, json, `{"id":"1"}`, []string{"Connect-Timeout-Ms", strings.Repeat("9", 30)}, invalid},
		{"JSON: no repository", create, json, "{}", nil, invalid},
		{"JSON: an id of 2^63", get, json, `{"id":"9223372036854775808"}`, nil, "not_found"},
		{"JSON: an offset of 2^63", follow, stream, framed(0, `{"jobId":"1","from":{"attempt":1,"offset":"9223372036854775808"}}`), nil, invalid},
		{"JSON: a negative offset", follow, stream, framed(0, `{"jobId":"1","from":{"attempt":1,"offset":"-1"}}`), nil, invalid},
		{"JSON: attempt 0", follow, stream, framed(0, `{"jobId":"1","from":{"attempt":0}}`), nil, invalid},

		{"protobuf: half a number", get, proto, "\x0a\x80", nil, invalid},
		{"protobuf: a number of 11 bytes", get, proto, "\x08" + strings.Repeat("\xff", 11), nil, invalid},
		{"protobuf: field 0", get, proto, "\x02\x01x", nil, invalid},
		{"protobuf: a text longer than the message", get, proto, "\x0a\x05x", nil, invalid},
		{"protobuf: a text of 2^63", get, proto, "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7fx", nil, invalid},
		{"protobuf: a text of 2 GiB", get, proto, "\x0a\xff\xff\xff\xff\x07x", nil, invalid},
		{"protobuf: no UTF-8", get, proto, "\x0a\x01\xff", nil, invalid},
		{"protobuf: a group without an end", get, proto, "\x7b", nil, invalid},
		{"protobuf: a group's end", get, proto, "\x7c", nil, invalid},
		{"protobuf: a group with another's end", get, proto, "\x7b\x84\x01", nil, invalid},
		{"protobuf: groups 20,000 deep", get, proto, strings.Repeat("\x7b", 20_000) + strings.Repeat("\x7c", 20_000), nil, invalid},
		{"protobuf: wire type 7", get, proto, "\x0f", nil, invalid},
		{"protobuf: an id of another wire type", get, proto, "\x08\x01", nil, "not_found"}, // to protobuf an unknown field
		{"protobuf: JSON", get, proto, `{"id":"1"}`, nil, invalid},
		{"protobuf: 300 KiB", create, proto, "\x0a\x80\x80\x13" + strings.Repeat("x", 300<<10), nil, large},
		{"protobuf: a bomb", get, proto, packed(bomb), []string{"Content-Encoding", "gzip"}, large},

		{"text", get, "text/plain", `{"id":"1"}`, nil, "415"},
		{"a form", create, "application/x-www-form-urlencoded", "repository=x", nil, "415"},
		{"no type", get, "", `{"id":"1"}`, nil, "415"},
		{"nearly JSON", get, "application/jsonx", `{"id":"1"}`, nil, "415"},
		{"JSON of another charset", get, "application/json; charset=utf-16", `{"id":"1"}`, nil, "415"},
		{"gRPC of XML", get, "application/grpc+xml", framed(0, "<id/>"), nil, "415"},
		{"a stream's type for one answer", get, stream, framed(0, `{"id":"1"}`), nil, "415"},
		{"one answer's type for a stream", follow, json, `{"jobId":"1"}`, nil, "415"},
		{"GET of what writes", create + "?connect=v1&encoding=json&message=%7B%7D", "GET", "", nil, "405"},
		{"GET without an encoding", get + "?message=%7B%7D", "GET", "", nil, "415"},
		{"GET without a message", get + "?encoding=json", "GET", "", nil, invalid},
		{"GET in base64 that is none", get + "?encoding=json&base64=1&message=%25%25", "GET", "", nil, invalid},
		{"GET of no JSON", get + "?encoding=json&message=hello", "GET", "", nil, invalid},
		{"GET of another version", get + "?connect=v99&encoding=json&message=%7B%7D", "GET", "", nil, invalid},
		{"GET of a bomb", get + "?encoding=json&compression=gzip&base64=1&message=AAAA", "GET", "", nil, invalid},
		{"no procedure", "RunService/", json, "{}", nil, unknown},
		{"no such service", "SecretService/List", json, "{}", nil, unknown},
		{"a procedure behind a slash", "RunService//GetRun", json, "{}", nil, "not_found"},
		{"a procedure in other case", "RunService/getRun", json, "{}", nil, unknown},
		{"reflection", "../grpc.reflection.v1.ServerReflection/ServerReflectionInfo", grpc, "", nil, unknown},
	}
	for _, kind := range []string{grpc, web} { // internal is gRPC's word for what is no frame
		name := strings.TrimPrefix(kind, "application/") + ": "
		tests = append(tests, []call{
			{name + "nothing", get, kind, "", nil, unknown},
			{name + "half a frame", get, kind, "\x00\x00\x00", nil, "internal"},
			{name + "a frame of 2 GiB", get, kind, "\x00\x7f\xff\xff\xffx", nil, large},
			{name + "a frame of 4 GiB", get, kind, "\x00\xff\xff\xff\xff", nil, large},
			{name + "less than was said", get, kind, "\x00\x00\x00\x00\x05\x0a", nil, "internal"},
			{name + "an unknown flag", get, kind, framed(0x77, "\x0a\x011"), nil, "internal"},
			{name + "two messages", get, kind, framed(0, "\x0a\x011") + framed(0, "\x0a\x011"), nil, unknown},
			{name + "something behind it", get, kind, framed(0, "\x0a\x011") + "x", nil, "internal"},
			{name + "packed without saying how", get, kind, framed(1, "\x0a\x011"), nil, "internal"},
			{name + "packed that is not", get, kind, framed(1, "\x0a\x011"), []string{"Grpc-Encoding", "gzip"}, invalid},
			{name + "a bomb", get, kind, framed(1, packed(bomb)), []string{"Grpc-Encoding", "gzip"}, large},
			{name + "an encoding that nobody knows", get, kind, framed(0, "\x0a\x011"), []string{"Grpc-Encoding", "snappy"}, unknown},
			{name + "no protobuf", get, kind, framed(0, "\xff\xff"), nil, invalid},
			{name + "a timeout without a unit", get, kind, framed(0, "\x0a\x011"), []string{"Grpc-Timeout", "1"}, invalid},
			{name + "a timeout of another unit", get, kind, framed(0, "\x0a\x011"), []string{"Grpc-Timeout", "1x"}, invalid},
			{name + "a negative timeout", get, kind, framed(0, "\x0a\x011"), []string{"Grpc-Timeout", "-1S"}, invalid},
			{name + "a timeout of nine digits", get, kind, framed(0, "\x0a\x011"), []string{"Grpc-Timeout", "999999999S"}, invalid},
			{name + "a timeout of no time", get, kind, framed(0, "\x0a\x011"), []string{"Grpc-Timeout", "0n"}, "unavailable"},
		}...)
	}
	return tests
}
