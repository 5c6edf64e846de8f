package gateway_test

import (
	"net/http"
	"strings"
	"testing"
)

// edited is a payload of testdata with pairs of old and new text.
func edited(t testing.TB, name string, edits ...string) string {
	t.Helper()
	text := payload(t, name)
	for i := 0; i < len(edits); i += 2 {
		if !strings.Contains(text, edits[i]) {
			t.Fatalf("%s holds no %q", name, edits[i])
		}
		text = strings.ReplaceAll(text, edits[i], edits[i+1])
	}
	return text
}

func TestBadDeliveriesAreRefusedAndLeaveNothing(t *testing.T) {
	t.Parallel()
	s := start(t)
	const (
		signature = "X-Hub-Signature-256"
		target    = "X-GitHub-Hook-Installation-Target-"
		sender    = `"sender": {"login": "sender", "id": 7}`
		number    = `"id": 4711`
		name      = `"full_name": "owner/name"`
		page      = "https://github.com/owner/name"
		branch    = "refs/heads/main"
	)
	var (
		push  = payload(t, "push")
		large = "{" + strings.Repeat(" ", 26<<20) + "}"
		one   = strings.Repeat("1", 40)
		two   = strings.Repeat("2", 40)
		four  = strings.Repeat("4", 40)
		zero  = strings.Repeat("0", 40)
	)
	type bad struct {
		name    string
		event   string
		body    string
		status  int
		code    string
		headers []string
	}
	tests := []bad{
		{"no signature", "push", push, 401, "bad_signature", []string{signature, ""}},
		{"an empty signature", "push", push, 401, "bad_signature", []string{signature, " "}},
		{"SHA-1 only", "push", push, 401, "bad_signature", []string{signature, "", "X-Hub-Signature", "sha1=" + zero}},
		{"SHA-1 in its place", "push", push, 401, "bad_signature", []string{signature, "sha1=" + zero}},
		{"another secret", "push", push, 401, "bad_signature", []string{signature, sign("not-a-secret-of-the-tests", push)}},
		{"no secret", "push", push, 401, "bad_signature", []string{signature, sign("", push)}},
		{"another body", "push", strings.Replace(push, "hello", "hell", 1), 401, "bad_signature", []string{signature, sign(secret, push)}},
		{"the same JSON in other bytes", "push", strings.Replace(push, "  ", "\t", 1), 401, "bad_signature", []string{signature, sign(secret, push)}},
		{"an upper-case signature", "push", push, 401, "bad_signature", []string{signature, strings.ToUpper(sign(secret, push))}},
		{"half a signature", "push", push, 401, "bad_signature", []string{signature, sign(secret, push)[:40]}},
		{"a signature without its name", "push", push, 401, "bad_signature", []string{signature, strings.TrimPrefix(sign(secret, push), "sha256=")}},
		{"a signature with something behind it", "push", push, 401, "bad_signature", []string{signature, sign(secret, push) + "0"}},
		{"two signatures in one header", "push", push, 401, "bad_signature", []string{signature, sign(secret, push) + ", " + sign(secret, push)}},
		{"no delivery id", "push", push, 400, "invalid_header", []string{"X-GitHub-Delivery", ""}},
		{"a delivery id too long", "push", push, 400, "invalid_header", []string{"X-GitHub-Delivery", strings.Repeat("d", 101)}},
		{"a delivery id with a space", "push", push, 400, "invalid_header", []string{"X-GitHub-Delivery", "a b"}},
		{"a delivery id with a quote", "push", push, 400, "invalid_header", []string{"X-GitHub-Delivery", "a'b"}},
		{"no event", "push", push, 400, "invalid_header", []string{"X-GitHub-Event", ""}},
		{"XML", "push", push, 415, "unsupported_media_type", []string{"Content-Type", "text/xml"}},
		{"no content type", "push", push, 415, "unsupported_media_type", []string{"Content-Type", ""}},
		{"a form without a payload", "push", "a=b", 400, "invalid_payload", []string{"Content-Type", "application/x-www-form-urlencoded"}},
		{"a form with two payloads", "push", "payload={}&payload={}", 400, "invalid_payload", []string{"Content-Type", "application/x-www-form-urlencoded"}},
		{"a form that cannot be read", "push", "payload=%zz", 400, "invalid_payload", []string{"Content-Type", "application/x-www-form-urlencoded"}},
		{"more than 25 MB", "push", large, 413, "body_too_large", []string{signature, sign(secret, large)}},
		{"the hook of another repository", "push", push, 422, "wrong_hook", []string{target + "Type", "repository", target + "ID", "4712"}},
		{"a hook that is no number", "push", push, 422, "wrong_hook", []string{target + "Type", "repository", target + "ID", "4711x"}},
		{"the hook of an organization", "push", push, 422, "wrong_hook", []string{target + "Type", "organization", target + "ID", "99"}},
		{"a hook of organization 0", "push", push, 422, "wrong_hook", []string{target + "Type", "organization", target + "ID", "0"}},
		{"the hook of an enterprise", "push", push, 422, "wrong_hook", []string{target + "Type", "business", target + "ID", "99"}},
		{"a hook of something else", "push", push, 422, "wrong_hook", []string{target + "Type", "planet", target + "ID", "4711"}},
		{"a hook of no type", "push", push, 422, "wrong_hook", []string{target + "ID", "4711"}},
		{"an App without an installation", "push", push, 422, "wrong_hook", []string{target + "Type", "integration", target + "ID", "1"}},
	}
	texts := func(event, fixture string, table map[string][]string) {
		for what, edits := range table {
			tests = append(tests, bad{event + ": " + what, event, edited(t, fixture, edits...), 422, "invalid_payload", nil})
		}
	}
	whole := func(event string, table map[string]string) {
		for what, body := range table {
			tests = append(tests, bad{event + ": " + what, event, body, 422, "invalid_payload", nil})
		}
	}
	whole("push", map[string]string{
		"no JSON": "hello", "an array": "[]", "null": "null", "a string": `"push"`, "a number": "1", "nothing in it": "{}",
		"half of it": push[:len(push)/2], "something behind it": push + "{}", "a comma too many": strings.Replace(push, `"forced": false,`, `"forced": false,,`, 1),
		"a bare word": strings.Replace(push, "false", "False", 1), "two objects": "{}{}", "a byte order mark": "\ufeff" + push,
		"UTF-16": strings.Join(strings.Split(push, ""), "\x00"), "broken UTF-8": strings.Replace(push, "say hello", "say \xff", 1),
		"a control character": strings.Replace(push, "say hello", "say \x01", 1), "100,000 arrays": strings.Repeat("[", 100_000),
		"100,000 objects": strings.Repeat(`{"a":`, 100_000) + "1" + strings.Repeat("}", 100_000),
	})
	texts("push", "push", map[string][]string{
		"a repository twice":              {`"sender":`, `"repository": {}, "sender":`},
		"a repository in capitals too":    {`"sender":`, `"REPOSITORY": {}, "sender":`},
		"a number in other letters too":   {`"name": "name"`, `"name": "name", "iD": 4712`},
		"a number escaped too":            {`"name": "name"`, `"name": "name", "\u0069d": 4712`},
		"a ref with a long s too":         {`"sender":`, `"ſender": {"id": 8}, "sender":`},
		"a name twice deep in a commit":   {`"email": "somebody@example.com"`, `"email": "a", "email": "b"`},
		"no ref":                          {`"ref": "refs/heads/main",`, ``},
		"a ref that is a number":          {`"ref": "refs/heads/main"`, `"ref": 1`},
		"a short ref":                     {branch, "main"},
		"an empty branch":                 {branch, "refs/heads/"},
		"an option as branch":             {branch, "refs/heads/--upload-pack=touch /tmp/x"},
		"a command as branch":             {branch, "refs/heads/$(id)^"},
		"a branch above":                  {branch, "refs/heads/../../etc"},
		"a branch with a NUL":             {branch, `refs/heads/\u0000`},
		"a branch with a line end":        {branch, `refs/heads/a\nb`},
		"half a character as branch":      {branch, `refs/heads/\ud800`},
		"a branch too long":               {branch, "refs/heads/" + strings.Repeat("b", 4096)},
		"a branch that ends in .lock":     {branch, "refs/heads/a.lock"},
		"no commit id":                    {two, "main"},
		"an upper-case commit id":         {two, strings.Repeat("A", 40)},
		"a commit id too short":           {two, two[:39]},
		"a commit id of SHA-256":          {two, strings.Repeat("2", 64)},
		"zeros though it is not deleted":  {two, zero},
		"deleted that is a word":          {`"deleted": false`, `"deleted": "no"`},
		"a head commit that is a list":    {`"head_commit": {`, `"other": {}, "head_commit": [], "commit": {`},
		"no repository":                   {`"repository": {`, `"repo": {`},
		"a repository that is a string":   {`"repository": {`, `"repository": "owner/name", "repo": {`},
		"a repository that is null":       {`"repository": {`, `"repository": null, "repo": {`},
		"another name than its page":      {name, `"full_name": "owner/other"`},
		"a name with dots":                {"owner/name", "owner/.."},
		"a name with a user":              {"owner/name", "owner/name@evil"},
		"a name of three parts":           {"owner/name", "owner/name/more"},
		"a name of one part":              {"owner/name", "owner"},
		"a name like an option":           {"owner/name", "-owner/name"},
		"a name with a query":             {"owner/name", "owner/name?x=1"},
		"a page of a file":                {page, "file:///owner/name"},
		"a page of ssh":                   {page, "ssh://github.com/owner/name"},
		"a page with a user":              {page, "https://github.com@evil.example/owner/name"},
		"a page of an IPv6 address":       {page, "https://[::1]/owner/name"},
		"a page with a port too high":     {page, "https://github.com:70000/owner/name"},
		"a page with a line end":          {page, `https://github.com/owner/name\n`},
		"a number too large":              {number, `"id": 1e400`},
		"a number above 64 bits":          {number, `"id": 18446744073709551616`},
		"a number with a part":            {number, `"id": 4711.5`},
		"a negative number":               {number, `"id": -4711`},
		"number 0":                        {number, `"id": 0`},
		"a number in quotes":              {number, `"id": "4711"`},
		"no number":                       {number, `"node_id": "x"`},
		"no sender":                       {sender, `"nobody": {}`},
		"a sender that is a list":         {sender, `"sender": []`},
		"a sender without a number":       {sender, `"sender": {"login": "sender"}`},
		"a sender with a negative number": {sender, `"sender": {"login": "sender", "id": -7}`},
	})
	texts("pull_request", "pull_request", map[string][]string{
		"number 0":                         {`"number": 5`, `"number": 0`},
		"a negative number":                {`"number": 5`, `"number": -5`},
		"a number above 32 bits":           {`"number": 5`, `"number": 4294967301`},
		"no head":                          {`"head": {`, `"tail": {`},
		"a head without a commit":          {four, ""},
		"a head that is an option":         {four, "--upload-pack=touch"},
		"no base":                          {`"base": {`, `"basis": {`},
		"a base without a commit":          {one, ""},
		"a base without a branch":          {`"ref": "main"`, `"ref": ""`},
		"a base that is an option":         {`"ref": "main"`, `"ref": "--upload-pack=x y"`},
		"another repository":               {`"repository": {"id": 4711, "full_name": "owner/name"`, `"repository": {"id": 4711, "full_name": "owner/other"`},
		"another repository by its number": {`"repository": {"id": 4711`, `"repository": {"id": 4712`},
		"two heads":                        {`"base": {`, `"Head": {"repo": {"id": 4711}}, "base": {`},
		"two head repositories":            {`"repo": {"id": 4711, "full_name"`, `"REPO": {}, "repo": {"id": 4711, "full_name"`},
		"a fork at no time":                {`"updated_at": "2026-11-22T16:00:00Z",`, ``, `"head": {`, `"head": {"label": "x"}, "other": {`},
		"a time that is none":              {"2026-11-22T16:00:00Z", "yesterday"},
	})
	whole("pull_request", map[string]string{"no pull request in it": `{"action":"opened","number":5}`, "a pull request that is a number": `{"action":"opened","number":5,"pull_request":5}`})
	whole("check_run", map[string]string{"no check": `{"action":"rerequested"}`, "no commit": `{"action":"rerequested","check_run":{"head_sha":"HEAD"}}`})
	whole("check_suite", map[string]string{"no repository": `{"action":"rerequested","check_suite":{"head_sha":"` + two + `"}}`})
	texts("workflow_dispatch", "push", map[string][]string{
		"no ref":                  {branch, ""},
		"a ref that is an option": {branch, "--upload-pack=x"},
		"inputs that are a list":  {`"ref"`, `"inputs": [1], "ref"`},
	})
	texts("repository", "push", map[string][]string{
		"renamed from nothing":      {`"ref"`, `"action": "renamed", "ref"`},
		"renamed from a path":       {`"ref"`, `"action": "renamed", "changes": {"repository": {"name": {"from": "../evil"}}}, "ref"`},
		"transferred from nobody":   {`"ref"`, `"action": "transferred", "ref"`},
		"transferred from a number": {`"ref"`, `"action": "transferred", "changes": {"owner": 5}, "ref"`},
	})

	seen := map[string]bool{}
	for _, test := range tests {
		if seen[test.name] {
			t.Errorf("%q is there twice", test.name)
		}
		seen[test.name] = true
		t.Run(test.name, func(t *testing.T) {
			a := s.deliver(test.event, "some-id", test.body, test.headers...)
			if p := a.problem(t); a.status != test.status || p.Code != test.code {
				t.Errorf("%d %s, want %d %s", a.status, a.body, test.status, test.code)
			}
		})
	}
	if len(tests) < 80 {
		t.Errorf("only %d cases", len(tests))
	}
	t.Run("two signatures", func(t *testing.T) {
		request, _ := http.NewRequestWithContext(t.Context(), "POST", s.url+"/webhooks/github", strings.NewReader(push))
		request.Header[signature] = []string{sign(secret, push), sign(secret, push)}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != http.StatusUnauthorized {
			t.Errorf("%d", response.StatusCode)
		}
	})
	for _, table := range []string{"ci_runs", "ci_jobs", "ci_approvals", "ci_repositories"} {
		if n := s.count(table); n != 0 {
			t.Errorf("%d rows were left in %s", n, table)
		}
	}
}
