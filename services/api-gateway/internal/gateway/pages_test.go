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

func TestPageHoldsTheFailingStepsOutput(t *testing.T) {
	t.Parallel()
	s := start(t)
	created := s.create()
	jobID := s.plan(created)
	w := s.claim(jobID)
	const before, output = "of the first step\n", "\x1b[31m--- FAIL: TestSum\x1b[0m got 3, want 4\x00\n"
	if _, err := w.Write([]byte(before + output)); err != nil {
		t.Fatal(err)
	}
	s.db.Exec(t, `
		INSERT INTO ci_steps (job_id, attempt, number, name, status, log_offset)
		VALUES ($1::text::bigint, 2, 1, 'one', 'success', 0), ($1::text::bigint, 2, 2, 'two', 'failure', $2), ($1::text::bigint, 2, 3, 'three', 'skipped', NULL)`,
		jobID, len(before))
	s.finish(jobID, jobs.StatusFailure, w)
	body := s.send("GET", "/run/"+created.ID, "").body
	if !strings.Contains(body, "--- FAIL: TestSum got 3, want 4\n") || strings.Contains(body, "of the first step") {
		t.Errorf("the page: %s", body)
	}
}

func TestPageOfNoRunSaysSo(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, path := range []string{"/run/999", "/run/x"} {
		a := s.send("GET", path, "")
		if a.status != http.StatusNotFound || !strings.Contains(a.body, "there is nothing of this id") || !strings.HasPrefix(a.header.Get("Content-Type"), "text/html") {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
}
