package gateway_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
)

func TestAcceptedRunIsShownAsItIs(t *testing.T) {
	t.Parallel()
	s := start(t)
	sha := strings.Repeat("ab", 20)
	a := s.send("POST", "/api/v1/runs", `{"repository":"https://Example.com/owner/name.git","ref":"main","sha":"`+strings.ToUpper(sha)+`"}`)
	if a.status != http.StatusCreated {
		t.Fatalf("create: %d %s", a.status, a.body)
	}
	var created run
	decode(t, a.body, &created)
	if want := "/api/v1/runs/" + created.ID; a.header.Get("Location") != want {
		t.Errorf("Location: %q, want %q", a.header.Get("Location"), want)
	}
	want := run{
		ID: created.ID, Repository: "https://example.com/owner/name", Ref: ptr("main"), HeadSHA: &sha, Event: "manual",
		Status: jobs.StatusNew, URL: s.url + "/run/" + created.ID, CreatedAt: created.CreatedAt, Version: created.Version,
		Jobs: []job{{ID: created.Jobs[0].ID, Name: "initialize", Status: jobs.StatusNew, Reason: "waits for an initializer", Steps: []step{}}},
	}
	if diff := cmp.Diff(want, created); diff != "" {
		t.Errorf("created run (-want +got):\n%s", diff)
	}
	if !strings.Contains(a.body, `"finished_at":null`) || !strings.Contains(a.body, `"id":"`+created.ID+`"`) {
		t.Errorf("unknown is null and ids are strings, not %s", a.body)
	}
	if diff := cmp.Diff(created, s.get(created.ID)); diff != "" {
		t.Errorf("the run as read (-created +read):\n%s", diff)
	}
}

func TestRunShowsTheStepsOfTheLatestAttempt(t *testing.T) {
	t.Parallel()
	s := start(t)
	created := s.create()
	jobID := s.plan(created)
	for i, name := range []string{"an older attempt", "go test ./..."} { // the first attempt was the initializer's
		s.db.Exec(t, "UPDATE ci_jobs SET status = 'running' WHERE id = $1::text::bigint", jobID)
		s.db.Exec(t, `INSERT INTO ci_steps (job_id, attempt, number, name, status, exit_code, started_at, finished_at)
			SELECT id, $2, 1, $3, 'failure', 2, now(), now() FROM ci_jobs WHERE id = $1::text::bigint`, jobID, i+2, name)
		s.db.Exec(t, "UPDATE ci_jobs SET status = 'initialized' WHERE id = $1::text::bigint", jobID)
	}
	before := s.get(created.ID)
	s.db.Exec(t, "UPDATE ci_jobs SET status = 'cancelled', reason = 'main.go:7:2: no such thing' WHERE id = $1::text::bigint", jobID)

	got := s.get(created.ID)
	if got.Status != jobs.StatusCancelled || got.FinishedAt == nil || got.Version <= before.Version {
		t.Errorf("run: %+v, before: version %d", got, before.Version)
	}
	j := got.Jobs[0]
	if j.Name != "ci / test" || j.Attempt != 3 || j.Reason != "main.go:7:2: no such thing" {
		t.Errorf("job: %+v", j)
	}
	if len(j.Steps) != 1 || j.Steps[0].Name != "go test ./..." || *j.Steps[0].ExitCode != 2 || j.Steps[0].FinishedAt == nil {
		t.Errorf("steps: %+v", j.Steps)
	}
}

func TestWaitingJobSaysForWhat(t *testing.T) {
	t.Parallel()
	s := start(t)
	created := s.create()
	s.db.Exec(t, "INSERT INTO ci_repositories (repository, max_running) VALUES ('https://example.com/owner/name', 2)")
	s.plan(created)
	insert := func(key, needs string) {
		s.db.Exec(t, `INSERT INTO ci_jobs (run_id, repository, status, workflow, job_key, name, needs)
			VALUES ($1::text::bigint, 'https://example.com/owner/name', 'blocked', '.ci/workflows/ci.yml', $2, 'ci / ' || $2, $3::text[])`, created.ID, key, needs)
	}
	insert("deploy", "{test,lint}")
	insert("lint", "{}")
	insert("retry", "{}")
	s.db.Exec(t, "UPDATE ci_jobs SET not_before = '2030-01-02 03:04:05Z', reason = 'the disk was full' WHERE job_key = 'retry'")

	reasons := map[string]string{}
	for _, j := range s.get(created.ID).Jobs {
		reasons[j.Name] = j.Reason
	}
	want := map[string]string{
		"ci / test":   "waits for a runner",
		"ci / deploy": "waits for ci / test, ci / lint",
		"ci / lint":   "waits for a free place: at most 2 jobs of this repository run at once",
		"ci / retry":  "the disk was full; tried again after 03:04:05 UTC",
	}
	if diff := cmp.Diff(want, reasons); diff != "" {
		t.Errorf("reasons (-want +got):\n%s", diff)
	}
}

func TestSameKeyIsTheSameRun(t *testing.T) {
	t.Parallel()
	s := start(t)
	body := `{"repository":"https://example.com/owner/name","ref":"main"}`
	first := s.send("POST", "/api/v1/runs", body, "Idempotency-Key", "a key of mine!")
	if first.status != http.StatusBadRequest || first.problem(t).Field != "Idempotency-Key" {
		t.Errorf("a key with a space: %d %s", first.status, first.body)
	}
	first = s.send("POST", "/api/v1/runs", body, "Idempotency-Key", "mine")
	again := s.send("POST", "/api/v1/runs", `{"ref":"main", "repository":"https://example.com/owner/name.git"}`, "Idempotency-Key", "mine")
	if first.status != http.StatusCreated || again.status != http.StatusCreated || again.body != first.body ||
		again.header.Get("Location") != first.header.Get("Location") || again.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("first %d %s; again %d %s", first.status, first.body, again.status, again.body)
	}
	other := s.send("POST", "/api/v1/runs", `{"repository":"https://example.com/owner/name","ref":"other"}`, "Idempotency-Key", "mine")
	if p := other.problem(t); other.status != http.StatusUnprocessableEntity || p.Code != "idempotency_key_reused" {
		t.Errorf("same key, other request: %d %s", other.status, other.body)
	}
	rerun := s.send("POST", first.header.Get("Location")+"/rerun", "", "Idempotency-Key", "mine")
	if rerun.status != http.StatusUnprocessableEntity {
		t.Errorf("same key, other route: %d %s", rerun.status, rerun.body)
	}
	if n := s.count("ci_runs"); n != 1 {
		t.Errorf("%d runs, want 1", n)
	}
}

func TestListIsReadPageByPage(t *testing.T) {
	t.Parallel()
	s := start(t)
	var want, got []string
	for range 5 {
		want = append([]string{s.create().ID}, want...)
	}
	type page struct {
		Runs       []run
		NextCursor *string `json:"next_cursor"`
	}
	for cursor := ""; ; {
		a := s.send("GET", "/api/v1/runs?limit=2&cursor="+cursor, "")
		if cursor == "" {
			a = s.send("GET", "/api/v1/runs?limit=2", "")
		}
		var p page
		decode(t, a.body, &p)
		for _, r := range p.Runs {
			got = append(got, r.ID)
			if len(r.Jobs) != 1 {
				t.Errorf("run %s has %d jobs in the list", r.ID, len(r.Jobs))
			}
		}
		s.create() // newer runs do not move the pages
		if p.NextCursor == nil {
			break
		}
		cursor = *p.NextCursor
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ids (-want +got):\n%s", diff)
	}
	if a := start(t).send("GET", "/api/v1/runs", ""); a.body != `{"runs":[],"next_cursor":null}`+"\n" {
		t.Errorf("an empty list: %s", a.body)
	}
}

func TestCancelEndsWhatNobodyHolds(t *testing.T) {
	t.Parallel()
	s := start(t)
	created := s.create()
	a := s.send("POST", "/api/v1/runs/"+created.ID+"/cancel", "")
	var cancelled run
	decode(t, a.body, &cancelled)
	if a.status != http.StatusAccepted || cancelled.Status != jobs.StatusCancelled || cancelled.Jobs[0].Reason != "cancelled on request" {
		t.Errorf("cancel: %d %s", a.status, a.body)
	}
	again := s.send("POST", "/api/v1/runs/"+created.ID+"/cancel", "")
	if p := again.problem(t); again.status != http.StatusConflict || p.Code != "run_ended" {
		t.Errorf("cancel an ended run: %d %s", again.status, again.body)
	}
}

func TestRerunIsARunOfItsOwn(t *testing.T) {
	t.Parallel()
	s := start(t)
	created := s.create()
	a := s.send("POST", "/api/v1/runs/"+created.ID+"/rerun", "{}", "Idempotency-Key", "again")
	var rerun run
	decode(t, a.body, &rerun)
	if a.status != http.StatusCreated || rerun.ID == created.ID || rerun.Repository != created.Repository || a.header.Get("Location") != "/api/v1/runs/"+rerun.ID {
		t.Errorf("rerun: %d %s", a.status, a.body)
	}
	if b := s.send("POST", "/api/v1/runs/"+created.ID+"/rerun", "", "Idempotency-Key", "again"); b.body != a.body {
		t.Errorf("rerun with the same key: %s", b.body)
	}
}

func TestManyClientsGetRunsOfTheirOwn(t *testing.T) {
	t.Parallel()
	s := start(t)
	var all sync.WaitGroup
	ids := make(chan string, 40)
	for range 40 {
		all.Go(func() { ids <- s.create().ID })
	}
	all.Wait()
	close(ids)
	seen := map[string]bool{}
	for id := range ids {
		seen[id] = true
	}
	if len(seen) != 40 || s.count("ci_jobs") != 40 {
		t.Errorf("%d runs, %d jobs, want 40 of each", len(seen), s.count("ci_jobs"))
	}
}

func TestBadRequestsAreRefusedAndLeaveNothing(t *testing.T) {
	t.Parallel()
	s := start(t)
	const good = "https://example.com/owner/name"
	post := func(body string) []string { return []string{"POST", "/api/v1/runs", body} }
	repository := func(r string) []string { return post(fmt.Sprintf(`{"repository":%q}`, r)) }
	ref := func(r string) []string { return post(fmt.Sprintf(`{"repository":%q,"ref":%s}`, good, r)) }
	get := func(path string) []string { return []string{"GET", path, ""} }
	tests := []struct {
		name    string
		request []string // method, path, body, headers …
		status  int
		code    string
		field   string
	}{
		{"no body", append(post(""), "Content-Type", "application/json"), 400, "invalid_json", ""},
		{"no JSON", post("repository=x"), 400, "invalid_json", ""},
		{"half a JSON", post(`{"repository":"` + good), 400, "invalid_json", ""},
		{"half an object", post(`{"repository":"` + good + `"`), 400, "invalid_json", ""},
		{"an array", post(`["` + good + `"]`), 400, "invalid_json", ""},
		{"null", post("null"), 400, "invalid_json", ""},
		{"two objects", post(`{"repository":"` + good + `"} {}`), 400, "invalid_json", ""},
		{"not UTF-8", post("{\"repository\":\"https://example.com/owner/\xff\"}"), 400, "invalid_json", ""},
		{"a depth bomb", post(strings.Repeat("[", 60000)), 400, "invalid_json", ""},
		{"a deep value", post(`{"ref":` + strings.Repeat("[", 30000)), 400, "invalid_json", ""},
		{"too large", post(`{"repository":"` + strings.Repeat("x", 70000) + `"}`), 413, "body_too_large", ""},
		{"a form", append(post("repository=x"), "Content-Type", "application/x-www-form-urlencoded"), 415, "unsupported_media_type", "Content-Type"},
		{"no content type", append(post("{}"), "Content-Type", ""), 415, "unsupported_media_type", "Content-Type"},
		{"an unknown field", post(`{"repository":"` + good + `","branch":"main"}`), 400, "unknown_field", "branch"},
		{"another case", post(`{"Repository":"` + good + `"}`), 400, "unknown_field", "Repository"},
		{"a field twice", post(`{"repository":"` + good + `","repository":"` + good + `"}`), 400, "invalid_field", "repository"},
		{"a number", post(`{"repository":1}`), 400, "invalid_field", "repository"},
		{"an object", ref(`{}`), 400, "invalid_field", "ref"},

		{"no repository", post(`{}`), 422, "invalid_field", "repository"},
		{"null repository", post(`{"repository":null}`), 422, "invalid_field", "repository"},
		{"http", repository("http://example.com/owner/name"), 422, "invalid_field", "repository"},
		{"ssh", repository("ssh://git@example.com/owner/name"), 422, "invalid_field", "repository"},
		{"scp", repository("git@example.com:owner/name"), 422, "invalid_field", "repository"},
		{"a helper", repository("ext::sh -c id"), 422, "invalid_field", "repository"},
		{"an option", repository("--upload-pack=id"), 422, "invalid_field", "repository"},
		{"a user", repository("https://me@example.com/owner/name"), 422, "invalid_field", "repository"},
		{"a password", repository("https://me:pw@example.com/owner/name"), 422, "invalid_field", "repository"},
		{"no owner", repository("https://example.com/name"), 422, "invalid_field", "repository"},
		{"no path", repository("https://example.com"), 422, "invalid_field", "repository"},
		{"no host", repository("https:///owner/name"), 422, "invalid_field", "repository"},
		{"an IPv6 address", repository("https://[::1]/owner/name"), 422, "invalid_field", "repository"},
		{"a port too high", repository("https://example.com:70000/owner/name"), 422, "invalid_field", "repository"},
		{"a query", repository(good + "?x=1"), 422, "invalid_field", "repository"},
		{"a fragment", repository(good + "#x"), 422, "invalid_field", "repository"},
		{"up", repository("https://example.com/owner/../name"), 422, "invalid_field", "repository"},
		{"escaped up", repository("https://example.com/owner/%2e%2e/name"), 422, "invalid_field", "repository"},
		{"a line break", repository("https://example.com/owner/na\nme"), 422, "invalid_field", "repository"},
		{"a NUL", post(`{"repository":"https://example.com/owner/na\u0000me"}`), 422, "invalid_field", "repository"},
		{"a lone surrogate", post(`{"repository":"https://example.com/owner/\ud800"}`), 422, "invalid_field", "repository"},
		{"too long", repository("https://example.com/owner/" + strings.Repeat("n", 2000)), 422, "invalid_field", "repository"},
		{"a file of a host", repository("file://host/srv/git"), 422, "invalid_field", "repository"},
		{"the root", repository("file:////"), 422, "invalid_field", "repository"},
		{"an option as ref", ref(`"--upload-pack=id"`), 422, "invalid_field", "ref"},
		{"a space in a ref", ref(`"a b"`), 422, "invalid_field", "ref"},
		{"a NUL in a ref", ref(`"a\u0000b"`), 422, "invalid_field", "ref"},
		{"dots in a ref", ref(`"a..b"`), 422, "invalid_field", "ref"},
		{"a refspec", ref(`"+refs/heads/a:refs/heads/b"`), 422, "invalid_field", "ref"},
		{"a long ref", ref(`"` + strings.Repeat("r", 256) + `"`), 422, "invalid_field", "ref"},
		{"a commit as ref", ref(`"` + strings.Repeat("a1", 20) + `"`), 422, "invalid_field", "ref"},
		{"a short sha", post(`{"repository":"` + good + `","sha":"abc1234"}`), 422, "invalid_field", "sha"},
		{"a sha of other letters", post(`{"repository":"` + good + `","sha":"` + strings.Repeat("g", 40) + `"}`), 422, "invalid_field", "sha"},
		{"a long key", append(repository(good), "Idempotency-Key", strings.Repeat("k", 256)), 400, "invalid_header", "Idempotency-Key"},

		{"limit 0", get("/api/v1/runs?limit=0"), 400, "invalid_parameter", "limit"},
		{"limit 101", get("/api/v1/runs?limit=101"), 400, "invalid_parameter", "limit"},
		{"limit x", get("/api/v1/runs?limit=x"), 400, "invalid_parameter", "limit"},
		{"limit twice", get("/api/v1/runs?limit=1&limit=2"), 400, "invalid_parameter", "limit"},
		{"limit empty", get("/api/v1/runs?limit="), 400, "invalid_parameter", "limit"},
		{"cursor empty", get("/api/v1/runs?cursor="), 400, "invalid_parameter", "cursor"},
		{"cursor forged", get("/api/v1/runs?cursor=MTI"), 400, "invalid_parameter", "cursor"},
		{"cursor negative", get("/api/v1/runs?cursor=cnVuczotMQ"), 400, "invalid_parameter", "cursor"},
		{"a token in the query", get("/api/v1/runs?access_token=x"), 400, "secret_in_url", "access_token"},
		{"a broken query", get("/api/v1/runs?limit=%zz"), 400, "invalid_query", ""},
		{"no such run", get("/api/v1/runs/999"), 404, "not_found", ""},
		{"a negative id", get("/api/v1/runs/-1"), 404, "not_found", ""},
		{"id 0", get("/api/v1/runs/0"), 404, "not_found", ""},
		{"an id with a plus", get("/api/v1/runs/+1"), 404, "not_found", ""},
		{"an id too large", get("/api/v1/runs/9223372036854775808"), 404, "not_found", ""},
		{"an id with a slash", get("/api/v1/runs/1%2f2"), 404, "not_found", ""},
		{"an id with a NUL", get("/api/v1/runs/%00"), 404, "not_found", ""},
		{"cancel of none", []string{"POST", "/api/v1/runs/999/cancel", ""}, 404, "not_found", ""},
		{"rerun of none", []string{"POST", "/api/v1/runs/999/rerun", ""}, 404, "not_found", ""},
		{"a rerun with a field", []string{"POST", "/api/v1/runs/1/rerun", `{"ref":"main"}`}, 400, "unknown_field", "ref"},
		{"log of none", get("/api/v1/jobs/999/log"), 404, "not_found", ""},
		{"log of attempt 0", get("/api/v1/jobs/1/log?attempt=0"), 400, "invalid_parameter", "attempt"},
		{"log followed how", get("/api/v1/jobs/1/log?follow=maybe"), 400, "invalid_parameter", "follow"},
		{"watch of none", append(get("/api/v1/watch?run=999"), "Connection", "Upgrade", "Upgrade", "websocket"), 404, "not_found", ""},
		{"watch of x", get("/api/v1/watch?run=x"), 400, "invalid_parameter", "run"},
		{"watch without upgrade", get("/api/v1/watch"), 426, "upgrade_required", ""},
		{"no such route", get("/api/v2/runs"), 404, "not_found", ""},
		{"another method", []string{"DELETE", "/api/v1/runs/1", ""}, 405, "method_not_allowed", ""},
		{"another method on the webhook", get("/webhooks/github"), 405, "method_not_allowed", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			a := s.send(test.request[0], test.request[1], test.request[2], test.request[3:]...)
			p := a.problem(t)
			if a.status != test.status || p.Code != test.code || p.Field != test.field {
				t.Errorf("%d %s, want %d %s %s", a.status, a.body, test.status, test.code, test.field)
			}
			if a.status == http.StatusMethodNotAllowed && a.header.Get("Allow") == "" {
				t.Error("no Allow header")
			}
		})
	}
	if runs, jobs := s.count("ci_runs"), s.count("ci_jobs"); runs != 0 || jobs != 0 {
		t.Errorf("%d runs and %d jobs were left", runs, jobs)
	}
}

func ptr[T any](v T) *T { return &v }
