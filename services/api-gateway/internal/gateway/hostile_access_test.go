package gateway_test

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
)

// What may be asked of tokens, the audit log, repositories, approvals, the queue and the lists' filters: what is refused changes no
// row either.
func TestHostileAdministrationIsRefused(t *testing.T) {
	t.Parallel()
	var before map[string]string
	s := refuses(t, hostileAdministration(), func(s *server) []string {
		_, made := s.newToken(`{"name":"taken","scope":"admin"}`)
		s.set(`{"max_running":3}`)
		approvals := map[string]string{}
		for minute, decision := range []string{"approve", "reject", "", "close"} { // each commit is newer, and one that waits makes those before stale
			digit := string("4567"[minute])
			id := s.told("pull_request", "d"+digit, forked(t, "opened", digit, minute)).ApprovalID
			switch decision {
			case "approve", "reject":
				if a := s.send("POST", "/api/v1/approvals/"+id+"/"+decision, ""); a.status != http.StatusOK {
					t.Fatalf("%s: %d %s", decision, a.status, a.body)
				}
			case "close":
				s.told("pull_request", "closed", forked(t, "closed", digit, minute+1))
			}
			approvals[decision] = id
		}
		before = s.contents()
		return []string{"{token}", made, "{approved}", approvals["approve"], "{rejected}", approvals["reject"], "{stale}", approvals[""], "{withdrawn}", approvals["close"]}
	})
	if diff := cmp.Diff(before, s.contents()); diff != "" {
		t.Errorf("rows (-before +after):\n%s", diff)
	}
}

// contents are the rows of what an administrator changes.
func (s *server) contents() map[string]string {
	s.t.Helper()
	rows := map[string]string{}
	for _, table := range []string{"ci_tokens", "ci_repositories", "ci_approvals", "ci_runs", "ci_jobs", "audit_log"} {
		rows[table] = jobstest.Value[string](s.t, s.db, "SELECT coalesce(string_agg(t::text, E'\n' ORDER BY t::text), '') FROM "+table+" t")
	}
	return rows
}

func hostileAdministration() []bad {
	var tests []bad
	add := func(name, method, path, body string, status int, code, field string, headers ...string) {
		tests = append(tests, bad{name, method, path, body, headers, status, code, field})
	}

	// Bodies of tokens.
	token := func(name, body string, status int, code, field string, headers ...string) {
		add("token: "+name, "POST", "/api/v1/tokens", body, status, code, field, headers...)
	}
	with := func(name, member, field string) { // beside what is right
		fields := map[string]string{"name": `"name":"x"`, "scope": `"scope":"read"`}
		fields[field] = member
		var members []string
		for _, text := range fields {
			members = append(members, text)
		}
		code, status := "invalid_field", 422
		if value := strings.TrimPrefix(member, `"`+field+`":`); !strings.HasPrefix(value, `"`) && value != "null" && member != "" {
			status = 400 // of another type
		}
		token(field+": "+name, "{"+strings.Join(members, ",")+"}", status, code, field)
	}
	for kind, value := range map[string]string{
		"a number": "1", "a fraction": "1.5", "1e400": "1e400", "true": "true", "an array": `["read"]`, "an object": `{"$ne":""}`, "20 digits": "18446744073709551616", "60,000 digits": strings.Repeat("9", 60_000),
	} {
		for _, field := range []string{"name", "scope", "repository", "expires_at"} {
			with(kind, `"`+field+`":`+value, field)
		}
	}
	for _, field := range []string{"name", "scope"} {
		with("null", `"`+field+`":null`, field)
	}
	for _, field := range []string{"name", "scope", "repository", "expires_at"} {
		with("empty", `"`+field+`":""`, field)
		with("a space", `"`+field+`":" "`, field)
		with("half a character", `"`+field+`":"\ud800"`, field)
		with("a NUL", `"`+field+`":"a\u0000"`, field)
		with("60,000 letters", `"`+field+`":"`+strings.Repeat("n", 60_000)+`"`, field)
		token(field+": twice", `{"name":"x","scope":"read","`+field+`":"x","`+field+`":"y"}`, 400, "invalid_field", field)
		upper := strings.ToUpper(field)
		token(field+": twice, in another case", `{"name":"x","scope":"read","`+upper+`":"y"}`, 400, "unknown_field", upper)
	}
	with("a space before it", `"name":" x"`, "name")
	with("a space behind it", `"name":"x "`, "name")
	with("101 characters", `"name":"`+strings.Repeat("ä", 101)+`"`, "name")
	with("a line break", `"name":"a\nb"`, "name")
	with("from right to left", `"name":"a\u202eb"`, "name")
	with("no width", `"name":"a\u200bb"`, "name")
	with("a space that does not break", `"name":"a\u00a0b"`, "name")
	for _, scope := range []string{"Read", "READ", "write", "none", "root", "*", "read,run", "read run", " read", "read\\n"} {
		with(scope, `"scope":"`+scope+`"`, "scope")
	}
	for _, url := range []string{"owner/name", "github.com/owner/name", "http://example.com/owner/name", "ssh://git@example.com/owner/name", "https://user:password@example.com/owner/name", "https://example.com/owner", "https://example.com/*/*", "https://169.254.169.254/owner/name", goodURL + "?", goodURL + "#x", "*", "all"} {
		with(url, `"repository":"`+url+`"`, "repository")
	}
	for _, at := range []string{
		"tomorrow", "now", "infinity", "-infinity", "epoch", "2999-01-01", "2999-01-01T00:00:00", "2999-01-01 00:00:00Z", "2999-02-29T00:00:00Z", "2999-13-01T00:00:00Z", "2999-01-01T24:00:00Z", "2999-01-01T1:00:00Z",
		"2999-01-01T00:00:61Z", "2999-01-01T00:00:00,5Z", "2999-01-01T00:00:00+24:00", "2999-01-01T00:00:00 UTC", "10000-01-01T00:00:00Z", "-2999-01-01T00:00:00Z", "9999-12-31T23:59:59-00:01", "0000-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "0001-01-01T00:00:00Z",
		"1970-01-01T00:00:00Z", "1999-12-31T23:59:59Z", "32503680000", "P1D", "30d", "NaN",
	} {
		with(at, `"expires_at":"`+at+`"`, "expires_at")
	}
	token("no name", `{"scope":"read"}`, 422, "invalid_field", "name")
	token("no scope", `{"name":"x"}`, 422, "invalid_field", "scope")
	token("nothing", "", 415, "unsupported_media_type", "Content-Type")
	token("no members", "{}", 422, "invalid_field", "name")
	token("null", "null", 400, "invalid_json", "")
	token("an array", `[{"name":"x","scope":"read"}]`, 400, "invalid_json", "")
	token("NaN", `{"name":NaN,"scope":"read"}`, 400, "invalid_json", "")
	token("two objects", `{"name":"x","scope":"read"}{"name":"y","scope":"read"}`, 400, "invalid_json", "")
	token("a form", "name=x&scope=read", 415, "unsupported_media_type", "Content-Type", "Content-Type", "application/x-www-form-urlencoded")
	token("packed", packed(`{"name":"x","scope":"read"}`), 415, "unsupported_encoding", "Content-Encoding", "Content-Encoding", "gzip")
	token("300 KiB", `{"name":"`+strings.Repeat("x", 300<<10)+`"}`, 413, "body_too_large", "")
	token("a name that is taken", `{"name":"taken","scope":"read"}`, 409, "name_taken", "name")
	token("a key", `{"name":"x","scope":"read"}`, 400, "invalid_header", "Idempotency-Key", "Idempotency-Key", "k")
	for _, field := range []string{"secret", "hash", "id", "created_by", "created_at", "expiresAt", "scopes", "__proto__", "name "} {
		token("the field "+field, `{"name":"x","scope":"read","`+field+`":"x"}`, 400, "unknown_field", field)
	}
	add("token: parameters beside the body", "POST", "/api/v1/tokens?scope=admin", `{"name":"x","scope":"read"}`, 400, "unknown_parameter", "scope")

	// Bodies of a repository's settings.
	set := func(name, body string, status int, code, field string) {
		add("settings: "+name, "PATCH", homePath, body, status, code, field)
	}
	for _, value := range []string{"-1", "-2147483648"} {
		set("max_running "+value, `{"max_running":`+value+`}`, 422, "invalid_field", "max_running")
	}
	for _, value := range []string{"2147483648", "-2147483649", "1.5", "1e400", "1e9999999999", `"3"`, `""`, "true", "[3]", "{}", "18446744073709551616"} {
		set("max_running "+value, `{"max_running":`+value+`}`, 400, "invalid_field", "max_running")
	}
	for _, value := range []string{"0", "-0.0", "-1", "1e-400", "1e-320", "1e-300", "0.0009", "1000.0001", "1001", "1e308"} {
		set("weight "+value, `{"weight":`+value+`}`, 422, "invalid_field", "weight")
	}
	for _, value := range []string{"1e400", "-1e400", `"1"`, `"NaN"`, `"Infinity"`, "true", "[1]", "{}"} {
		set("weight "+value, `{"weight":`+value+`}`, 400, "invalid_field", "weight")
	}
	for _, value := range []string{"NaN", "Infinity", "-Infinity", "0x1", "+1", "01", ".5", "1.", "1_000"} {
		for _, field := range []string{"weight", "max_running"} {
			set(field+" as "+value, `{"`+field+`":`+value+`}`, 400, "invalid_json", "")
		}
	}
	for _, value := range []string{"", "Ask", "ASK", " ask", "ask ", "allow", "never", "run,ask", "null", "*", "ask\\u0000"} {
		set("fork_policy "+value, `{"fork_policy":"`+value+`"}`, 422, "invalid_field", "fork_policy")
	}
	for _, value := range []string{"1", "true", `["ask"]`, "{}"} {
		set("fork_policy as "+value, `{"fork_policy":`+value+`}`, 400, "invalid_field", "fork_policy")
	}
	for _, value := range []string{`"true"`, "1", "0", "[]", `""`} {
		set("forget_github_id "+value, `{"forget_github_id":`+value+`}`, 400, "invalid_field", "forget_github_id")
	}
	for name, body := range map[string]string{
		"nothing": "{}", "only null": `{"max_running":null,"weight":null,"fork_policy":null,"forget_github_id":null}`, "nothing to forget": `{"forget_github_id":false}`,
	} {
		set(name, body, 422, "nothing_to_change", "")
	}
	set("one of two wrong", `{"max_running":1,"weight":0}`, 422, "invalid_field", "weight")
	set("the same twice", `{"weight":1,"weight":2}`, 400, "invalid_field", "weight")
	set("the same in another case", `{"weight":1,"Weight":2}`, 400, "unknown_field", "Weight")
	set("a list of operations", `[{"op":"replace","path":"/weight","value":2}]`, 400, "invalid_json", "")
	set("another name", `{"repository":"https://example.com/other/name"}`, 400, "unknown_field", "repository")
	set("GitHub's number", `{"github_id":"1"}`, 400, "unknown_field", "github_id")
	set("who", `{"changed_by":"somebody","weight":1}`, 400, "unknown_field", "changed_by")
	set("the name of protobuf", `{"maxRunning":1}`, 400, "unknown_field", "maxRunning")
	set("70 KiB", strings.Repeat(" ", 70<<10), 413, "body_too_large", "")
	add("settings: nothing at all", "PATCH", homePath, "", 415, "unsupported_media_type", "Content-Type")
	add("settings: a merge patch", "PATCH", homePath, `{"weight":2}`, 415, "unsupported_media_type", "Content-Type", "Content-Type", "application/merge-patch+json")
	add("settings: by PUT", "PUT", homePath, `{"weight":2}`, 405, "method_not_allowed", "")
	add("settings: by POST", "POST", homePath, `{"weight":2}`, 405, "method_not_allowed", "")

	// Repositories in a path.
	for name, segment := range map[string]string{
		"a space": "%20", "a word": "name", "two words": "owner%2Fname", "a number": "1", "no name": "github.com%2Fowner", "http": "http%3A%2F%2Fgithub.com%2Fowner%2Fname", "ssh": "ssh%3A%2F%2Fgit%40github.com%2Fowner%2Fname",
		"as git has it": "git%40github.com%3Aowner%2Fname", "a user": "https%3A%2F%2Fu%3Ap%40github.com%2Fowner%2Fname", "a query": "github.com%2Fowner%2Fname%3Fx%3D1", "a fragment": "github.com%2Fowner%2Fname%23x",
		"up": "github.com%2Fowner%2F..", "an empty part": "github.com%2F%2Fname", "escaped twice": "https%253A%252F%252Fgithub.com%252Fowner%252Fname", "a NUL": "github.com%2Fowner%2Fname%00", "no UTF-8": "github.com%2Fowner%2F%ff",
		"a line break": "github.com%2Fowner%2Fname%0a", "the metadata address": "169.254.169.254%2Fowner%2Fname", "port 0": "github.com%3A0%2Fowner%2Fname", "a backslash": "github.com%5Cowner%5Cname", "a pattern": "github.com%2Fowner%2F%2A",
		"SQL": "github.com%2Fowner%2F%27%3B--", "2,001 bytes": "github.com%2Fowner%2F" + strings.Repeat("n", 2_001), "another letter": "g%D1%96thub.com%2Fowner%2Fname", "a file of another machine": "file%3A%2F%2Fhost%2Fsrv%2Fx",
	} {
		path := "/api/v1/repositories/" + segment
		add("repository: {"+name+"}", "GET", path, "", 422, "invalid_field", "repository")
		add("repository: change {"+name+"}", "PATCH", path, `{"weight":2}`, 422, "invalid_field", "repository")
		add("repository: {"+name+"}/stats", "GET", path+"/stats", "", 422, "invalid_field", "repository")
		add("runs: repository {"+name+"}", "GET", "/api/v1/runs?repository="+segment, "", 422, "invalid_field", "repository")
		add("approvals: repository {"+name+"}", "GET", "/api/v1/approvals?repository="+segment, "", 400, "invalid_parameter", "repository")
	}
	for _, list := range []string{"runs", "approvals"} {
		add(list+": two repositories", "GET", "/api/v1/"+list+"?repository=github.com/owner/name&repository=github.com/owner/name", "", 400, "invalid_parameter", "repository")
	}
	add("runs: no repository", "GET", "/api/v1/runs?repository=", "", 422, "invalid_field", "repository")
	add("approvals: no repository", "GET", "/api/v1/approvals?repository=", "", 400, "invalid_parameter", "repository")
	add("repository: not escaped", "GET", "/api/v1/repositories/github.com/owner/name", "", 404, "not_found", "")
	add("repository: none", "GET", "/api/v1/repositories/", "", 404, "not_found", "")
	add("repository: unknown", "GET", "/api/v1/repositories/github.com%2Fowner%2Fnobody", "", 404, "not_found", "")
	add("repository: statistics of an unknown one", "GET", "/api/v1/repositories/github.com%2Fowner%2Fnobody/stats", "", 404, "not_found", "repository")
	add("repository: a parameter", "GET", homePath+"?fields=weight", "", 400, "unknown_parameter", "fields")

	// Windows, limits and cursors.
	for _, window := range []string{"", "1h", "7D", "07d", "7", "-7d", "7d,24h", "%207d", "7d%00", "8760h", "999999999999999d", "NaN", "all", "7d&window=7d"} {
		add("statistics: window "+window, "GET", homePath+"/stats?window="+window, "", 400, "invalid_parameter", "window")
	}
	add("statistics: a limit", "GET", homePath+"/stats?limit=1", "", 400, "unknown_parameter", "limit")
	lists := map[string]string{"runs": "runs:", "repositories": "repositories:", "approvals": "approvals:", "tokens": "tokens:", "audit": "audit:", "queue": ""}
	for list, kind := range lists {
		path := "/api/v1/" + list
		for _, limit := range []string{"", "0", "-1", "101", "1.5", "1e1", "01", "0x1", "%2b1", "%201", "ten", "NaN", "Infinity", "2147483648", "4294967297", "18446744073709551617", strings.Repeat("9", 400), "1&limit=2", "1%00", "%d9%a1"} {
			add(list+": limit {"+limit+"}", "GET", path+"?limit="+limit, "", 400, "invalid_parameter", "limit")
		}
		add(list+": offset", "GET", path+"?offset=1", "", 400, "unknown_parameter", "offset")
		add(list+": limit in another case", "GET", path+"?Limit=1", "", 400, "unknown_parameter", "Limit")
		add(list+": a broken query", "GET", path+"?limit=%zz", "", 400, "invalid_query", "")
		add(list+": a semicolon", "GET", path+"?limit=1;cursor=x", "", 400, "invalid_query", "")
		if list == "queue" {
			for _, name := range []string{"cursor", "repository", "status", "window"} {
				add("queue: "+name, "GET", path+"?"+name+"=x", "", 400, "unknown_parameter", name)
			}
			continue
		}
		sealed := func(plain string) string { return base64.RawURLEncoding.EncodeToString([]byte(plain)) }
		cursors := map[string]string{
			"empty": "", "text": "1", "no base64": "%25", "padded": sealed(kind+"1") + "==", "with a line break": sealed(kind+"1") + "%0a", "of nothing": sealed(kind), "half of it": sealed(kind)[:4],
			"of no UTF-8": sealed(kind + "\xff"), "with a NUL": sealed(kind + "\x00"), "twice": sealed(kind+"1") + "&cursor=" + sealed(kind+"1"), "of 8 KiB": sealed(kind + strings.Repeat("9", 6<<10)),
			"of SQL": sealed(kind + "1' OR '1'='1"), "-1": sealed(kind + "-1"), "0": sealed(kind + "0"), "01": sealed(kind + "01"), "1.5": sealed(kind + "1.5"), "NaN": sealed(kind + "NaN"), "2^63": sealed(kind + "9223372036854775808"), "a space": sealed(kind + " 1"),
		}
		for other, kind := range lists {
			if other != list && kind != "" {
				cursors["of "+other] = sealed(kind + "1")
			}
		}
		for name, cursor := range cursors {
			add(list+": cursor "+name, "GET", path+"?cursor="+cursor, "", 400, "invalid_parameter", "cursor")
		}
	}
	for _, name := range []string{"principal", "action", "since", "repository"} {
		add("audit: "+name, "GET", "/api/v1/audit?"+name+"=x", "", 400, "unknown_parameter", name)
	}
	add("audit: one entry", "GET", "/api/v1/audit/1", "", 404, "not_found", "")
	for _, method := range []string{"POST", "DELETE", "PATCH"} {
		add("audit: "+method, method, "/api/v1/audit", "", 405, "method_not_allowed", "")
	}

	// Filters.
	filters := map[string][]string{
		"status":       {"", "queued", "SUCCESS", "success,failure", "%20success", "success%00", "*", "initializing", "null", "NEW"},
		"event":        {"", "PUSH", "pull-request", "push,manual", "schedule", "*", "push%0a"},
		"ref":          {"", "%20", "-x", "a..b", "a~1", "a%5e", "a%3ab", "%2fa", "a%2f", "a%2f%2fb", "a%00", "%ff", "a.lock", "%40", "a%40%7b1%7d", "a%3f", "refs%2fheads%2f%2a", strings.Repeat("a", 40), strings.Repeat("r", 256)},
		"pull_request": {"", "0", "-1", "1.5", "01", "%2b1", "%231", "x", "NaN", "2147483648"},
	}
	for field, values := range filters {
		for _, value := range values {
			add("runs: "+field+" {"+value+"}", "GET", "/api/v1/runs?"+field+"="+value, "", 422, "invalid_field", field)
		}
		add("runs: "+field+" twice", "GET", "/api/v1/runs?"+field+"=1&"+field+"=1", "", 400, "invalid_parameter", field)
	}
	for _, status := range []string{"", "all", "Waiting", "waiting,stale", "open", "%20waiting", "waiting%00", "waiting&status=stale"} {
		add("approvals: status {"+status+"}", "GET", "/api/v1/approvals?status="+status, "", 400, "invalid_parameter", "status")
	}

	// Ids and decisions.
	for name, id := range map[string]string{
		"none": "999999", "-1": "-1", "0": "0", "01": "01", "+1": "%2b1", "1.0": "1.0", "1e0": "1e0", "a space": "%201", "a NUL": "1%00", "2^63": "9223372036854775808", "400 digits": strings.Repeat("9", 400), "SQL": "1%27--",
		"up": "..%2f1", "a slash": "1%2f1", "no UTF-8": "%ff", "digits of another script": "%d9%a1", "NaN": "NaN",
	} {
		for _, kind := range []string{"tokens", "approvals"} {
			add(kind+": {"+name+"}", "GET", "/api/v1/"+kind+"/"+id, "", 404, "not_found", "")
		}
		for route, verbs := range map[string][]string{"tokens": {"revoke"}, "approvals": {"approve", "reject"}} {
			for _, verb := range verbs {
				add(route+": "+verb+" {"+name+"}", "POST", "/api/v1/"+route+"/"+id+"/"+verb, "", 404, "not_found", "")
			}
		}
	}
	for _, path := range []string{"/api/v1/tokens/{token}/revoke", "/api/v1/approvals/{stale}/approve", "/api/v1/approvals/{stale}/reject"} {
		for name, body := range map[string]string{"a member": `{"reason":"x"}`, "trust": `{"trusted":true}`} {
			field := map[string]string{"a member": "reason", "trust": "trusted"}[name]
			add(path+" with "+name, "POST", path, body, 400, "unknown_field", field)
		}
		add(path+" with an array", "POST", path, "[]", 400, "invalid_json", "")
		add(path+" with null", "POST", path, "null", 400, "invalid_json", "")
		add(path+" with a form", "POST", path, "a=b", 415, "unsupported_media_type", "Content-Type", "Content-Type", "application/x-www-form-urlencoded")
		add(path+" with 70 KiB", "POST", path, strings.Repeat(" ", 70<<10), 413, "body_too_large", "")
		add(path+" with a parameter", "POST", path+"?force=1", "", 400, "unknown_parameter", "force")
		add(path+" by GET", "GET", path, "", 405, "method_not_allowed", "")
	}
	for state, verbs := range map[string][]string{"approved": {"reject"}, "rejected": {"approve"}, "stale": {"approve", "reject"}, "withdrawn": {"approve", "reject"}} {
		for _, verb := range verbs {
			add(verb+" what is "+state, "POST", "/api/v1/approvals/{"+state+"}/"+verb, "", 409, "approval_decided", "")
			add(verb+" what is "+state+", with an empty object", "POST", "/api/v1/approvals/{"+state+"}/"+verb, "{}", 409, "approval_decided", "")
		}
	}
	for _, method := range []string{"DELETE", "PUT", "PATCH"} {
		add(method+" a token", method, "/api/v1/tokens/{token}", "", 405, "method_not_allowed", "")
		add(method+" an approval", method, "/api/v1/approvals/{stale}", "", 405, "method_not_allowed", "")
	}
	return tests
}
