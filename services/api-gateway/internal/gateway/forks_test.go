package gateway_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/auth"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/gateway"
)

const (
	home      = "https://github.com/owner/name"
	homePath  = "/api/v1/repositories/https%3A%2F%2Fgithub.com%2Fowner%2Fname"
	forkedSHA = "4444444444444444444444444444444444444444"
)

// forked is the pull request of testdata, from a fork. The commit is the digit 40 times; minute is GitHub's clock.
func forked(t *testing.T, action, digit string, minute int) string {
	t.Helper()
	return edited(t, "pull_request",
		`"repo": {"id": 4711, "full_name": "owner/name", "html_url": "https://github.com/owner/name", "created_at": "2024-01-01T00:00:00Z"}
    },
    "base"`, `"repo": {"id": 4712, "full_name": "stranger/name", "html_url": "https://github.com/stranger/name"}
    },
    "base"`,
		"opened", action, forkedSHA, strings.Repeat(digit, 40), "16:00:00Z", fmt.Sprintf("16:%02d:00Z", minute))
}

// outcome is what a delivery was told.
type outcome struct {
	Ignored, Withdrawn string
	RunID              string `json:"run_id"`
	ApprovalID         string `json:"approval_id"`
	MovedTo            string `json:"moved_to"`
}

func (s *server) told(event, delivery, payload string) outcome {
	s.t.Helper()
	a := s.deliver(event, delivery, payload)
	if a.status != http.StatusAccepted {
		s.t.Fatalf("delivery %s: %d %s", delivery, a.status, a.body)
	}
	var o outcome
	decode(s.t, a.body, &o)
	return o
}

type approval struct {
	ID, Repository, URL, Status, SenderID string
	PullRequest                           int     `json:"pull_request"`
	HeadSHA                               string  `json:"head_sha"`
	RunID                                 *string `json:"run_id"`
	DecidedBy                             *string `json:"decided_by"`
}

func (s *server) approvals(query string) []approval {
	s.t.Helper()
	a := s.send("GET", "/api/v1/approvals"+query, "")
	var list struct{ Approvals []approval }
	decode(s.t, a.body, &list)
	return list.Approvals
}

func (s *server) set(settings string) {
	s.t.Helper()
	if a := s.send("PATCH", homePath, settings); a.status != http.StatusOK {
		s.t.Fatalf("set %s: %d %s", settings, a.status, a.body)
	}
}

func TestAForksPullRequestRunsOnceItIsApproved(t *testing.T) {
	t.Parallel()
	s := start(t)
	opened := forked(t, "opened", "4", 0)
	asked := s.told("pull_request", "d1", opened)
	if asked.ApprovalID == "" || s.count("ci_runs") != 0 {
		t.Fatalf("%+v, %d runs", asked, s.count("ci_runs"))
	}
	if again := s.told("pull_request", "d1", opened); again != asked {
		t.Errorf("the same delivery again: %+v, not %+v", again, asked)
	}
	if ready := s.told("pull_request", "d2", forked(t, "ready_for_review", "4", 1)); ready != asked {
		t.Errorf("the same commit again: %+v, not %+v", ready, asked)
	}
	list := s.approvals("?repository=github.com%2Fowner%2Fname")
	if len(list) != 1 || list[0].URL != home+"/pull/5" || list[0].HeadSHA != forkedSHA || list[0].Status != "waiting" {
		t.Fatalf("%+v", list)
	}

	// Many at once, and each is told of the same run.
	var all sync.WaitGroup
	runs := make(chan string, 10)
	for range cap(runs) {
		all.Go(func() {
			a := s.send("POST", "/api/v1/approvals/"+asked.ApprovalID+"/approve", "")
			var decided approval
			decode(t, a.body, &decided)
			if a.status != http.StatusOK || decided.RunID == nil || decided.Status != "approved" || decided.DecidedBy == nil || *decided.DecidedBy != "admin" {
				t.Errorf("%d %s", a.status, a.body)
				return
			}
			runs <- *decided.RunID
		})
	}
	all.Wait()
	close(runs)
	run := <-runs
	for other := range runs {
		if other != run {
			t.Errorf("runs %s and %s", run, other)
		}
	}
	got := jobstest.Value[string](t, s.db, `SELECT concat_ws(' ', event, ref, head_sha, base_ref, pull_request, trusted, sender_id, principal, idempotency_key) FROM ci_runs`)
	if want := "pull_request refs/pull/5/head " + forkedSHA + " refs/heads/main 5 f 7 github d1"; got != want {
		t.Errorf("the run is %q, not %q", got, want)
	}
	if audited := jobstest.Value[string](t, s.db, "SELECT string_agg(principal || ' ' || action, ', ' ORDER BY id) FROM audit_log"); audited != "github run.create, admin approval.approve" {
		t.Errorf("audited: %s", audited)
	}

	// Nothing makes a second one of that commit: not the deliveries, whatever the policy is by then, and not a change of mind.
	s.set(`{"fork_policy":"run"}`)
	for _, delivery := range []string{"d1"} {
		if o := s.told("pull_request", delivery, opened); o.RunID != run {
			t.Errorf("after the approval: %+v", o)
		}
	}
	s.set(`{"fork_policy":"ask"}`)
	if o := s.told("pull_request", "d3", forked(t, "reopened", "4", 2)); o.RunID != run {
		t.Errorf("reopened: %+v", o)
	}
	if p := s.send("POST", "/api/v1/approvals/"+asked.ApprovalID+"/reject", "").problem(t); p.Code != "approval_decided" || p.Status != http.StatusConflict {
		t.Errorf("%+v", p)
	}
	if n := s.count("ci_runs"); n != 1 {
		t.Errorf("%d runs", n)
	}
	again := s.send("POST", "/api/v1/runs/"+run+"/rerun", "")
	if again.status != http.StatusCreated || jobstest.Value[int64](t, s.db, "SELECT count(*) FROM ci_runs WHERE NOT trusted") != 2 {
		t.Errorf("a rerun is trusted: %s", again.body)
	}
}

func TestAnApprovalIsOfOneCommit(t *testing.T) {
	t.Parallel()
	s := start(t)
	status := func(id string) string {
		return jobstest.Value[string](t, s.db, "SELECT status FROM ci_approvals WHERE id = $1::text::bigint", id)
	}
	first := s.told("pull_request", "d1", forked(t, "opened", "4", 0))
	second := s.told("pull_request", "d2", forked(t, "synchronize", "5", 2))
	if second.ApprovalID == "" || second == first || status(first.ApprovalID) != "stale" || status(second.ApprovalID) != "waiting" {
		t.Fatalf("%+v is %s, then %+v is %s", first, status(first.ApprovalID), second, status(second.ApprovalID))
	}
	if p := s.send("POST", "/api/v1/approvals/"+first.ApprovalID+"/approve", "").problem(t); p.Code != "approval_decided" || !strings.Contains(p.Detail, "stale") {
		t.Errorf("%+v", p)
	}
	if late := s.told("pull_request", "d0", forked(t, "synchronize", "3", 1)); !strings.Contains(late.Ignored, "stale") || status(second.ApprovalID) != "waiting" {
		t.Errorf("an older commit that comes late: %+v", late)
	}
	if back := s.told("pull_request", "d3", forked(t, "synchronize", "4", 3)); back != first || status(first.ApprovalID) != "waiting" || status(second.ApprovalID) != "stale" {
		t.Errorf("pushed back: %+v", back)
	}
	if again := s.told("pull_request", "d2", forked(t, "synchronize", "5", 2)); !strings.Contains(again.Ignored, "stale") || status(first.ApprovalID) != "waiting" {
		t.Errorf("the delivery of the newer commit once more: %+v", again)
	}

	if closed := s.told("pull_request", "d4", forked(t, "closed", "4", 5)); closed.Withdrawn == "" || status(first.ApprovalID) != "withdrawn" {
		t.Errorf("closed: %+v", closed)
	}
	if again := s.told("pull_request", "d3", forked(t, "synchronize", "4", 3)); !strings.Contains(again.Ignored, "withdrawn") {
		t.Errorf("an earlier delivery after it was closed: %+v", again)
	}
	if reopened := s.told("pull_request", "d5", forked(t, "reopened", "4", 6)); reopened != first || status(first.ApprovalID) != "waiting" {
		t.Errorf("reopened: %+v", reopened)
	}
	if closed := s.told("pull_request", "d4", forked(t, "closed", "4", 5)); closed.Ignored == "" || status(first.ApprovalID) != "waiting" {
		t.Errorf("the close once more: %+v", closed)
	}
	if a := s.send("POST", "/api/v1/approvals/"+first.ApprovalID+"/reject", ""); a.status != http.StatusOK {
		t.Errorf("%s", a.body)
	}
	if asked := s.told("pull_request", "d6", forked(t, "reopened", "4", 7)); !strings.Contains(asked.Ignored, "rejected") {
		t.Errorf("a rejected commit asks again: %+v", asked)
	}
	if n := s.count("ci_runs"); n != 0 {
		t.Errorf("%d runs", n)
	}
}

func TestForkPoliciesAreFollowed(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.set(`{"fork_policy":"ignore"}`)
	if o := s.told("pull_request", "d1", forked(t, "opened", "4", 0)); !strings.Contains(o.Ignored, "fork_policy is ignore") {
		t.Errorf("%+v", o)
	}
	s.set(`{"fork_policy":"ask"}`)
	waiting := s.told("pull_request", "d2", forked(t, "synchronize", "4", 1))
	s.set(`{"fork_policy":"run"}`)
	run := s.told("pull_request", "d3", forked(t, "synchronize", "5", 2))
	if run.RunID == "" || jobstest.Value[bool](t, s.db, "SELECT trusted FROM ci_runs") {
		t.Errorf("%+v, and it is trusted", run)
	}
	if list := s.approvals("?status=stale"); len(list) != 1 || list[0].ID != waiting.ApprovalID {
		t.Errorf("what waited for an older commit: %+v", list)
	}
	s.set(`{"fork_policy":"ask"}`)
	if again := s.told("pull_request", "d3", forked(t, "synchronize", "5", 2)); again != run {
		t.Errorf("the delivery again: %+v, not %+v", again, run)
	}
}

func TestRepositorySettings(t *testing.T) {
	t.Parallel()
	s := start(t)
	if p := s.send("GET", homePath, "").problem(t); p.Code != "not_found" {
		t.Errorf("unknown: %+v", p)
	}
	s.set(`{"fork_policy":"run","max_running":3,"weight":2.5}`)
	s.set(`{"max_running":0}`)
	if got := jobstest.Value[string](t, s.db, "SELECT string_agg(concat_ws(' ', principal, action, details->'from'->>'max_running', details->'to'->>'max_running'), ', ' ORDER BY id) FROM audit_log"); got != "admin repository.change 3, admin repository.change 3" {
		t.Errorf("audited: %s", got)
	}
	s.told("push", "d1", payload(t, "push"))
	a := s.send("GET", "/api/v1/repositories/github.com%2Fowner%2Fname", "")
	if want := `{"repository":"` + home + `","fork_policy":"run","max_running":null,"weight":2.5,"github_id":"4711"}` + "\n"; a.body != want {
		t.Errorf("%s, not %s", a.body, want)
	}
	s.send("PATCH", "/api/v1/repositories/example.com%2Fa%2Fb", `{"fork_policy":"ask"}`)
	first := s.send("GET", "/api/v1/repositories?limit=1", "")
	var page struct {
		Repositories []struct{ Repository string }
		NextCursor   *string `json:"next_cursor"`
	}
	decode(t, first.body, &page)
	if len(page.Repositories) != 1 || page.Repositories[0].Repository != "https://example.com/a/b" || page.NextCursor == nil {
		t.Fatal(first.body)
	}
	second := s.send("GET", "/api/v1/repositories?limit=1&cursor="+*page.NextCursor, "")
	decode(t, second.body, &page)
	if page.Repositories[0].Repository != home || page.NextCursor != nil {
		t.Error(second.body)
	}
	for name, test := range map[string]struct {
		path, body string
		status     int
		field      string
	}{
		"another policy":        {homePath, `{"fork_policy":"trust"}`, 422, "fork_policy"},
		"no policy":             {homePath, `{"fork_policy":""}`, 422, "fork_policy"},
		"a policy that is none": {homePath, `{"fork_policy":1}`, 400, "fork_policy"},
		"less than no limit":    {homePath, `{"max_running":-1}`, 422, "max_running"},
		"half a job":            {homePath, `{"max_running":1.5}`, 400, "max_running"},
		"too many jobs":         {homePath, `{"max_running":2147483648}`, 400, "max_running"},
		"no weight":             {homePath, `{"weight":0}`, 422, "weight"},
		"too much weight":       {homePath, `{"weight":1000.5}`, 422, "weight"},
		"a weight without end":  {homePath, `{"weight":1e400}`, 400, "weight"},
		"a word as weight":      {homePath, `{"weight":"heavy"}`, 400, "weight"},
		"a word as yes":         {homePath, `{"forget_github_id":"yes"}`, 400, "forget_github_id"},
		"another setting":       {homePath, `{"github_id":"1"}`, 400, "github_id"},
		"no repository":         {"/api/v1/repositories/name", `{}`, 422, "repository"},
		"a repository above":    {"/api/v1/repositories/github.com%2F..%2Fname", `{}`, 422, "repository"},
		"a cursor of runs":      {"/api/v1/repositories?cursor=cnVuczo1", "", 400, "cursor"},
		"approvals of no state": {"/api/v1/approvals?status=open", "", 400, "status"},
		"approvals of nothing":  {"/api/v1/approvals?repository=x", "", 400, "repository"},
		"approval 0":            {"/api/v1/approvals/0", "", 404, ""},
		"approval 99":           {"/api/v1/approvals/99", "", 404, ""},
	} {
		t.Run(name, func(t *testing.T) {
			method := "PATCH"
			if test.body == "" {
				method = "GET"
			}
			if p := s.send(method, test.path, test.body).problem(t); p.Status != test.status || p.Field != test.field {
				t.Errorf("%+v", p)
			}
		})
	}
	for _, verb := range []string{"approve", "reject"} {
		if p := s.send("POST", "/api/v1/approvals/99/"+verb, "").problem(t); p.Code != "not_found" {
			t.Errorf("%+v", p)
		}
	}
}

func TestARepositoryMadeAnewIsAnotherOne(t *testing.T) {
	t.Parallel()
	s := start(t)
	push := payload(t, "push")
	s.told("push", "d1", push)
	anew := strings.Replace(push, `"id": 4711`, `"id": 4799`, 1)
	if p := s.deliver("push", "d2", anew).problem(t); p.Status != http.StatusConflict || p.Code != "another_repository" || p.Field != "repository.id" {
		t.Errorf("%+v", p)
	}
	s.set(`{"forget_github_id":true}`)
	if got := jobstest.Value[string](t, s.db, "SELECT principal || ' ' || action || ' ' || details FROM audit_log ORDER BY id DESC LIMIT 1"); got != `admin repository.forget_github_id {"github_id": "4711"}` {
		t.Errorf("audited: %s", got)
	}
	if o := s.told("push", "d2", anew); o.RunID == "" {
		t.Errorf("%+v", o)
	}
	if p := s.deliver("push", "d3", push).problem(t); p.Code != "another_repository" {
		t.Errorf("the old one: %+v", p)
	}
	if n := s.count("ci_runs"); n != 2 {
		t.Errorf("%d runs", n)
	}
}

func TestAHookSpeaksForItsOwn(t *testing.T) {
	t.Parallel()
	s := start(t)
	inOrganization := edited(t, "push", `"commits": []`, `"commits": [], "organization": {"id": 12}, "enterprise": {"id": 13}, "installation": {"id": 14}`)
	for i, target := range [][2]string{{"repository", "4711"}, {"organization", "12"}, {"business", "13"}, {"integration", "15"}} {
		a := s.deliver("push", "d"+strconv.Itoa(i), inOrganization, "X-GitHub-Hook-Installation-Target-Type", target[0], "X-GitHub-Hook-Installation-Target-ID", target[1])
		if a.status != http.StatusAccepted {
			t.Errorf("%s: %s", target[0], a.body)
		}
	}
}

func TestACheckThatIsRequestedAgainRunsTheNewestRunAgain(t *testing.T) {
	t.Parallel()
	s := start(t)
	check := func(sha string) string {
		return `{"action":"rerequested","check_suite":{"head_sha":"` + sha + `"},"sender":{"id":8},"repository":{"id":4711,"full_name":"owner/name","html_url":"` + home + `"}}`
	}
	sha := strings.Repeat("2", 40)
	if o := s.told("check_suite", "d0", check(sha)); o.Ignored == "" {
		t.Errorf("nothing has run: %+v", o)
	}
	var last outcome
	for _, delivery := range []string{"d1", "d2"} {
		last = s.told("push", delivery, payload(t, "push"))
		s.plan(s.get(last.RunID))
	}
	s.db.Exec(t, "UPDATE ci_runs SET trusted = false WHERE id = $1::text::bigint", last.RunID)
	again := s.told("check_suite", "d3", check(sha))
	if twice := s.told("check_suite", "d3", check(sha)); again.RunID == "" || twice != again {
		t.Errorf("%+v, then %+v", again, twice)
	}
	got := jobstest.Value[string](t, s.db, "SELECT concat_ws(' ', rerun_of, trusted, sender_id, principal) FROM ci_runs WHERE id = $1::text::bigint", again.RunID)
	if want := last.RunID + " f 8 github"; got != want {
		t.Errorf("%q, not %q", got, want)
	}
}

func TestARenamedRepositoryKeepsSettingsAndHistory(t *testing.T) {
	t.Parallel()
	s := start(t)
	push := payload(t, "push")
	run := s.told("push", "d1", push)
	s.plan(s.get(run.RunID))
	s.told("pull_request", "d2", forked(t, "opened", "4", 0))
	s.set(`{"fork_policy":"run","weight":2}`)

	renamed := strings.Replace(strings.ReplaceAll(push, "owner/name", "owner/new"), `"ref"`, `"action": "renamed", "changes": {"repository": {"name": {"from": "name"}}}, "ref"`, 1)
	s.db.Exec(t, "INSERT INTO ci_tokens (name, hash, hint, scope, repository) VALUES ('t', sha256('t'), 't', 'read', $1)", home)
	early := s.told("push", "d3", strings.ReplaceAll(push, "owner/name", "owner/new")) // before the news
	stranger := strings.Replace(renamed, "4711", "4799", 1)
	if o := s.told("repository", "d4", stranger); o.Ignored == "" {
		t.Errorf("another repository takes its name: %+v", o)
	}
	for i, want := range []string{"https://github.com/owner/new", ""} {
		if o := s.told("repository", "d5", renamed); o.MovedTo != want {
			t.Errorf("time %d: %+v", i, o)
		}
	}
	for _, table := range []string{"ci_runs", "ci_jobs", "ci_reports", "ci_approvals", "ci_repositories", "ci_tokens"} {
		if left := jobstest.Value[int64](t, s.db, "SELECT count(*) FROM "+table+" WHERE repository <> 'https://github.com/owner/new'"); left != 0 {
			t.Errorf("%d rows of %s have the old name", left, table)
		}
	}
	if n := jobstest.Value[int64](t, s.db, "SELECT count(*) FROM audit_log WHERE (principal, action, repository) = ('github', 'repository.move', 'https://github.com/owner/new')"); n != 1 {
		t.Errorf("audited %d times", n)
	}
	if policy := jobstest.Value[string](t, s.db, "SELECT fork_policy || weight FROM ci_repositories"); policy != "run2" {
		t.Errorf("settings: %s", policy)
	}
	for _, id := range []string{run.RunID, early.RunID} {
		if r := s.get(id); r.Repository != "https://github.com/owner/new" || r.Jobs[0].Status.Final() {
			t.Errorf("%+v", r)
		}
	}
}

func TestDeliveriesAreCounted(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.told("push", "d1", payload(t, "push"))
	s.told("pull_request", "d2", forked(t, "opened", "4", 0))
	s.told("installation", "d3", "{}")
	for i := range 20 {
		s.told("event-"+strconv.Itoa(i), "e"+strconv.Itoa(i), "{}")
	}
	s.deliver("push", "d4", "{}")
	s.deliver("anything", "d5", "{}", "X-Hub-Signature-256", "")
	metrics := s.send("GET", "/metrics", "").body
	for _, want := range []string{`{event="push",outcome="run"} 1`, `{event="pull_request",outcome="approval"} 1`, `{event="installation",outcome="ignored"} 1`,
		`{event="other",outcome="ignored"} 20`, `{event="push",outcome="refused"} 1`, `{event="other",outcome="refused"} 1`} {
		if !strings.Contains(metrics, "lockstep_webhook_deliveries_total"+want+"\n") {
			t.Errorf("no %s", want)
		}
	}
	if n := strings.Count(metrics, "\nlockstep_webhook_deliveries_total{"); n != 6 {
		t.Errorf("%d series", n)
	}
}

func TestWhoMayDecideAboutAFork(t *testing.T) {
	t.Parallel()
	s := start(t)
	asked := s.told("pull_request", "d1", forked(t, "opened", "4", 0))
	path := "/api/v1/approvals/" + asked.ApprovalID
	for _, who := range []struct {
		scope      string
		repository any
		see, set   int // status of GET of approval and repository, and of PATCH
		approve    int
		listed     int
	}{
		{"read", nil, 200, 403, 403, 1},
		{"read", home, 200, 403, 403, 1},
		{"run", "https://github.com/owner/other", 404, 403, 404, 0},
		{"admin", "https://github.com/owner/other", 404, 404, 404, 0},
		{"run", home, 200, 403, 200, 1},
		{"admin", nil, 200, 200, 200, 0}, // it waits no more
	} {
		t.Run(fmt.Sprint(who.scope, who.repository), func(t *testing.T) {
			header, _ := s.issue(auth.Prefix+strings.ReplaceAll(fmt.Sprint(who.scope, who.repository), "/", ""), who.scope, who.repository)
			for _, one := range []struct {
				method, path, body string
				want               int
			}{
				{"GET", path, "", who.see}, {"GET", homePath, "", who.see}, {"PATCH", homePath, `{"weight":2}`, who.set},
			} {
				if a := s.send(one.method, one.path, one.body, "Authorization", header); a.status != one.want {
					t.Errorf("%s %s: %d %s", one.method, one.path, a.status, a.body)
				}
			}
			for _, list := range []string{"/api/v1/approvals", "/api/v1/approvals?repository=" + url.QueryEscape(home)} {
				a := s.send("GET", list, "", "Authorization", header)
				if n := strings.Count(a.body, `"head_sha"`); n != who.listed {
					t.Errorf("%s: %s", list, a.body)
				}
			}
			if a := s.send("POST", path+"/approve", "", "Authorization", header); a.status != who.approve {
				t.Errorf("approve: %d %s", a.status, a.body)
			}
		})
	}
	if a := s.send("GET", path, "", "Authorization", ""); a.status != http.StatusUnauthorized {
		t.Errorf("nobody: %d", a.status)
	}
	if by := jobstest.Value[string](t, s.db, "SELECT decided_by FROM ci_approvals"); !strings.HasPrefix(by, "token:") {
		t.Errorf("decided by %s", by)
	}
}

func TestThePageShowsWhatWaitsToThoseWhoAreSignedIn(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *gateway.Options) { o.AnonymousRead = true })
	asked := s.told("pull_request", "d1", strings.Replace(forked(t, "opened", "4", 0), "Say hello", `<script>alert(1)</script>`, 1))
	body := s.send("GET", "/", "").body
	for _, want := range []string{`<a href="` + home + `/pull/5">owner/name #5</a>`, forkedSHA, "&lt;script&gt;alert", "approvals/" + asked.ApprovalID + "/approve"} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s in %s", want, body)
		}
	}
	if body := s.send("GET", "/", "", "Authorization", "").body; strings.Contains(body, forkedSHA) {
		t.Errorf("everybody sees it: %s", body)
	}
}
