package gateway_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
)

// What hostile clients send, by kind of interface: each case is answered with a problem of the client's own making, and when all
// of a table have been, no table of the database has a row more, and the gateway has nothing to complain of.

// bad is a request that must be refused. {run} and {job} stand for a run that is there and its job.
type bad struct {
	name               string
	method, path, body string
	headers            []string // pairs, added
	status             int
	code, field        string
}

const goodURL = "https://example.com/owner/name"

// refuses sends the requests of a table to one gateway. prepare adds to what is there, and says what more names stand for.
func refuses(t *testing.T, tests []bad, prepare ...func(*server) []string) *server {
	t.Helper()
	s := start(t)
	created := s.create()
	job := s.plan(created)
	s.claim(job)
	names := []string{"{run}", created.ID, "{job}", job}
	for _, p := range prepare {
		names = append(names, p(s)...)
	}
	fill := strings.NewReplacer(names...)
	before := s.rows()
	seen := map[string]bool{}
	for _, test := range tests {
		if seen[test.name] {
			t.Errorf("two cases have the name %q", test.name)
		}
		seen[test.name] = true
		t.Run(test.name, func(t *testing.T) {
			var headers []string
			for _, text := range test.headers {
				headers = append(headers, fill.Replace(text))
			}
			a := s.add(test.method, fill.Replace(test.path), test.body, headers...)
			if a.status != test.status {
				t.Fatalf("%d %.300s, want %d %s", a.status, a.body, test.status, test.code)
			}
			if test.code == "" {
				return // net/http has refused it, or it is no problem of REST
			}
			p := a.problem(t)
			if p.Code != test.code || p.Field != test.field {
				t.Errorf("%d %.300s, want %s of %q", a.status, a.body, test.code, test.field)
			}
			if len(a.body) > 2<<10 {
				t.Errorf("it is answered with %d bytes", len(a.body))
			}
		})
	}
	s.unharmed(before)
	return s
}

// add is send with headers that may repeat.
func (s *server) add(method, path, body string, headers ...string) answer {
	s.t.Helper()
	return s.exchange(method, path, body, func(h http.Header) {
		for i := 0; i < len(headers); i += 2 {
			if name := http.CanonicalHeaderKey(headers[i]); name == "Authorization" || name == "Content-Type" && headers[i+1] == "" {
				h.Del(name)
			} else if name == "Content-Type" && len(h[name]) == 1 && h[name][0] == "application/json" {
				h[name] = nil
			}
			if headers[i+1] != "" {
				h.Add(headers[i], headers[i+1])
			}
		}
	})
}

// rows counts the rows of each table.
func (s *server) rows() map[string]int64 {
	s.t.Helper()
	rows := map[string]int64{}
	tables := jobstest.Value[[]string](s.t, s.db, `SELECT array_agg(relname::text) FROM pg_class
		WHERE relkind IN ('r', 'p') AND NOT relispartition AND relnamespace = 'public'::regnamespace`)
	for _, table := range tables {
		rows[table] = s.count(table)
	}
	return rows
}

// unharmed sees that there are as many rows as before, that nothing was logged as an error, and that the gateway still serves.
func (s *server) unharmed(before map[string]int64) {
	s.t.Helper()
	after := s.rows()
	maps.DeleteFunc(after, func(table string, _ int64) bool { _, was := before[table]; return !was })
	if diff := cmp.Diff(before, after); diff != "" {
		s.t.Errorf("rows (-before +after):\n%s", diff)
	}
	for _, entry := range s.said.All() {
		s.t.Errorf("it complains: %s %v", entry.Message, entry.ContextMap())
	}
	if a := s.send("GET", "/readyz", ""); a.status != http.StatusOK {
		s.t.Errorf("it is not ready: %d %s", a.status, a.body)
	}
}

func TestHostileBodiesAreRefused(t *testing.T) {
	t.Parallel()
	refuses(t, hostileBodies())
}

func hostileBodies() []bad {
	post := func(name, body string, status int, code, field string, headers ...string) bad {
		return bad{name, "POST", "/api/v1/runs", body, headers, status, code, field}
	}
	json := func(name, body string) bad { return post(name, body, 400, "invalid_json", "") }
	member := func(name, member, code, field string) bad { return post(name, "{"+member+"}", 400, code, field) }
	repository := func(name, url string) bad {
		return post("repository: "+name, `{"repository":`+url+`}`, 422, "invalid_field", "repository")
	}
	ref := func(name, ref string) bad {
		return post("ref: "+name, `{"repository":"`+goodURL+`","ref":`+ref+`}`, 422, "invalid_field", "ref")
	}
	sha := func(name, sha string) bad {
		return post("sha: "+name, `{"repository":"`+goodURL+`","sha":`+sha+`}`, 422, "invalid_field", "sha")
	}
	const good = `{"repository":"` + goodURL + `"}`
	return []bad{
		// No JSON, or no JSON object.
		json("white space", " \t\r\n "),
		json("a NUL", "\x00"),
		json("a byte order mark", "\ufeff"+good),
		json("UTF-16, little end first", inUTF16(good, 0)),
		json("UTF-16, big end first", inUTF16(good, 1)),
		json("UTF-16 with a mark", inUTF16("\ufeff"+good, 0)),
		json("a surrogate in UTF-8", "{\"repository\":\"\xed\xa0\x80\"}"),
		json("an overlong slash", "{\"repository\":\"https:\xc0\xaf\xc0\xafexample.com\"}"),
		json("a code point too high", "{\"repository\":\"\xf4\x90\x80\x80\"}"),
		json("an empty array", "[]"),
		json("an array of an object", "["+good+"]"),
		json("a string", `"repository"`),
		json("a number", "1"),
		json("true", "true"),
		json("NaN", "NaN"),
		json("NaN as a value", `{"repository":NaN}`),
		json("Infinity as a value", `{"repository":-Infinity}`),
		json("a trailing point", `{"repository":1.}`),
		json("a trailing comma", `{"repository":"`+goodURL+`",}`),
		json("a comma first", `{,"repository":"`+goodURL+`"}`),
		json("no comma", `{"repository":"`+goodURL+`" "ref":"main"}`),
		json("no colon", `{"repository" "`+goodURL+`"}`),
		json("a name without quotes", `{repository:"`+goodURL+`"}`),
		json("single quotes", `{'repository':'`+goodURL+`'}`),
		json("a number as name", `{1:"`+goodURL+`"}`),
		json("null as name", `{null:"`+goodURL+`"}`),
		json("a comment", `{/* */"repository":"`+goodURL+`"}`),
		json("a comment behind it", good+"// x"),
		json("an unknown escape", `{"repository":"\x41"}`),
		json("half an escape", `{"repository":"\u00`),
		json("a line break in a string", "{\"repository\":\"https://example.com/owner\nname\"}"),
		json("a control character in a string", "{\"repository\":\"https://example.com/owner/\x01name\"}"),
		json("a brace too many", good+"}"),
		json("a bracket for a brace", `{"repository":"`+goodURL+`"]`),
		json("a NUL behind it", good+"\x00"),
		json("a byte order mark behind it", good+"\ufeff"),
		json("the same again", good+good),
		json("the same again on the next line", good+"\n"+good),
		json("a record separator before it", "\x1e"+good),
		json("arrays 30,000 deep", strings.Repeat("[", 30_000)+strings.Repeat("]", 30_000)),
		json("a value 20,000 deep", `{"repository":`+strings.Repeat("[", 20_000)+strings.Repeat("]", 20_000)+"}"),
		json("an unknown value 20,000 deep", `{"x":`+strings.Repeat("[", 20_000)+strings.Repeat("]", 20_000)+"}"),
		json("XML with an entity", `<?xml version="1.0"?><!DOCTYPE x [<!ENTITY y SYSTEM "file:///etc/passwd">]><x>&y;</x>`),
		json("YAML", "repository: "+goodURL),

		// Too much.
		post("64 KiB and a byte", strings.Repeat(" ", 64<<10+1), 413, "body_too_large", ""),
		post("arrays 100,000 deep", strings.Repeat("[", 100_000), 413, "body_too_large", ""),
		post("10 MiB", `{"repository":"`+strings.Repeat("x", 10<<20)+`"}`, 413, "body_too_large", ""),
		post("10,000 times the same member", "{"+strings.Repeat(`"a":1,`, 10_000)+`"b":1}`, 400, "unknown_field", "a"),

		// Members that are not known, or of another type.
		member("objects 9,000 deep", `"a":`+strings.Repeat(`{"a":`, 9_000)+"1"+strings.Repeat("}", 9_000), "unknown_field", "a"),
		member("an empty name", `"":"x"`, "unknown_field", ""),
		member("a name of other case", `"REPOSITORY":"x"`, "unknown_field", "REPOSITORY"),
		member("the same name in two cases", `"repository":"`+goodURL+`","Repository":"https://example.com/owner/other"`, "unknown_field", "Repository"),
		member("a name that folds to ours", `"repo\u017fitory":"x"`, "unknown_field", "repo\u017fitory"), // ſ is a small s
		member("the same name, escaped", `"repository":"`+goodURL+`","\u0072epository":"`+goodURL+`"`, "invalid_field", "repository"),
		member("the same name, null first", `"ref":null,"ref":"main"`, "invalid_field", "ref"),
		member("a name with a NUL", `"repository\u0000":"x"`, "unknown_field", "repository\x00"),
		member("a name that is half a character", `"\ud800":"x"`, "unknown_field", "\ufffd"),
		member("a name with a space", `"repository ":"x"`, "unknown_field", "repository "),
		member("a prototype", `"__proto__":{"admin":true}`, "unknown_field", "__proto__"),
		member("a name of 60,000 letters", `"`+strings.Repeat("n", 60_000)+`":"x"`, "unknown_field", strings.Repeat("n", 99)+"…"),
		member("the key as a member", `"repository":"`+goodURL+`","idempotency_key":"k"`, "unknown_field", "idempotency_key"),
		member("the name of GraphQL and protobuf", `"repository":"`+goodURL+`","headSha":"`+strings.Repeat("a", 40)+`"`, "unknown_field", "headSha"),
		member("trust that is asked for", `"repository":"`+goodURL+`","trusted":true`, "unknown_field", "trusted"),
		member("a principal", `"repository":"`+goodURL+`","principal":"admin"`, "unknown_field", "principal"),
		member("an id", `"repository":"`+goodURL+`","id":"1"`, "unknown_field", "id"),
		member("a number as a string", `"repository":12`, "invalid_field", "repository"),
		member("1e400", `"repository":1e400`, "invalid_field", "repository"),
		member("a number of 20 digits", `"repository":18446744073709551616`, "invalid_field", "repository"),
		member("a number of 60,000 digits", `"ref":`+strings.Repeat("9", 60_000), "invalid_field", "ref"),
		member("a hexadecimal number", `"repository":0x10`, "invalid_field", "repository"),
		member("a leading zero", `"repository":01`, "invalid_field", "repository"),
		member("true as a string", `"repository":true`, "invalid_field", "repository"),
		member("an array of one string", `"repository":["`+goodURL+`"]`, "invalid_field", "repository"),
		member("an object as a string", `"sha":{"$ne":""}`, "invalid_field", "sha"),

		// A media type that says something else.
		post("text", good, 415, "unsupported_media_type", "Content-Type", "Content-Type", "text/plain"),
		post("nearly JSON", good, 415, "unsupported_media_type", "Content-Type", "Content-Type", "application/jsonx"),
		post("JSON of another kind", good, 415, "unsupported_media_type", "Content-Type", "Content-Type", "application/vnd.api+json"),
		post("a list of types", good, 415, "unsupported_media_type", "Content-Type", "Content-Type", "application/json, text/html"),
		post("a broken type", good, 415, "unsupported_media_type", "Content-Type", "Content-Type", "application/json; charset"),
		post("another charset", good, 415, "unsupported_media_type", "Content-Type", "Content-Type", "application/json; charset=utf-16"),
		post("two types", good, 415, "unsupported_media_type", "Content-Type", "Content-Type", "application/json", "Content-Type", "text/plain"),
		post("parts", "--x\r\nContent-Disposition: form-data; name=\"repository\"\r\n\r\n"+goodURL+"\r\n--x--\r\n", 415, "unsupported_media_type", "Content-Type", "Content-Type", "multipart/form-data; boundary=x"),
		post("a list of merge operations", "[]", 415, "unsupported_media_type", "Content-Type", "Content-Type", "application/json-patch+json"),

		// A body that is packed.
		post("gzip", packed(good), 415, "unsupported_encoding", "Content-Encoding", "Content-Encoding", "gzip"),
		post("gzip of gzip", packed(packed(good)), 415, "unsupported_encoding", "Content-Encoding", "Content-Encoding", "gzip, gzip"),
		post("a bomb of 64 MiB", packed(strings.Repeat(" ", 64<<20)), 415, "unsupported_encoding", "Content-Encoding", "Content-Encoding", "gzip"),
		post("gzip that is none", good, 415, "unsupported_encoding", "Content-Encoding", "Content-Encoding", "GZIP"),
		post("deflate", good, 415, "unsupported_encoding", "Content-Encoding", "Content-Encoding", "deflate"),
		post("Brotli", good, 415, "unsupported_encoding", "Content-Encoding", "Content-Encoding", "br"),
		post("zstd", "\x28\xb5\x2f\xfd", 415, "unsupported_encoding", "Content-Encoding", "Content-Encoding", "zstd"),
		post("an encoding that nobody knows", good, 415, "unsupported_encoding", "Content-Encoding", "Content-Encoding", "\"rot13\""),
		post("gzip, not said", packed(good), 400, "invalid_json", ""),

		// Keys.
		post("an empty key", good, 400, "invalid_header", "Idempotency-Key", "Idempotency-Key", " "),
		post("two keys", good, 400, "invalid_header", "Idempotency-Key", "Idempotency-Key", "a", "Idempotency-Key", "b"),
		post("the same key twice", good, 400, "invalid_header", "Idempotency-Key", "Idempotency-Key", "a", "Idempotency-Key", "a"),
		post("a key outside ASCII", good, 400, "invalid_header", "Idempotency-Key", "Idempotency-Key", "schlüssel"),
		post("a key that is no text", good, 400, "invalid_header", "Idempotency-Key", "Idempotency-Key", "\xff\xfe"),
		post("a key of two words", good, 400, "invalid_header", "Idempotency-Key", "Idempotency-Key", "a b"),
		post("a key with a tab", good, 400, "invalid_header", "Idempotency-Key", "Idempotency-Key", "a\tb"),
		post("a key of 8 KiB", good, 400, "invalid_header", "Idempotency-Key", "Idempotency-Key", strings.Repeat("k", 8<<10)),
		post("a key of 1 MiB", good, 431, "", "", "Idempotency-Key", strings.Repeat("k", 1<<20)),

		// Repositories.
		repository("an empty string", `""`),
		repository("a space", `" "`),
		repository("a space before it", `" `+goodURL+`"`),
		repository("a line feed behind it", `"`+goodURL+`\n"`),
		repository("a carriage return and a header", `"https://example.com/owner/name\r\nHost: evil"`),
		repository("no scheme", `"//example.com/owner/name"`),
		repository("javascript", `"javascript:alert(1)"`),
		repository("data", `"data:text/plain,x"`),
		repository("git", `"git://example.com/owner/name"`),
		repository("ssh with an option", `"ssh://-oProxyCommand=id/owner/name"`),
		repository("a host that is an option", `"https://-oProxyCommand=id/owner/name"`),
		repository("another host behind an at", `"https://github.com@evil.example/owner/name"`),
		repository("an escaped at", `"https://github.com%40evil.example/owner/name"`),
		repository("a backslash", `"https:\\\\example.com\\owner\\name"`),
		repository("a host with an underscore", `"https://exa_mple.com/owner/name"`),
		repository("a host with a letter like ours", `"https://g\u0456thub.com/owner/name"`),
		repository("a host with a full stop of another script", `"https://github\u3002com/owner/name"`),
		repository("two ports", `"https://example.com:443:443/owner/name"`),
		repository("port 0", `"https://example.com:0/owner/name"`),
		repository("a port that is no number", `"https://example.com:http/owner/name"`),
		repository("the metadata address", `"https://169.254.169.254/latest/meta-data"`),
		repository("the metadata address as one number", `"https://2852039166/latest/meta-data"`),
		repository("the metadata address in hexadecimal", `"https://0xa9fea9fe/latest/meta-data"`),
		repository("the metadata address in octal", `"https://0251.0376.0251.0376/latest/meta-data"`),
		repository("the address of nobody", `"https://0.0.0.0/owner/name"`),
		repository("the address of many", `"https://224.0.0.1/owner/name"`),
		repository("the metadata address in IPv6", `"https://[::ffff:169.254.169.254]/owner/name"`),
		repository("an escaped slash", `"https://example.com/owner%2fname"`),
		repository("an escaped NUL", `"https://example.com/owner/name%00"`),
		repository("a broken escape", `"https://example.com/owner/%zz"`),
		repository("up at its end", `"https://example.com/owner/.."`),
		repository("only .git", `"https://example.com/.git/.git"`),
		repository("an empty segment", `"https://example.com/owner//name"`),
		repository("a semicolon", `"https://example.com/owner;id/name"`),
		repository("a substitution", `"https://example.com/owner/$(id)"`),
		repository("a backtick", "\"https://example.com/owner/`id`\""),
		repository("a letter outside ASCII", `"https://example.com/owner/n\u00e4me"`),
		repository("a mark from right to left", `"https://example.com/owner/\u202ename"`),
		repository("an empty query", `"https://example.com/owner/name?"`),
		repository("an empty fragment", `"https://example.com/owner/name#"`),
		repository("a file of another machine", `"file://example.com/srv/git"`),
		repository("a relative file", `"file:srv/git"`),
		repository("60,000 letters", `"https://example.com/owner/`+strings.Repeat("n", 60_000)+`"`),

		// Refs and commits.
		ref("only an at", `"@"`),
		ref("the commit before", `"main~1"`),
		ref("a caret", `"main^"`),
		ref("the reflog", `"main@{1}"`),
		ref("a pattern", `"refs/heads/*"`),
		ref("a colon", `"a:b"`),
		ref("a backslash", `"a\\b"`),
		ref("a slash at its end", `"a/"`),
		ref("a slash at its beginning", `"/a"`),
		ref("two slashes", `"a//b"`),
		ref("a point at its beginning", `".a"`),
		ref("a point behind a slash", `"a/.b"`),
		ref("a point at its end", `"a."`),
		ref("a lock", `"a.lock"`),
		ref("a lock of a folder", `"a.lock/b"`),
		ref("delete", `"a\u007fb"`),
		ref("a tab", `"a\tb"`),
		ref("a line break", `"a\nb"`),
		ref("a space alone", `" "`),
		ref("half a character", `"\ud83d"`),
		ref("halves in the wrong order", `"\ude00\ud83d"`),
		ref("a commit in upper case", `"`+strings.Repeat("A1", 20)+`"`),
		ref("256 letters", `"`+strings.Repeat("r", 256)+`"`),
		ref("128 letters of two bytes", `"`+strings.Repeat("ä", 128)+`"`),
		sha("39 digits", `"`+strings.Repeat("a", 39)+`"`),
		sha("41 digits", `"`+strings.Repeat("a", 41)+`"`),
		sha("a line feed behind it", `"`+strings.Repeat("a", 40)+`\n"`),
		sha("HEAD", `"HEAD"`),
		sha("SHA-256", `"`+strings.Repeat("a", 64)+`"`),
		sha("digits of another script", `"`+strings.Repeat("\u0661", 40)+`"`),
		sha("an option", `"--upload-pack=`+strings.Repeat("x", 26)+`"`),

		// Bodies where none belongs.
		{"cancel with a member", "POST", "/api/v1/runs/{run}/cancel", `{"reason":"x"}`, nil, 400, "unknown_field", "reason"},
		{"cancel with an array", "POST", "/api/v1/runs/{run}/cancel", `[]`, nil, 400, "invalid_json", ""},
		{"cancel with a form", "POST", "/api/v1/runs/{run}/cancel", `a=b`, []string{"Content-Type", "application/x-www-form-urlencoded"}, 415, "unsupported_media_type", "Content-Type"},
		{"rerun with a ref", "POST", "/api/v1/runs/{run}/rerun", `{"ref":"main"}`, nil, 400, "unknown_field", "ref"},
		{"rerun with two objects", "POST", "/api/v1/runs/{run}/rerun", `{}{}`, nil, 400, "invalid_json", ""},
		{"rerun with 100 KiB", "POST", "/api/v1/runs/{run}/rerun", strings.Repeat(" ", 100<<10), nil, 413, "body_too_large", ""},
		{"a body on GET", "GET", "/api/v1/runs", `{"limit":1}`, nil, 400, "unexpected_body", ""},
		{"a body on GET of a run", "GET", "/api/v1/runs/{run}", `x`, nil, 400, "unexpected_body", ""},
		{"a body on GET of events", "GET", "/api/v1/runs/{run}/events", `x`, nil, 400, "unexpected_body", ""},
		{"a body on the page", "GET", "/run/{run}", `x`, nil, 400, "unexpected_body", ""},
		{"a body on a procedure's GET", "GET", "/lockstep.v1.RunService/GetRun", `{"id":"{run}"}`, nil, 400, "", ""},
	}
}

// inUTF16 is text in two bytes a letter, the low one first or (1) second.
func inUTF16(text string, low int) string {
	var out []byte
	for _, unit := range utf16.Encode([]rune(text)) {
		pair := [2]byte{}
		pair[low], pair[1-low] = byte(unit), byte(unit>>8)
		out = append(out, pair[:]...)
	}
	return string(out)
}

func packed(text string) string {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write([]byte(text))
	_ = w.Close()
	return out.String()
}

func TestHostileTargetsAreRefused(t *testing.T) {
	t.Parallel()
	refuses(t, hostileTargets())
}

// hostileTargets are paths, queries and headers.
func hostileTargets() []bad {
	get := func(name, path string, status int, code, field string, headers ...string) bad {
		return bad{name, "GET", path, "", headers, status, code, field}
	}
	list := func(name, query, code, field string) bad {
		return get("list: "+name, "/api/v1/runs?"+query, 400, code, field)
	}
	parameter := func(name, path, field string) bad { return get(name, path, 400, "invalid_parameter", field) }
	cursor := func(plain string) string { return "cursor=" + base64.RawURLEncoding.EncodeToString([]byte(plain)) }
	method := func(method, path string) bad {
		return bad{method + " " + path, method, path, "", nil, 405, "method_not_allowed", ""}
	}
	resume := func(name, last string) bad {
		return get("resume: "+name, "/api/v1/runs/{run}/events?logs={job}", 400, "invalid_header", "Last-Event-ID", "Last-Event-ID", last)
	}
	tests := []bad{
		// Routes that are not.
		get("another version", "/api/v2/runs", 404, "not_found", ""),
		get("no version", "/api/runs", 404, "not_found", ""),
		get("another case", "/API/V1/RUNS", 404, "not_found", ""),
		get("a slash behind it", "/api/v1/runs/", 404, "not_found", ""),
		get("a folder of git", "/.git/config", 404, "not_found", ""),
		get("settings", "/.env", 404, "not_found", ""),
		get("profiles", "/debug/pprof/", 404, "not_found", ""),
		get("variables", "/debug/vars", 404, "not_found", ""),
		get("a route behind a run", "/api/v1/runs/{run}/secrets", 404, "not_found", ""),
		get("a path of 8 KiB", "/api/v1/runs/"+strings.Repeat("1", 8<<10), 404, "not_found", ""),
		get("a path of 4,000 segments", "/api/v1"+strings.Repeat("/a", 4_000), 404, "not_found", ""),
		get("a path of 40 KiB", "/"+strings.Repeat("a", 40<<10), 431, "", ""),
		get("a static file above", "/static/..%2ftemplates%2frun.html", 404, "not_found", ""),
		get("a static file above, escaped twice", "/static/%252e%252e%252fpages.go", 404, "not_found", ""),
		get("a static file with a NUL", "/static/run.js%00.css", 404, "not_found", ""),
		get("a static file by a backslash", `/static/..%5cpages.go`, 404, "not_found", ""),

		// Methods, also those that a header asks for.
		method("PUT", "/api/v1/runs"),
		method("DELETE", "/api/v1/runs/{run}"),
		method("PATCH", "/api/v1/runs/{run}"),
		method("OPTIONS", "/api/v1/runs"),
		method("TRACE", "/api/v1/runs"),
		method("BREW", "/api/v1/runs"),
		method("post", "/api/v1/runs"),
		method("GET", "/api/v1/runs/{run}/cancel"),
		method("GET", "/api/v1/runs/{run}/rerun"),
		method("GET", "/webhooks/github"),
		method("POST", "/api/v1/jobs/{job}"),
		method("POST", "/api/v1/queue"),
		method("POST", "/"),
		method("DELETE", "/static/run.js"),
		{"a method of one letter too many", "GETT", "/api/v1/runs", "", nil, 405, "method_not_allowed", ""},
		{"a method that a header changes", "GET", "/api/v1/runs/{run}/cancel", "", []string{"X-HTTP-Method-Override", "POST", "X-HTTP-Method", "POST", "X-Method-Override", "POST"}, 405, "method_not_allowed", ""},
		{"a method that the query changes", "GET", "/api/v1/runs/{run}/cancel?_method=POST", "", nil, 405, "method_not_allowed", ""},

		// Secrets in the URL, wherever.
		list("a token", "access_token=x", "secret_in_url", "access_token"),
		list("a token in other case", "Token=x", "secret_in_url", "token"),
		list("a token with an escaped name", "%74oken=x", "secret_in_url", "token"),
		list("a token behind something broken", "limit=%zz&token=x", "secret_in_url", "token"),
		list("a token behind a semicolon", "limit=1;token=x", "secret_in_url", "token"),
		list("a password", "password=x", "secret_in_url", "password"),
		get("a token for the page", "/run/{run}?token=x", 400, "secret_in_url", "token"),
		get("a token for the socket", "/api/v1/watch?run={run}&access_token=x", 400, "secret_in_url", "access_token"),
		get("a token for a static file", "/static/run.js?token=x", 400, "secret_in_url", "token"),
		get("a key for the metrics", "/metrics?api_key=x", 400, "secret_in_url", "api_key"),
		{"a secret for a delivery", "POST", "/webhooks/github?secret=x", "{}", nil, 400, "secret_in_url", "secret"},
		{"a token for a procedure", "POST", "/lockstep.v1.RunService/GetRun?token=x", "{}", []string{"Content-Type", "text/plain"}, 400, "secret_in_url", "token"},

		// Queries.
		list("unknown", "page=2", "unknown_parameter", "page"),
		list("unknown, without a name", "=2", "unknown_parameter", ""),
		list("unknown, without a value", "all", "unknown_parameter", "all"),
		list("in another case", "Limit=2", "unknown_parameter", "Limit"),
		list("in brackets", "limit[]=2", "unknown_parameter", "limit[]"),
		list("a semicolon between two", "limit=1;cursor=x", "invalid_query", ""),
		list("half an escape", "limit=%1", "invalid_query", ""),
		list("10,001 parameters", strings.Repeat("a&", 10_000)+"a", "invalid_query", ""),
		list("9,000 parameters", strings.Repeat("a&", 9_000)+"a", "unknown_parameter", "a"),
		list("9,000 limits", strings.Repeat("limit&", 4_000)+"limit", "invalid_parameter", "limit"),
		list("a name of 20,000 letters", strings.Repeat("n", 20_000)+"=1", "unknown_parameter", strings.Repeat("n", 99)+"…"),
		list("a name that is no text", "%ff%fe=1", "unknown_parameter", "\ufffd\ufffd"),
		list("limit -1", "limit=-1", "invalid_parameter", "limit"),
		list("limit 2,147,483,647", "limit=2147483647", "invalid_parameter", "limit"),
		list("limit 2,147,483,649", "limit=2147483649", "invalid_parameter", "limit"),
		list("limit above 2^32 by one", "limit=4294967297", "invalid_parameter", "limit"),
		list("limit 2^64", "limit=18446744073709551616", "invalid_parameter", "limit"),
		list("limit 1e1", "limit=1e1", "invalid_parameter", "limit"),
		list("limit 0x1", "limit=0x1", "invalid_parameter", "limit"),
		list("limit 1.0", "limit=1.0", "invalid_parameter", "limit"),
		list("limit NaN", "limit=NaN", "invalid_parameter", "limit"),
		list("limit with a plus", "limit=%2b5", "invalid_parameter", "limit"),
		list("limit with a zero before it", "limit=05", "invalid_parameter", "limit"),
		list("limit with a space", "limit=%205", "invalid_parameter", "limit"),
		list("limit with a NUL", "limit=5%00", "invalid_parameter", "limit"),
		list("limit in another script", "limit=%d9%a5", "invalid_parameter", "limit"),
		list("limit with SQL", "limit=1%20OR%201%3d1", "invalid_parameter", "limit"),
		list("cursor of another list", cursor("jobs:1"), "invalid_parameter", "cursor"),
		list("cursor without a list", cursor("1"), "invalid_parameter", "cursor"),
		list("cursor of run 0", cursor("runs:0"), "invalid_parameter", "cursor"),
		list("cursor of run -1", cursor("runs:-1"), "invalid_parameter", "cursor"),
		list("cursor of run 2^63", cursor("runs:9223372036854775808"), "invalid_parameter", "cursor"),
		list("cursor of no run", cursor("runs:"), "invalid_parameter", "cursor"),
		list("cursor with a zero", cursor("runs:01"), "invalid_parameter", "cursor"),
		list("cursor with more behind it", cursor("runs:1 "), "invalid_parameter", "cursor"),
		list("cursor of two", cursor("runs:1,2"), "invalid_parameter", "cursor"),
		list("cursor with SQL", cursor("runs:1' OR '1'='1"), "invalid_parameter", "cursor"),
		list("cursor with padding", cursor("runs:12")+"%3d%3d", "invalid_parameter", "cursor"),
		list("cursor with a line break", cursor("runs:1")+"%0a", "invalid_parameter", "cursor"),
		list("cursor with other last bits", "cursor=cnVuczoxMh", "invalid_parameter", "cursor"),
		list("cursor in plain text", "cursor=runs:1", "invalid_parameter", "cursor"),
		list("cursor of 8 KiB", "cursor="+strings.Repeat("A", 8<<10), "invalid_parameter", "cursor"),
		list("cursor that is no text", "cursor=%ff", "invalid_parameter", "cursor"),
		list("cursor twice", cursor("runs:1")+"&"+cursor("runs:1"), "invalid_parameter", "cursor"),
		get("a parameter for a run", "/api/v1/runs/{run}?jobs=1", 400, "unknown_parameter", "jobs"),
		get("a parameter for a job", "/api/v1/jobs/{job}?attempt=1", 400, "unknown_parameter", "attempt"),
		get("a parameter for the workers", "/api/v1/workers?limit=1", 400, "unknown_parameter", "limit"),
		get("a parameter for the document", "/api/v1/openapi.json?format=yaml", 400, "unknown_parameter", "format"),
		{"a parameter for a new run", "POST", "/api/v1/runs?dry_run=1", `{"repository":"` + goodURL + `"}`, nil, 400, "unknown_parameter", "dry_run"},
		{"a parameter for a rerun", "POST", "/api/v1/runs/{run}/rerun?failed=1", "", nil, 400, "unknown_parameter", "failed"},
		{"a parameter for a cancel", "POST", "/api/v1/runs/{run}/cancel?force=1", "", nil, 400, "unknown_parameter", "force"},
		parameter("queue: limit 0", "/api/v1/queue?limit=0", "limit"),
		parameter("queue: limit 1,000", "/api/v1/queue?limit=1000", "limit"),
		parameter("log: attempt 0", "/api/v1/jobs/{job}/log?attempt=0", "attempt"),
		parameter("log: attempt -1", "/api/v1/jobs/{job}/log?attempt=-1", "attempt"),
		parameter("log: attempt 2^31", "/api/v1/jobs/{job}/log?attempt=2147483648", "attempt"),
		parameter("log: attempt x", "/api/v1/jobs/{job}/log?attempt=x", "attempt"),
		parameter("log: attempt empty", "/api/v1/jobs/{job}/log?attempt=", "attempt"),
		parameter("log: attempt with a plus", "/api/v1/jobs/{job}/log?attempt=%2b1", "attempt"),
		parameter("log: attempt twice", "/api/v1/jobs/{job}/log?attempt=1&attempt=2", "attempt"),
		parameter("log: follow 2", "/api/v1/jobs/{job}/log?follow=2", "follow"),
		parameter("log: follow yes", "/api/v1/jobs/{job}/log?follow=yes", "follow"),
		parameter("log: follow empty", "/api/v1/jobs/{job}/log?follow=", "follow"),
		get("log: an attempt that was not", "/api/v1/jobs/{job}/log?attempt=99", 404, "not_found", "attempt"),
		get("log: an offset", "/api/v1/jobs/{job}/log?offset=1", 400, "unknown_parameter", "offset"),

		// Events, and where they are resumed.
		parameter("events: a log that is none", "/api/v1/runs/{run}/events?logs=x", "logs"),
		parameter("events: log 0", "/api/v1/runs/{run}/events?logs=0", "logs"),
		parameter("events: log 2^63", "/api/v1/runs/{run}/events?logs=9223372036854775808", "logs"),
		parameter("events: only commas", "/api/v1/runs/{run}/events?logs=,,", "logs"),
		parameter("events: a comma behind it", "/api/v1/runs/{run}/events?logs={job},", "logs"),
		parameter("events: a space between two", "/api/v1/runs/{run}/events?logs={job},%202", "logs"),
		parameter("events: the same log twice", "/api/v1/runs/{run}/events?logs={job},{job}", "logs"),
		parameter("events: nine logs", "/api/v1/runs/{run}/events?logs=1,2,3,4,5,6,7,8,9", "logs"),
		parameter("events: 10,000 logs", "/api/v1/runs/{run}/events?logs="+strings.Repeat("1,", 10_000)+"1", "logs"),
		parameter("events: logs twice", "/api/v1/runs/{run}/events?logs={job}&logs=2", "logs"),
		get("events: an unknown parameter", "/api/v1/runs/{run}/events?log={job}", 400, "unknown_parameter", "log"),
		get("events: of no run", "/api/v1/runs/999999/events", 404, "not_found", ""),
		resume("text", "x"),
		resume("a negative version", "{run}:-1"),
		resume("a version with a plus", "{run}:+1"),
		resume("a version of 20 digits", "{run}:99999999999999999999"),
		resume("a fraction", "{run}:1.5"),
		resume("a comma at its end", "{run}:1,"),
		resume("two commas", "{run}:1,,"),
		resume("a place with two parts", "{run}:1,{job}.1"),
		resume("a place with four parts", "{run}:1,{job}.1.1.1"),
		resume("attempt 0", "{run}:1,{job}.0.0"),
		resume("attempt 2^31", "{run}:1,{job}.2147483648.0"),
		resume("a negative offset", "{run}:1,{job}.1.-1"),
		resume("an offset of 20 digits", "{run}:1,{job}.1.99999999999999999999"),
		resume("the log of another job", "{run}:1,999999.1.0"),
		resume("the same place twice", "{run}:1,{job}.1.0,{job}.1.5"),
		resume("something behind the end", "{run}:1,end,{job}.1.0"),
		resume("the end twice", "{run}:1,end,end"),
		resume("the end alone", "end"),
		resume("no run", "1"),
		resume("no version", "{run}"),
		resume("an empty version", "{run}:"),
		resume("two versions", "{run}:1:1"),
		resume("a version with a zero before it", "{run}:01"),
		resume("another run", "999999:1"),
		resume("a version that is yet to come", "{run}:999999"),
		resume("all of another run", "999999:1,{job}.1.0"),
		resume("SQL", "{run}:1'; DROP TABLE ci_runs; --"),
		resume("8 KiB", "{run}:1"+strings.Repeat(",{job}.1.0", 700)),

		// The socket's request.
		parameter("watch: a run that is none", "/api/v1/watch?run=x", "run"),
		parameter("watch: run 0", "/api/v1/watch?run=0", "run"),
		parameter("watch: an empty run", "/api/v1/watch?run=", "run"),
		parameter("watch: two runs", "/api/v1/watch?run={run}&run=2", "run"),
		get("watch: of no run", "/api/v1/watch?run=999999", 404, "not_found", ""),
		get("watch: an unknown parameter", "/api/v1/watch?job={job}", 400, "unknown_parameter", "job"),
		get("watch: a broken query", "/api/v1/watch?run=%zz", 400, "invalid_query", ""),
		get("watch: by plain HTTP", "/api/v1/watch?run={run}", 426, "upgrade_required", ""),
		get("watch: as another protocol", "/api/v1/watch?run={run}", 426, "upgrade_required", "", "Connection", "Upgrade", "Upgrade", "h2c"),

		// Headers.
		get("an expectation that nobody knows", "/api/v1/runs", 417, "", "", "Expect", "a miracle"),
		get("a cookie of 40 KiB", "/api/v1/runs", 431, "", "", "Cookie", "a="+strings.Repeat("x", 40<<10)),
		get("a packed body that is not there", "/api/v1/runs", 415, "unsupported_encoding", "Content-Encoding", "Content-Encoding", "gzip"),
	}
	// Ids that are none, wherever one belongs.
	for kind, id := range map[string]string{
		"-1": "-1", "0": "0", "00": "00", "01": "01", "1.0": "1.0", "1e3": "1e3", "0x1": "0x1", "+1": "%2b1", "a space": "%201", "a space behind it": "1%20", "a NUL": "1%00",
		"2^63": "9223372036854775808", "2^64": "18446744073709551616", "400 digits": strings.Repeat("9", 400), "NaN": "NaN", "null": "null", "undefined": "undefined",
		"SQL": "1%27%20OR%20%271%27=%271", "a line break and a header": "1%0d%0aX-Evil:%201", "digits of another script": "%d9%a1", "up": "..%2f1", "a slash": "1%2f2", "a broken letter": "%ff",
	} {
		for route, code := range map[string]string{"/api/v1/runs/%s": "", "/api/v1/runs/%s/events": "", "/api/v1/jobs/%s": "", "/api/v1/jobs/%s/log": ""} {
			tests = append(tests, get(strings.ReplaceAll(fmt.Sprintf(route, "{"+kind+"}"), "/api/v1", "id: "), fmt.Sprintf(route, id), 404, "not_found", code))
		}
		for _, verb := range []string{"cancel", "rerun"} {
			tests = append(tests, bad{"id: " + verb + " {" + kind + "}", "POST", "/api/v1/runs/" + id + "/" + verb, "", nil, 404, "not_found", ""})
		}
	}
	return tests
}
