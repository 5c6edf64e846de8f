package gateway_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
)

const hostile = `<script>alert(1)</script>"'&`

func TestPagesShowTheStateWithoutScripts(t *testing.T) {
	t.Parallel()
	s := start(t)
	if a := s.send("GET", "/", ""); a.status != http.StatusOK || !strings.Contains(a.body, "No runs yet") {
		t.Errorf("an empty list: %d %s", a.status, a.body)
	}
	created := s.create()
	jobID := s.plan(created)
	s.db.Exec(t, "UPDATE ci_runs SET title = $1, author = $1, ref = 'refs/heads/main', head_sha = repeat('ab', 20)", hostile)
	s.db.Exec(t, "UPDATE ci_jobs SET name = 'ci / ' || $1, reason = 'main.go:7:2: ' || $1", hostile)
	s.finish(jobID, jobs.StatusFailure, s.claim(jobID))
	s.db.Exec(t, `INSERT INTO ci_steps (job_id, attempt, number, name, status, exit_code) VALUES ($1::text::bigint, 2, 1, $2, 'failure', 2)`, jobID, hostile)

	for path, wants := range map[string][]string{
		"/":                  {"owner/name", "main", "ababababab", "failure", "/run/" + created.ID},
		"/run/" + created.ID: {"owner/name", "main", "failure", "main.go:7:2: ", "exit code 2", "/api/v1/jobs/" + jobID + "/log"},
	} {
		a := s.send("GET", path, "")
		if a.status != http.StatusOK || a.header.Get("Content-Type") != "text/html; charset=utf-8" {
			t.Errorf("%s: %d %s", path, a.status, a.header.Get("Content-Type"))
		}
		if strings.Contains(a.body, hostile) || strings.Contains(a.body, "<script>") || !strings.Contains(a.body, "&lt;script&gt;") {
			t.Errorf("%s does not escape: %s", path, a.body)
		}
		for _, want := range wants {
			if !strings.Contains(a.body, want) {
				t.Errorf("%s does not show %q: %s", path, want, a.body)
			}
		}
	}
}

func TestPageOfNoRunSaysSo(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, path := range []string{"/run/999", "/run/x"} {
		a := s.send("GET", path, "")
		if a.status != http.StatusNotFound || !strings.Contains(a.body, "there is no such run") || !strings.HasPrefix(a.header.Get("Content-Type"), "text/html") {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
}
