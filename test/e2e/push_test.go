package e2e_test

import (
	"bufio"
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/lockstep-ci/lockstep/migrations"
)

func TestAPushTravelsFromWebhookToStatusPageAndLog(t *testing.T) {
	t.Parallel()
	pushTravels(t, newSystem(t))
}

// A notification is a hint, never the work: polling alone is enough.
func TestAPushTravelsWithoutNotifications(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.db.Exec(t, "ALTER TABLE ci_jobs DISABLE TRIGGER ci_jobs_notify_insert")
	s.db.Exec(t, "ALTER TABLE ci_jobs DISABLE TRIGGER ci_jobs_notify_update")
	pushTravels(t, s)
}

func pushTravels(t *testing.T, s *system) {
	t.Helper()
	s.start()
	repo := s.repository("octo/hello", workflow(`
name: ci
on: push
jobs:
  greet:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - name: Say hello
        run: echo "hello from $(cat greeting.txt) at $(ls | wc -l) file"
`, map[string]string{"greeting.txt": "the tree"}))

	r := s.finish(s.push(repo), "success")

	if r.Repository != repo.url() || r.Event != "push" || r.Ref != "refs/heads/main" || r.HeadSHA != repo.head {
		t.Errorf("the run is of %s %s %s %s, want %s push refs/heads/main %s", r.Repository, r.Event, r.Ref, r.HeadSHA, repo.url(), repo.head)
	}
	if want := "http://" + s.addr + "/run/" + r.ID; r.URL != want {
		t.Errorf("the run's URL is %s, want %s", r.URL, want)
	}
	if r.FinishedAt == nil || r.FinishedAt.Before(r.CreatedAt) {
		t.Errorf("the run was created at %s and finished at %v", r.CreatedAt, r.FinishedAt)
	}
	if len(r.Jobs) != 1 {
		t.Fatalf("the run has jobs %+v, want one", r.Jobs)
	}
	j := s.job(r, "ci / greet")
	zero := 0
	want := []step{{Number: 1, Status: "success"}, {Number: 2, Name: "Say hello", Status: "success", ExitCode: &zero}}
	got := append([]step(nil), j.Steps...)
	for i := range got {
		if got[i].StartedAt == nil || got[i].FinishedAt == nil || got[i].FinishedAt.Before(*got[i].StartedAt) {
			t.Errorf("step %d ran from %v to %v", got[i].Number, got[i].StartedAt, got[i].FinishedAt)
		}
		got[i].StartedAt, got[i].FinishedAt = nil, nil
		if got[i].Number == 1 { // what no user named and no process ran
			got[i].Name, got[i].ExitCode = "", nil
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}

	const hello = "hello from the tree at 1 file"
	if log := s.log(j); !strings.Contains(log, hello) {
		t.Errorf("the log does not say %q:\n%s", hello, log)
	}
	page := s.page(r.ID)
	for _, word := range []string{repo.name, repo.head, "success", "ci / greet", "Say hello"} {
		if !strings.Contains(page, word) {
			t.Errorf("the page does not say %q:\n%s", word, page)
		}
	}

	last := s.github.await(repo.head, "lockstep/ci / greet", "success")
	if got := s.github.states(repo.head, last.Context); !strings.HasPrefix("pending success", got) && got != "success" {
		t.Errorf("GitHub was told %q, want pending at first and then success", got)
	}
	if last.repository != repo.name || last.TargetURL != r.URL || last.authorization != "Bearer "+githubToken {
		t.Errorf("GitHub was told about %s, with link %s and authorization %q", last.repository, last.TargetURL, last.authorization)
	}
}

func TestAPushIsPendingOnGitHubUntilItEnds(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.start()
	repo := s.repository("octo/slow", workflow(`
name: ci
on: push
jobs:
  wait:
    runs-on: ubuntu-latest
    steps:
      - run: until [ -e `+s.file("go")+` ]; do sleep 0.05; done; exit 3
`))
	id := s.push(repo)
	s.github.await(repo.head, "lockstep/ci / wait", "pending")
	s.create("go")
	s.finish(id, "failure")
	s.github.await(repo.head, "lockstep/ci / wait", "failure")
	if got := s.github.states(repo.head, "lockstep/ci / wait"); got != "pending failure" {
		t.Errorf("GitHub was told %q, want the pending first and the end last", got)
	}
}

func TestWhatGitHubDoesNotTakeIsSentAgain(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.start()
	s.github.fail(http.StatusBadGateway)
	repo := s.repository("octo/hello", workflow(oneJob))
	s.finish(s.push(repo), "success")
	s.db.Await(t, 20*time.Second, "SELECT status = 'pending' AND attempt > 0 AND reason LIKE '%502%' FROM ci_reports WHERE state = 'success'")
	s.github.fail(0)
	s.db.Exec(t, "UPDATE ci_reports SET not_before = '-infinity'") // its backoff would be long for a test
	s.github.await(repo.head, "lockstep/ci / test", "success")
}

func TestARepositoryThatIsNotGitHubsRunsAndIsNotReported(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.start()
	repo := s.repository("octo/local", workflow(oneJob))
	var r run
	s.ask(http.MethodPost, "/api/v1/runs", map[string]string{"repository": "file://" + repo.dir}, http.StatusCreated, &r)
	s.finish(r.ID, "success")
	s.db.Await(t, 20*time.Second, "SELECT status = 'skipped' AND reason <> '' FROM ci_reports WHERE state = 'success'")
	if told := s.github.of(repo.head, "lockstep/ci / test"); len(told) > 0 {
		t.Errorf("GitHub was told %+v of a repository that it does not have", told)
	}
}

func TestALogIsFollowedUntilItsJobEnds(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.more["api-gateway"] = []string{"ANONYMOUS_READ=true"}
	s.start()
	repo := s.repository("octo/slow", workflow(`
name: ci
on: push
jobs:
  wait:
    runs-on: ubuntu-latest
    steps:
      - run: echo early; until [ -e `+s.file("go")+` ]; do sleep 0.05; done; echo late
`))
	id := s.push(repo)
	s.holder(id, "running")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.addr+"/api/v1/jobs/"+s.run(id).Jobs[0].ID+"/log?follow=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	var lines []string
	for log := bufio.NewScanner(response.Body); log.Scan(); {
		lines = append(lines, log.Text())
		if log.Text() == "early" {
			s.create("go")
		}
	}
	if len(lines) == 0 || lines[len(lines)-1] != "late" {
		t.Errorf("the log was followed as %q, want it to end with early and late", lines)
	}
	s.finish(id, "success")
}

func TestEachServiceLogsInUnderItsOwnRoleAndName(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.start()
	want := map[string]string{}
	for _, service := range services {
		want[service] = migrations.RoleName(service)
	}
	s.db.Await(t, 20*time.Second, `SELECT count(DISTINCT usename) = 5 FROM pg_stat_activity WHERE datname = current_database() AND usename LIKE 'lockstep_%'`)
	rows, err := s.db.Pool.Query(t.Context(), `
		SELECT DISTINCT application_name, usename FROM pg_stat_activity
		WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid() AND usename <> current_user`)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	var name, role string
	if _, err := pgx.ForEachRow(rows, []any{&name, &role}, func() error { got[name] = role; return nil }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("role by application_name (-want +got):\n%s", diff)
	}
}

func TestARunIsAskedForByTheAPI(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.start()
	repo := s.repository("octo/hello", workflow(`
name: ci
on: workflow_dispatch
jobs:
  greet:
    runs-on: [self-hosted, linux]
    steps:
      - run: echo "$GITHUB_REPOSITORY"
`))
	repo.git("branch", "topic")
	main := repo.head
	repo.commit(map[string]string{"later.txt": "not on topic"})

	ask := map[string]string{"repository": repo.url() + ".git", "ref": "topic"}
	var created, again run
	accepted := s.ask(http.MethodPost, "/api/v1/runs", ask, http.StatusCreated, &created, "Idempotency-Key", "first")
	if created.Repository != repo.url() || created.Event != "manual" || created.ID == "" {
		t.Errorf("created %s, want a manual run of %s", encode(created), repo.url())
	}
	if location := accepted.header.Get("Location"); !strings.HasSuffix(location, "/api/v1/runs/"+created.ID) {
		t.Errorf("Location is %q, want the run's", location)
	}
	s.ask(http.MethodPost, "/api/v1/runs", ask, http.StatusCreated, &again, "Idempotency-Key", "first")
	if again.ID != created.ID {
		t.Errorf("the same key made run %s beside %s", again.ID, created.ID)
	}
	var problem struct{ Type, Title, Code, Field, Detail string }
	ask["ref"] = "main"
	refused := s.ask(http.MethodPost, "/api/v1/runs", ask, http.StatusUnprocessableEntity, &problem, "Idempotency-Key", "first")
	if kind := refused.header.Get("Content-Type"); kind != "application/problem+json" || problem.Code == "" || problem.Title == "" {
		t.Errorf("the same key on another request is answered with %s %+v, want a problem", kind, problem)
	}

	if r := s.finish(created.ID, "success"); r.HeadSHA != main {
		t.Errorf("topic was resolved to %s, want %s", r.HeadSHA, main)
	}

	var list struct {
		Runs       []run  `json:"runs"`
		NextCursor string `json:"next_cursor"`
	}
	var second run
	s.ask(http.MethodPost, "/api/v1/runs", map[string]string{"repository": repo.url(), "sha": repo.head}, http.StatusCreated, &second, "Idempotency-Key", "second")
	if r := s.finish(second.ID, "success"); r.HeadSHA != repo.head {
		t.Errorf("the run is of commit %s, want %s", r.HeadSHA, repo.head)
	}
	s.ask(http.MethodGet, "/api/v1/runs?limit=1", nil, http.StatusOK, &list)
	if len(list.Runs) != 1 || list.Runs[0].ID != second.ID || list.NextCursor == "" {
		t.Fatalf("the newest run is said to be %+v, want %s and a cursor", list, second.ID)
	}
	s.ask(http.MethodGet, "/api/v1/runs?limit=1&cursor="+list.NextCursor, nil, http.StatusOK, &list)
	if len(list.Runs) != 1 || list.Runs[0].ID != created.ID {
		t.Errorf("the run before is said to be %+v, want %s", list.Runs, created.ID)
	}
	s.ask(http.MethodGet, "/api/v1/runs/"+created.ID, nil, http.StatusUnauthorized, &problem, "Authorization", "Bearer wrong")
	s.ask(http.MethodGet, "/api/v1/runs/987654321", nil, http.StatusNotFound, &problem)
}
