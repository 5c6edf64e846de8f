package gateway_test

import (
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
)

// newToken makes a token by the API; who makes it is said by headers.
func (s *server) newToken(body string, headers ...string) (bearer, id string) {
	s.t.Helper()
	a := s.send("POST", "/api/v1/tokens", body, headers...)
	var made struct {
		Token  struct{ ID string }
		Secret string
	}
	if a.status != http.StatusCreated {
		s.t.Fatalf("create a token %s: %d %s", body, a.status, a.body)
	}
	decode(s.t, a.body, &made)
	return "Bearer " + made.Secret, made.Token.ID
}

func TestATokenIsMadeShownAndRevoked(t *testing.T) {
	t.Parallel()
	s := start(t)
	a := s.send("POST", "/api/v1/tokens", `{"name":"deploy","scope":"run","expires_at":"2999-01-01T00:00:00Z"}`)
	secret := regexp.MustCompile(`"secret":"(lst_[0-9A-Za-z]{43})"`).FindStringSubmatch(a.body)
	if a.status != http.StatusCreated || secret == nil || a.header.Get("Location") != "/api/v1/tokens/1" || a.header.Get("Cache-Control") != "no-store" {
		t.Fatalf("create: %d %v %s", a.status, a.header, a.body)
	}
	if stored := jobstest.Value[string](t, s.db, "SELECT row_to_json(t)::text || (SELECT string_agg(row_to_json(l)::text, '') FROM audit_log l) FROM ci_tokens t"); strings.Contains(stored, secret[1]) {
		t.Errorf("the secret is stored: %s", stored)
	}
	again := s.send("POST", "/api/v1/tokens", `{"name":"deploy","scope":"run"}`)
	if p := again.problem(t); again.status != http.StatusConflict || p.Code != "name_taken" || p.Field != "name" {
		t.Errorf("the same name again: %d %+v", again.status, p)
	}
	bearer := "Bearer " + secret[1]
	for path, want := range map[string]string{"/api/v1/tokens/1": `"name":"deploy"`, "/api/v1/tokens": `"hint":"` + secret[1][:8] + `"`} {
		if a := s.send("GET", path, ""); a.status != http.StatusOK || !strings.Contains(a.body, want) || strings.Contains(a.body, secret[1]) {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	if a := s.send("GET", "/api/v1/runs", "", "Authorization", bearer); a.status != http.StatusOK {
		t.Errorf("the new token reads: %d", a.status)
	}
	s.db.Await(t, limit, "SELECT last_used_at IS NOT NULL AND last_used_at = date_trunc('minute', last_used_at) FROM ci_tokens")
	for range 2 { // twice is once
		if a := s.send("POST", "/api/v1/tokens/1/revoke", ""); a.status != http.StatusOK || !strings.Contains(a.body, `"revoked_by":"admin"`) {
			t.Errorf("revoke: %d %s", a.status, a.body)
		}
	}
	if a := s.send("GET", "/api/v1/runs", "", "Authorization", bearer); a.status != http.StatusUnauthorized {
		t.Errorf("the revoked token reads: %d", a.status)
	}
	s.newToken(`{"name":"deploy","scope":"read"}`) // the name is free again
	if a := s.send("POST", "/api/v1/tokens/7/revoke", ""); a.status != http.StatusNotFound {
		t.Errorf("revoke none: %d", a.status)
	}
}

func TestATokenMakesNoneThatMayMore(t *testing.T) {
	t.Parallel()
	s := start(t)
	const mine = "https://example.com/owner/name"
	bearer, id := s.newToken(`{"name":"parent","scope":"admin","repository":"` + mine + `.git","expires_at":"2999-01-01T00:00:00Z"}`)
	s.newToken(`{"name":"elsewhere","scope":"read","repository":"https://example.com/other/name"}`)
	for name, test := range map[string]struct {
		body, field string
		status      int
	}{
		"all repositories":   {`{"name":"x","scope":"read","expires_at":"2998-01-01T00:00:00Z"}`, "repository", 403},
		"another repository": {`{"name":"x","scope":"read","repository":"https://example.com/other/name","expires_at":"2998-01-01T00:00:00Z"}`, "repository", 403},
		"for ever":           {`{"name":"x","scope":"read","repository":"` + mine + `"}`, "expires_at", 403},
		"longer":             {`{"name":"x","scope":"read","repository":"` + mine + `","expires_at":"2999-01-01T00:00:01Z"}`, "expires_at", 403},
		"ended":              {`{"name":"x","scope":"read","repository":"` + mine + `","expires_at":"1999-01-01T00:00:01Z"}`, "expires_at", 422},
		"no time":            {`{"name":"x","scope":"read","expires_at":"tomorrow"}`, "expires_at", 422},
		"no scope":           {`{"name":"x","scope":"write"}`, "scope", 422},
		"no name":            {`{"name":" ","scope":"read"}`, "name", 422},
		"control characters": {`{"name":"a\u0000b","scope":"read"}`, "name", 422},
		"no repository":      {`{"name":"x","scope":"read","repository":"ftp://example.com"}`, "repository", 422},
	} {
		a := s.send("POST", "/api/v1/tokens", test.body, "Authorization", bearer)
		if p := a.problem(t); a.status != test.status || p.Field != test.field {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	s.newToken(`{"name":"child","scope":"admin","repository":"`+mine+`","expires_at":"2999-01-01T00:00:00Z"}`, "Authorization", bearer)
	if a := s.send("GET", "/api/v1/tokens", "", "Authorization", bearer); !strings.Contains(a.body, `"name":"child"`) || strings.Contains(a.body, "elsewhere") {
		t.Errorf("a token of one repository lists %s", a.body)
	}
	for _, scope := range []string{"read", "run"} {
		lesser, _ := s.newToken(`{"name":"` + scope + `","scope":"` + scope + `"}`)
		if a := s.send("POST", "/api/v1/tokens", `{"name":"x","scope":"read"}`, "Authorization", lesser); a.status != http.StatusForbidden {
			t.Errorf("scope %s makes a token: %d", scope, a.status)
		}
	}
	if a := s.send("POST", "/api/v1/tokens/"+id+"/revoke", "", "Authorization", bearer); a.status != http.StatusOK {
		t.Errorf("a token ends itself: %d %s", a.status, a.body)
	}
}

func TestOneOfManyMakesTheTokenOfAName(t *testing.T) {
	t.Parallel()
	s := start(t)
	var made sync.WaitGroup
	statuses := make(chan int, 8)
	for range cap(statuses) {
		made.Go(func() { statuses <- s.send("POST", "/api/v1/tokens", `{"name":"one","scope":"read"}`).status })
	}
	made.Wait()
	close(statuses)
	created := 0
	for status := range statuses {
		if status == http.StatusCreated {
			created++
		}
	}
	if created != 1 || s.count("ci_tokens") != 1 {
		t.Errorf("%d were created, %d are there", created, s.count("ci_tokens"))
	}
}

func TestWhatWasDoneIsWrittenDown(t *testing.T) {
	t.Parallel()
	s := start(t)
	run := s.create()
	s.send("POST", "/api/v1/runs/"+run.ID+"/rerun", "")
	bearer, _ := s.newToken(`{"name":"one","scope":"run"}`)
	s.send("POST", "/api/v1/runs/"+run.ID+"/cancel", "", "Authorization", bearer)
	s.send("POST", "/api/v1/runs/"+run.ID+"/cancel", "", "Authorization", bearer) // has ended
	s.send("POST", "/api/v1/tokens/1/revoke", "")
	s.deliver("push", "delivery-1", payload(t, "push"))
	s.db.Exec(t, "INSERT INTO ci_jobs (repository) VALUES ('https://example.com/owner/name')")
	s.db.Exec(t, "UPDATE ci_jobs SET status = 'cancelled' WHERE run_id = (SELECT max(id) FROM ci_runs)")
	s.db.Exec(t, "INSERT INTO ci_repositories (repository, max_running) VALUES ('https://example.com/owner/name', 2)")
	s.db.Exec(t, "UPDATE ci_tokens SET scope = 'admin', revoked_at = NULL")

	rows := jobstest.Value[[]string](t, s.db, `SELECT array_agg(principal || ' ' || action || ' ' || subject ORDER BY id) FROM audit_log`)
	me := "role:" + jobstest.Value[string](t, s.db, "SELECT session_user::text")
	want := []string{
		"admin run.create run:1", "admin run.rerun run:2", "admin token.create token:1", "token:1 run.cancel run:1", "admin token.revoke token:1",
		"github run.create run:3", me + " run.create run:4", me + " job.cancel job:4", me + " repository.change repository:https://example.com/owner/name",
		me + " token.change token:1",
	}
	if strings.Join(rows, "\n") != strings.Join(want, "\n") {
		t.Errorf("the audit log has\n%s\nnot\n%s", strings.Join(rows, "\n"), strings.Join(want, "\n"))
	}
	first := s.send("GET", "/api/v1/audit?limit=9", "")
	var page struct {
		Entries []struct {
			ID, Action string
			Details    map[string]any
		}
		NextCursor *string `json:"next_cursor"`
	}
	decode(t, first.body, &page)
	if len(page.Entries) != 9 || page.Entries[0].Action != "token.change" || page.NextCursor == nil {
		t.Fatalf("the first page: %s", first.body)
	}
	if _, told := page.Entries[0].Details["from"].(map[string]any); !told {
		t.Errorf("what was changed: %s", first.body)
	}
	decode(t, s.send("GET", "/api/v1/audit?cursor="+*page.NextCursor, "").body, &page)
	if len(page.Entries) != 1 || page.Entries[0].Action != "run.create" || page.NextCursor != nil {
		t.Errorf("the second page: %+v", page)
	}
	if strings.Contains(first.body, "hash") {
		t.Errorf("the log has hashes: %s", first.body)
	}
}

func TestNoServiceWritesTheAuditLog(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.create()
	for _, service := range []string{"api-gateway", "initializer", "runner", "github-notifier", "reaper"} {
		pool := s.db.Open(t, service).Pool()
		for _, statement := range []string{
			"DELETE FROM audit_log", "UPDATE audit_log SET principal = 'nobody'", "TRUNCATE audit_log",
			"INSERT INTO audit_log (principal, action, subject) VALUES ('a', 'b', 'c')", "SELECT ci_audit('a', 'b', 'c', NULL, '{}')",
		} {
			if _, err := pool.Exec(t.Context(), statement); err == nil || !strings.Contains(err.Error(), "permission denied") {
				t.Errorf("%s: %s: %v", service, statement, err)
			}
		}
		if _, err := pool.Exec(t.Context(), "SELECT hash FROM ci_tokens"); (err == nil) != (service == "api-gateway") {
			t.Errorf("%s reads token hashes: %v", service, err)
		}
	}
}
