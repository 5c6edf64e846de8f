package gateway_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/auth"
)

// listed reads one page of ids, by REST and by GraphQL, which must agree; filter has the names of REST.
func (s *server) listed(cursor string, filter map[string]string) (ids []string, next string) {
	s.t.Helper()
	parameters := url.Values{"limit": {"100"}}
	graph := map[string]any{}
	for name, value := range filter {
		parameters.Set(name, value)
		if name == "pull_request" {
			graph["pullRequest"] = 7
		} else {
			graph[name] = value
		}
	}
	if cursor != "" {
		parameters.Set("cursor", cursor)
	}
	a := s.send("GET", "/api/v1/runs?"+parameters.Encode(), "")
	var page struct {
		Runs       []run
		NextCursor string `json:"next_cursor"`
	}
	decode(s.t, a.body, &page)
	for _, r := range page.Runs {
		ids = append(ids, r.ID)
	}
	variables := []any{"f", graph}
	if cursor != "" {
		variables = append(variables, "c", cursor)
	}
	b := s.ask(`query($f:RunFilter,$c:String){runs(first:100,after:$c,filter:$f){edges{cursor node{id}}pageInfo{hasNextPage endCursor}}}`, variables...)
	var said struct {
		Data struct {
			Runs struct {
				Edges    []struct{ Node run }
				PageInfo struct {
					HasNextPage bool
					EndCursor   string
				}
			}
		}
	}
	decode(s.t, b.body, &said)
	var same []string
	for _, edge := range said.Data.Runs.Edges {
		same = append(same, edge.Node.ID)
	}
	info := said.Data.Runs.PageInfo
	if a.status != http.StatusOK || !slices.Equal(ids, same) || info.HasNextPage != (page.NextCursor != "") || info.HasNextPage && info.EndCursor != page.NextCursor {
		s.t.Errorf("%v: %d %.300s by REST, %.300s by GraphQL", filter, a.status, a.body, b.body)
	}
	return ids, page.NextCursor
}

func TestListHasTheRunsThatFit(t *testing.T) {
	t.Parallel()
	s := start(t)
	const one, two = "https://example.com/o/one", "https://example.com/o/two"
	for _, row := range []string{
		"'" + one + "', 'push', 'refs/heads/main', NULL, 'success'",
		"'" + one + "', 'push', 'main', NULL, 'failure'",
		"'" + one + "', 'push', 'refs/tags/main', NULL, 'error'",
		"'" + two + "', 'pull_request', 'refs/heads/main2', 7, 'success'",
		"'" + one + "', 'pull_request', 'refs/heads/x', 7, 'cancelled'",
		"'" + two + "', 'manual', NULL, NULL, 'new'",
		"'" + one + "', 'workflow_dispatch', 'refs/heads/main', NULL, 'running'",
		"'" + one + "/more', 'manual', NULL, NULL, 'skipped'",
	} {
		s.db.Exec(t, "INSERT INTO ci_runs (repository, event, ref, pull_request, status, finished_at) SELECT v.*, CASE WHEN ci_is_final(v.status) THEN now() END FROM (SELECT "+
			strings.Join([]string{"a::text", "b::text", "c::text", "d::integer", "e::ci_job_status AS status"}, ", ")+" FROM (VALUES ("+row+")) AS x (a, b, c, d, e)) AS v")
	}
	tests := []struct {
		filter map[string]string
		want   string
	}{
		{nil, "8 7 6 5 4 3 2 1"},
		{map[string]string{"repository": one}, "7 5 3 2 1"},
		{map[string]string{"repository": one + ".git"}, "7 5 3 2 1"},
		{map[string]string{"repository": "example.com/o/two"}, "6 4"},
		{map[string]string{"repository": "https://example.com/o/none"}, ""},
		{map[string]string{"status": "success"}, "4 1"},
		{map[string]string{"status": "new"}, "6"},
		{map[string]string{"event": "push"}, "3 2 1"},
		{map[string]string{"ref": "main"}, "7 3 2 1"},
		{map[string]string{"ref": "refs/heads/main"}, "7 1"},
		{map[string]string{"ref": "MAIN"}, ""},
		{map[string]string{"pull_request": "7"}, "5 4"},
		{map[string]string{"repository": one, "pull_request": "7"}, "5"},
		{map[string]string{"repository": one, "event": "push", "status": "failure", "ref": "main"}, "2"},
		{map[string]string{"repository": two, "status": "cancelled"}, ""},
	}
	for _, test := range tests {
		ids, next := s.listed("", test.filter)
		if got := strings.Join(ids, " "); got != test.want || next != "" {
			t.Errorf("%v: %s, want %s (next %q)", test.filter, got, test.want, next)
		}
	}
	header, _ := s.issue(auth.Prefix+"reads-two", "read", two)
	for query, want := range map[string]int{"limit=9": 2, "status=new": 1, "repository=" + url.QueryEscape(two): 2, "repository=" + url.QueryEscape(one): 0} {
		a := s.send("GET", "/api/v1/runs?"+query, "", "Authorization", header)
		if n := strings.Count(a.body, `"repository":"`+two+`"`); n != want || strings.Contains(a.body, `"`+one+`"`) {
			t.Errorf("a token of one repository that asks for %q: %s", query, a.body)
		}
	}
	for _, test := range []struct{ query, graph, field string }{
		{"repository=x", `repository:"x"`, "repository"}, {"repository=", `repository:""`, "repository"}, {"repository=" + url.QueryEscape("ssh://a.b/c/d"), `repository:"ssh://a.b/c/d"`, "repository"},
		{"status=done", `status:"done"`, "status"}, {"status=blocked", `status:"blocked"`, "status"}, {"status=", `status:""`, "status"}, {"status=SUCCESS", `status:"SUCCESS"`, "status"},
		{"event=fork", `event:"fork"`, "event"}, {"event=", `event:""`, "event"}, {"ref=", `ref:""`, "ref"}, {"ref=a..b", `ref:"a..b"`, "ref"},
		{"pull_request=0", `pullRequest:0`, "pull_request"}, {"pull_request=x", `pullRequest:-1`, "pull_request"}, {"pull_request=99999999999", `pullRequest:-2147483648`, "pull_request"},
	} {
		a := s.send("GET", "/api/v1/runs?"+test.query, "")
		if p := a.problem(t); a.status != http.StatusUnprocessableEntity || p.Code != "invalid_field" || p.Field != test.field {
			t.Errorf("%s: %d %s", test.query, a.status, a.body)
		}
		if e := s.ask(`{runs(filter:{` + test.graph + `}){edges{cursor}}}`).refused(t); e.Extensions.Status != http.StatusUnprocessableEntity || e.Extensions.Field != strings.Replace(test.field, "_r", "R", 1) {
			t.Errorf("%s: %+v", test.graph, e)
		}
	}
}

func TestAPageLooksAtNoMoreThanTenThousandRuns(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.db.Exec(t, `INSERT INTO ci_runs (repository, event, status, finished_at)
		SELECT 'https://example.com/o/' || CASE WHEN n % 2 = 0 THEN 'even' ELSE 'odd' END, 'manual', (CASE WHEN n IN (2, 4, 10001) THEN 'error' ELSE 'success' END)::ci_job_status, now()
		FROM generate_series(1, 20001) AS n`)
	for _, test := range []struct {
		filter map[string]string
		pages  string
	}{
		{map[string]string{"status": "error"}, "|10001 4 2|"}, // the last run that the first page looks at does not fit, that of the second does
		{map[string]string{"status": "error", "repository": "https://example.com/o/even"}, "4 2|"},
		{map[string]string{"status": "failure"}, "||"},
	} {
		var pages []string
		for cursor := ""; ; {
			ids, next := s.listed(cursor, test.filter)
			pages = append(pages, strings.Join(ids, " "))
			if cursor = next; next == "" || len(pages) > 5 {
				break
			}
		}
		if got := strings.Join(pages, "|"); got != test.pages {
			t.Errorf("%v: pages %q, want %q", test.filter, got, test.pages)
		}
	}
	seen := map[string]bool{}
	for cursor := ""; ; {
		ids, next := s.listed(cursor, map[string]string{"repository": "https://example.com/o/odd"})
		for _, id := range ids {
			seen[id] = true
		}
		if cursor = next; next == "" || fmt.Sprint(len(seen)) == "500" {
			break
		}
	}
	if len(seen) != 500 || !seen["20001"] || !seen["19003"] {
		t.Errorf("%d runs", len(seen))
	}
}

func TestAListWithoutJobsReadsNone(t *testing.T) {
	t.Parallel()
	s := start(t)
	r := s.create()
	for query, reads := range map[string]bool{
		`{runs{edges{cursor node{id status title createdAt}}}}`: false,
		`{runs{edges{node{jobs{name}}}}}`:                       true,
		`{runs{edges{node{version}}}}`:                          true,
		`{runs{a:edges{node{id}} b:edges{cursor ...e}}} fragment e on RunEdge{c:node{...on Run{d:jobs{name}}}}`: true,
	} {
		if a := s.ask(query); a.status != http.StatusOK || strings.Contains(a.body, "errors") || reads != (strings.Contains(a.body, `"initialize"`) || strings.Contains(a.body, `"version":1`)) {
			t.Errorf("%s: %d %s", query, a.status, a.body)
		}
	}
	s.db.Exec(t, "REVOKE SELECT ON ci_jobs FROM lockstep_api_gateway")
	if a := s.ask(`{runs{edges{node{id}}}}`); !strings.Contains(a.body, `{"id":"`+r.ID+`"}`) {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestTheLatestRunsAreToldNewestFirst(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.db.Exec(t, "INSERT INTO ci_runs (repository, event) SELECT 'https://example.com/o/n', 'manual' FROM generate_series(1, 112)")
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, strings.Replace(s.url, "http", "ws", 1)+"/api/v1/watch", &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + token}}}) //nolint:bodyclose // Dial closes it
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.CloseNow() }()
	_, text, err := conn.Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var told struct{ Runs []run }
	decode(t, string(text), &told)
	for i, r := range told.Runs {
		if r.ID != strconv.Itoa(112-i) {
			t.Fatalf("number %d is run %s", i, r.ID)
		}
	}
	if len(told.Runs) < 20 {
		t.Errorf("%d runs", len(told.Runs))
	}
}
