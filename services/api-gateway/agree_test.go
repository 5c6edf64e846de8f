package main_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/joblog"
	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
	lockstepv1 "github.com/lockstep-ci/lockstep/services/api-gateway/gen/lockstep/v1"
	"github.com/lockstep-ci/lockstep/services/api-gateway/gen/lockstep/v1/lockstepv1connect"
)

const repository = "https://example.com/owner/name"

// create makes a run, and returns its id and its job's.
func (g *gateway) create() (run, job string) {
	g.t.Helper()
	answer := &lockstepv1.CreateRunResponse{}
	if err := g.grpc(token).call(g.context(), lockstepv1connect.RunServiceCreateRunProcedure, &lockstepv1.CreateRunRequest{Repository: repository}, answer); err != nil {
		g.t.Fatal(err)
	}
	return answer.GetRun().GetId(), answer.GetRun().GetJobs()[0].GetId()
}

// plan answers a run's question as an initializer would.
func (g *gateway) plan(job string) {
	g.t.Helper()
	g.db.Exec(g.t, "UPDATE ci_jobs SET status = 'initializing' WHERE id = $1::text::bigint", job)
	g.db.Exec(g.t, "UPDATE ci_jobs SET status = 'initialized', name = 'ci / test', workflow = 'ci.yml', job_key = 'test' WHERE id = $1::text::bigint", job)
}

// claim takes a planned job as a runner would, and begins its log.
func (g *gateway) claim(id string) *joblog.Writer {
	g.t.Helper()
	var j jobs.Job
	err := g.db.Pool.QueryRow(g.context(), `UPDATE ci_jobs j SET status = 'running' FROM ci_runs r
		WHERE j.id = $1::text::bigint AND r.id = j.run_id RETURNING j.id, j.attempt, j.claim_token, r.log_day`, id).
		Scan(&j.ID, &j.Attempt, &j.Token, &j.LogDay)
	if err != nil {
		g.t.Fatalf("claim job %s: %v", id, err)
	}
	w, err := joblog.NewWriter(g.db.Pool, &j, joblog.Options{Dir: g.t.TempDir(), Limit: joblog.DefaultLimit, Log: zap.NewNop()})
	if err != nil {
		g.t.Fatal(err)
	}
	return w
}

func (g *gateway) end(id string, status jobs.Status, w *joblog.Writer) {
	g.t.Helper()
	if err := w.Close(g.context()); err != nil {
		g.t.Fatalf("close the log: %v", err)
	}
	g.db.Exec(g.t, "UPDATE ci_jobs SET status = $2 WHERE id = $1::text::bigint", id, string(status))
}

func TestOneRequestByEveryInterfaceIsOneRun(t *testing.T) {
	t.Parallel()
	g := start(t)
	key := "the-same-request"
	a := g.send("POST", "/api/v1/runs", `{"repository":"`+repository+`","ref":"main"}`, "Idempotency-Key", key)
	if a.status != http.StatusCreated {
		t.Fatalf("%d %s", a.status, a.body)
	}
	first, id := a.body, strings.TrimPrefix(a.header.Get("Location"), "/api/v1/runs/")
	again, againKey := "", "the-same-rerun"
	for _, client := range g.rpcs(token) {
		created := &lockstepv1.CreateRunResponse{}
		err := client.call(g.context(), lockstepv1connect.RunServiceCreateRunProcedure, &lockstepv1.CreateRunRequest{Repository: repository + ".git", Ref: "main", IdempotencyKey: &key}, created)
		if err != nil || !created.GetReplayed() || text(created.GetRun()) != first {
			t.Errorf("%s: error %v, replayed %t, %s\nREST: %s", client.name, err, created.GetReplayed(), text(created.GetRun()), first)
		}
		rerun := &lockstepv1.RerunRunResponse{}
		err = client.call(g.context(), lockstepv1connect.RunServiceRerunRunProcedure, &lockstepv1.RerunRunRequest{Id: id, IdempotencyKey: &againKey}, rerun)
		if again == "" {
			again = text(rerun.GetRun())
		}
		if err != nil || text(rerun.GetRun()) != again {
			t.Errorf("%s: error %v, rerun %s, before %s", client.name, err, text(rerun.GetRun()), again)
		}
	}
	created := g.graphql(`mutation($r:String!,$k:String){createRun(repository:$r,ref:"main",idempotencyKey:$k){replayed run`+allOf("Run")+`}}`, "r", repository, "k", key)
	want := map[string]any{"replayed": true, "run": camel(t, first)}
	if diff := cmp.Diff(want, created.Data["createRun"]); diff != "" {
		t.Errorf("createRun %v (-REST +GraphQL):\n%s", created.Errors, diff)
	}
	rerun := g.graphql(`mutation($id:ID!,$k:String){rerunRun(id:$id,idempotencyKey:$k){replayed run`+allOf("Run")+`}}`, "id", id, "k", againKey)
	want["run"] = camel(t, again)
	if diff := cmp.Diff(want, rerun.Data["rerunRun"]); diff != "" {
		t.Errorf("rerunRun %v (-REST +GraphQL):\n%s", rerun.Errors, diff)
	}
	if a := g.send("POST", "/api/v1/runs/"+id+"/rerun", "", "Idempotency-Key", againKey); a.body != again || a.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("REST: %s, before %s", a.body, again)
	}
	if n := jobstest.Value[int64](t, g.db, "SELECT count(*) FROM ci_runs"); n != 2 {
		t.Errorf("%d runs, want the first and its rerun", n)
	}
}

func TestInterfacesReadTheSame(t *testing.T) {
	t.Parallel()
	g := start(t)
	run, job := g.create()
	g.plan(job)
	w := g.claim(job)
	g.db.Exec(t, `INSERT INTO ci_steps (job_id, attempt, number, name, status, exit_code, started_at, finished_at, log_offset) VALUES
		($1::text::bigint, 2, 1, $2, 'failure', 2, now(), now(), 9007199254740993), ($1::text::bigint, 2, 2, 'never', 'pending', NULL, NULL, NULL, NULL)`, job, "a <b> & \u2028 \x7f step")
	g.db.Exec(t, "UPDATE ci_runs SET title = $1, author = '', pull_request = 5, head_sha = repeat('ab', 20)", "</script> \\ \" é 日本")
	other, queued := g.create()
	third, _ := g.create()
	g.plan(queued)
	g.db.Exec(t, "INSERT INTO ci_workers (stage, name, slots, lease) VALUES ('runner', 'host/1', 1, '1h')")
	g.db.Exec(t, "UPDATE ci_jobs SET worker_id = (SELECT min(id) FROM ci_workers) WHERE id = $1::text::bigint", job)
	g.db.Exec(t, `INSERT INTO ci_tallies (repository, kind, minutes, begins_at, name, step, outcome, ended, took_ms, buckets)
		SELECT repository, kind, 1440, date_bin('1 day', now(), 'epoch'), name, step, outcome, 4, 4e7, '{"98": 3, "100": 1}'
		FROM (VALUES ('', 'work', 'running', '', 'success'), ($1, 'run', '', '', 'success'), ($1, 'run', '', '', 'failure'),
		             ($1, 'job', 'ci / test', '', 'success'), ($1, 'step', 'ci / test', 'go test', 'failure')) AS v (repository, kind, name, step, outcome)`, repository)
	two, day := int32(2), "24h"
	stats := "/api/v1/repositories/" + url.PathEscape(repository) + "/stats"

	tests := []struct {
		path, procedure string
		request         proto.Message
		answer          func() proto.Message
		shown           func(proto.Message) proto.Message // what REST shows of it
		wants           []string
		graphql         string
		asREST          func(map[string]any) any
	}{
		{"/api/v1/runs/" + run, lockstepv1connect.RunServiceGetRunProcedure, &lockstepv1.GetRunRequest{Id: run},
			func() proto.Message { return &lockstepv1.GetRunResponse{} },
			func(m proto.Message) proto.Message { return m.(*lockstepv1.GetRunResponse).GetRun() },
			[]string{`"log_offset":9007199254740993}`, `"exit_code":null`, `"pull_request":5`, `"author":""`, `"status":"running"`},
			`{run(id:"` + run + `")` + allOf("Run") + `}`, only},
		{"/api/v1/runs?limit=2", lockstepv1connect.RunServiceListRunsProcedure, &lockstepv1.ListRunsRequest{Limit: &two},
			func() proto.Message { return &lockstepv1.ListRunsResponse{} }, nil, []string{`{"runs":[{"id":"` + third, `{"id":"` + other, `"next_cursor":"`},
			`{runs(first:2)` + allOf("RunConnection") + `}`, asPage},
		{"/api/v1/runs", lockstepv1connect.RunServiceListRunsProcedure, &lockstepv1.ListRunsRequest{},
			func() proto.Message { return &lockstepv1.ListRunsResponse{} }, nil, []string{`{"id":"` + run, `"next_cursor":null}`},
			`{runs` + allOf("RunConnection") + `}`, asPage},
		{"/api/v1/jobs/" + job, lockstepv1connect.JobServiceGetJobProcedure, &lockstepv1.GetJobRequest{Id: job},
			func() proto.Message { return &lockstepv1.GetJobResponse{} }, nil, []string{`{"run_id":"` + run + `","job":{"id":"` + job},
			`{job(id:"` + job + `"){run{id}` + allOf("Job")[1:] + `}`, asJob},
		{"/api/v1/queue", lockstepv1connect.QueueServiceListQueueProcedure, &lockstepv1.ListQueueRequest{},
			func() proto.Message { return &lockstepv1.ListQueueResponse{} }, nil, []string{`{"id":"` + queued, `"status":"initialized","position":1`, `"status":"new","position":1`,
				`"reason":"it is next; 1 slot is busy, the only one of 1 runner","expected_start":"20`, `"reason":"no initializer is alive","expected_start":null`,
				`{"name":"runner","takes":"initialized","holds":"running","waiting":1,"blocked":0,"held":1,"oldest_waiting_since":"20`, `"ended_per_minute":0,"wait":{"p50_ms":null,`},
			`{queue` + allOf("Queue") + `}`, only},
		{stats, lockstepv1connect.QueueServiceGetRepositoryStatsProcedure, &lockstepv1.GetRepositoryStatsRequest{Repository: repository},
			func() proto.Message { return &lockstepv1.GetRepositoryStatsResponse{} }, nil, []string{`{"repository":"` + repository + `","window":"7d","since":"20`,
				`"runs":{"ended":8,"success":4,"failure":4,"error":0,"cancelled":0,"skipped":0,"failure_rate":0.5,"duration":{"p50_ms":10847,`,
				`"slowest_steps":[{"job":"ci / test","step":"go test","ended":4,"failed":4,"mean_ms":10000000,`, `"days":[{"begins_at":"20`},
			`{repositoryStats(repository:"` + repository + `")` + allOf("RepositoryStats") + `}`, only},
		{stats + "?window=24h", lockstepv1connect.QueueServiceGetRepositoryStatsProcedure, &lockstepv1.GetRepositoryStatsRequest{Repository: repository, Window: &day},
			func() proto.Message { return &lockstepv1.GetRepositoryStatsResponse{} }, nil, []string{`"window":"24h","since":"20`, `"failure_rate":null`},
			`{repositoryStats(repository:"` + repository + `",window:"24h")` + allOf("RepositoryStats") + `}`, only},
		{"/api/v1/workers", lockstepv1connect.QueueServiceListWorkersProcedure, &lockstepv1.ListWorkersRequest{},
			func() proto.Message { return &lockstepv1.ListWorkersResponse{} }, nil, []string{`"stage":"runner","name":"host/1","slots":1,"busy":1`},
			`{workers` + allOf("Worker") + `}`, func(data map[string]any) any { return data }},
	}
	clients := g.rpcs(token)
	for _, test := range tests {
		rest := g.send("GET", test.path, "")
		for _, want := range test.wants {
			if !strings.Contains(rest.body, want) {
				t.Errorf("%s lacks %s: %s", test.path, want, rest.body)
			}
		}
		for _, client := range clients {
			answer := test.answer()
			if err := client.call(g.context(), test.procedure, test.request, answer); err != nil {
				t.Errorf("%s by %s: %v", test.path, client.name, err)
				continue
			}
			if test.shown != nil {
				answer = test.shown(answer)
			}
			if diff := cmp.Diff(rest.body, text(answer)); diff != "" {
				t.Errorf("%s (-REST +%s):\n%s", test.path, client.name, diff)
			}
		}
		said := g.graphql(test.graphql)
		if len(said.Errors) > 0 {
			t.Errorf("%s by GraphQL: %+v", test.path, said.Errors)
		} else if diff := cmp.Diff(camel(t, rest.body), test.asREST(said.Data)); diff != "" {
			t.Errorf("%s (-REST +GraphQL):\n%s", test.path, diff)
		}
		etag := rest.header.Get("ETag")
		if same := g.send("GET", test.path, "", "If-None-Match", `"x", `+etag); etag == "" || same.status != http.StatusNotModified || same.body != "" || same.header.Get("ETag") != etag {
			t.Errorf("%s with its ETag %s: %d %s", test.path, etag, same.status, same.body)
		}
	}
	_, _ = w.Write([]byte("hello"))
	before := g.send("GET", "/api/v1/runs/"+run, "").header.Get("ETag")
	g.end(job, jobs.StatusSuccess, w)
	if after := g.send("GET", "/api/v1/runs/"+run, "", "If-None-Match", before); after.status != http.StatusOK {
		t.Errorf("a run that has changed: %d", after.status)
	}
}

func TestInterfacesRefuseTheSame(t *testing.T) {
	t.Parallel()
	g := start(t)
	run, _ := g.create()
	g.send("POST", "/api/v1/runs/"+run+"/cancel", "")
	key := "used"
	g.send("POST", "/api/v1/runs", `{"repository":"`+repository+`"}`, "Idempotency-Key", key)
	zero, forged, bad, empty, hour := int32(0), "MTI", "a b", "", "1h"
	before := jobstest.Value[int64](t, g.db, "SELECT count(*) FROM ci_runs")
	create, list := lockstepv1connect.RunServiceCreateRunProcedure, lockstepv1connect.RunServiceListRunsProcedure
	tests := []struct {
		name, method, path, body string
		key                      string
		procedure                string
		request                  proto.Message
		code                     codes.Code
		graphql                  string // $r is the repository, $k the key
	}{
		{"no such run", "GET", "/api/v1/runs/999", "", "", lockstepv1connect.RunServiceGetRunProcedure, &lockstepv1.GetRunRequest{Id: "999"}, codes.NotFound,
			`{run(id:"999"){id}}`},
		{"an id that is none", "GET", "/api/v1/runs/-1", "", "", lockstepv1connect.RunServiceGetRunProcedure, &lockstepv1.GetRunRequest{Id: "-1"}, codes.NotFound,
			`{run(id:"-1"){id}}`},
		{"no such job", "GET", "/api/v1/jobs/999", "", "", lockstepv1connect.JobServiceGetJobProcedure, &lockstepv1.GetJobRequest{Id: "999"}, codes.NotFound,
			`{job(id:"999"){id}}`},
		{"an ended run", "POST", "/api/v1/runs/" + run + "/cancel", "", "", lockstepv1connect.RunServiceCancelRunProcedure, &lockstepv1.CancelRunRequest{Id: run}, codes.FailedPrecondition,
			`mutation{cancelRun(id:"` + run + `"){run{id}}}`},
		{"no repository", "POST", "/api/v1/runs", "{}", "", create, &lockstepv1.CreateRunRequest{}, codes.InvalidArgument,
			`mutation{createRun(repository:""){replayed}}`},
		{"a bad ref", "POST", "/api/v1/runs", `{"repository":"` + repository + `","ref":"a..b"}`, "", create, &lockstepv1.CreateRunRequest{Repository: repository, Ref: "a..b"}, codes.InvalidArgument,
			`mutation($r:String!){createRun(repository:$r,ref:"a..b"){replayed}}`},
		{"a bad sha", "POST", "/api/v1/runs", `{"repository":"` + repository + `","sha":"abc"}`, "", create, &lockstepv1.CreateRunRequest{Repository: repository, Sha: "abc"}, codes.InvalidArgument,
			`mutation($r:String!){createRun(repository:$r,sha:"abc"){replayed}}`},
		{"a bad key", "POST", "/api/v1/runs", `{"repository":"` + repository + `"}`, bad, create, &lockstepv1.CreateRunRequest{Repository: repository, IdempotencyKey: &bad}, codes.InvalidArgument,
			`mutation($r:String!,$k:String){createRun(repository:$r,idempotencyKey:$k){replayed}}`},
		{"a key reused", "POST", "/api/v1/runs", `{"repository":"` + repository + `","ref":"x"}`, key, create, &lockstepv1.CreateRunRequest{Repository: repository, Ref: "x", IdempotencyKey: &key}, codes.InvalidArgument,
			`mutation($r:String!,$k:String){createRun(repository:$r,ref:"x",idempotencyKey:$k){replayed}}`},
		{"limit 0", "GET", "/api/v1/runs?limit=0", "", "", list, &lockstepv1.ListRunsRequest{Limit: &zero}, codes.InvalidArgument,
			`{runs(first:0){edges{cursor}}}`},
		{"a forged cursor", "GET", "/api/v1/runs?cursor=MTI", "", "", list, &lockstepv1.ListRunsRequest{Cursor: &forged}, codes.InvalidArgument,
			`{runs(after:"MTI"){edges{cursor}}}`},
		{"an empty cursor", "GET", "/api/v1/runs?cursor=", "", "", list, &lockstepv1.ListRunsRequest{Cursor: &empty}, codes.InvalidArgument,
			`{runs(after:""){edges{cursor}}}`},
		{"no such repository", "GET", "/api/v1/repositories/example.com%2Fa%2Fb/stats", "", "", lockstepv1connect.QueueServiceGetRepositoryStatsProcedure, &lockstepv1.GetRepositoryStatsRequest{Repository: "example.com/a/b"}, codes.NotFound,
			`{repositoryStats(repository:"example.com/a/b"){window}}`},
		{"a window that is none", "GET", "/api/v1/repositories/example.com%2Fa%2Fb/stats?window=1h", "", "", lockstepv1connect.QueueServiceGetRepositoryStatsProcedure, &lockstepv1.GetRepositoryStatsRequest{Repository: "example.com/a/b", Window: &hour}, codes.InvalidArgument,
			`{repositoryStats(repository:"example.com/a/b",window:"1h"){window}}`},
		{"limit 0 of the queue", "GET", "/api/v1/queue?limit=0", "", "", lockstepv1connect.QueueServiceListQueueProcedure, &lockstepv1.ListQueueRequest{Limit: &zero}, codes.InvalidArgument,
			`{queue(first:0){jobs{id}}}`},
	}
	clients := g.rpcs(token)
	for _, test := range tests {
		want := restProblem(t, g.send(test.method, test.path, test.body, "Idempotency-Key", test.key))
		want.RPC = test.code
		if want.Field == "Idempotency-Key" { // a field, in a message
			want.Field = "idempotency_key"
		}
		for _, client := range clients {
			err := client.call(g.context(), test.procedure, test.request, &lockstepv1.GetRunResponse{})
			if diff := cmp.Diff(want, problemOf(t, err)); diff != "" {
				t.Errorf("%s (-REST +%s):\n%s", test.name, client.name, diff)
			}
		}
		want.RPC, want.Field = 0, camelName(want.Field)
		if name, other := map[string]string{"limit": "first", "cursor": "after"}[want.Field]; other {
			want.Field = name
		}
		if diff := cmp.Diff(want, g.graphql(test.graphql, "r", repository, "k", test.key).problem(t)); diff != "" {
			t.Errorf("%s (-REST +GraphQL):\n%s", test.name, diff)
		}
	}
	s, err := g.greeted()
	if err != nil {
		t.Fatal(err)
	}
	for id, test := range map[string]struct{ query, code, field string }{
		"a": {`subscription{runChanged(id:"999"){id}}`, "not_found", ""},
		"b": {`subscription{runChanged(id:"x"){id}}`, "not_found", ""},
		"c": {`subscription{logLines(jobId:"999"){data}}`, "not_found", ""},
		"d": {`subscription{logLines(jobId:"1",from:{attempt:0,offset:0}){data}}`, "invalid_parameter", "attempt"},
		"e": {`subscription{logLines(jobId:"1",from:{attempt:1,offset:-1}){data}}`, "invalid_parameter", "offset"},
		"f": {`subscription{logLines(jobId:"1",from:{attempt:9,offset:0}){data}}`, "not_found", "attempt"},
		"g": {`subscription{nothing}`, "invalid_query", ""},
		"h": {`{workers{id}}`, "no_subscription", ""},
	} {
		if err := s.subscribe(id, test.query); err != nil {
			t.Fatal(err)
		}
		if p, err := s.refusal(); err != nil || p.Code != test.code || p.Field != test.field || p.Detail == "" {
			t.Errorf("%s: %+v %v", test.query, p, err)
		}
	}
	for _, client := range clients {
		err := client.stream(g.context(), lockstepv1connect.RunServiceWatchRunProcedure, &lockstepv1.WatchRunRequest{Id: "999"}, func() proto.Message { return &lockstepv1.WatchRunResponse{} }, func(proto.Message) {})
		if p := problemOf(t, err); p.RPC != codes.NotFound || p.Code != "not_found" {
			t.Errorf("watch no run by %s: %+v", client.name, p)
		}
		from := &lockstepv1.FollowLogRequest{JobId: "1", From: &lockstepv1.LogPosition{}}
		err = client.stream(g.context(), lockstepv1connect.JobServiceFollowLogProcedure, from, func() proto.Message { return &lockstepv1.FollowLogResponse{} }, func(proto.Message) {})
		if p := problemOf(t, err); p.RPC != codes.InvalidArgument || p.Field != "attempt" {
			t.Errorf("follow attempt 0 by %s: %+v", client.name, p)
		}
	}
	if after := jobstest.Value[int64](t, g.db, "SELECT count(*) FROM ci_runs"); after != before {
		t.Errorf("%d runs, %d before", after, before)
	}
}

// watcher is somebody who looks at a run, or at a log, in one way.
type watcher struct {
	name   string
	states []string // as JSON
	log    bytes.Buffer
	err    error
}

func TestInterfacesTellTheSameAsItHappens(t *testing.T) {
	t.Parallel()
	g := start(t)
	run, job := g.create()
	g.plan(job)
	w := g.claim(job)
	_, _ = io.WriteString(w, "hello\n")

	var all sync.WaitGroup
	var watchers []*watcher
	watch := func(name string, look func(*watcher) error) {
		one := &watcher{name: name}
		watchers = append(watchers, one)
		all.Go(func() { one.err = look(one) })
	}
	for _, client := range g.rpcs(token) {
		watch(client.name, func(one *watcher) error {
			var log sync.WaitGroup
			var logErr error
			log.Go(func() {
				logErr = client.stream(g.context(), lockstepv1connect.JobServiceFollowLogProcedure, &lockstepv1.FollowLogRequest{JobId: job},
					func() proto.Message { return &lockstepv1.FollowLogResponse{} },
					func(m proto.Message) { one.add(m.(*lockstepv1.FollowLogResponse)) })
			})
			err := client.stream(g.context(), lockstepv1connect.RunServiceWatchRunProcedure, &lockstepv1.WatchRunRequest{Id: run},
				func() proto.Message { return &lockstepv1.WatchRunResponse{} },
				func(m proto.Message) {
					one.states = append(one.states, text(m.(*lockstepv1.WatchRunResponse).GetRun()))
				})
			log.Wait()
			if err == nil {
				err = logErr
			}
			return err
		})
	}
	watch("SSE", func(one *watcher) error {
		_, err := g.listen("/api/v1/runs/"+run+"/events?logs="+job, "", one, nil)
		return err
	})
	watch("GraphQL", func(one *watcher) error { return g.graphqlWatch(run, job, one) })
	watch("WebSocket", func(one *watcher) error { return g.socket(run, job, one) })
	response := g.open("GET", "/api/v1/jobs/"+job+"/log?follow=1", "")
	defer func() { _ = response.Body.Close() }()
	text := bufio.NewReader(response.Body)
	if line, err := text.ReadString('\n'); err != nil || line != "hello\n" {
		t.Fatalf("REST: %q %v", line, err)
	}
	g.end(job, jobs.StatusInitialized, w) // its worker died: it is tried again
	w = g.claim(job)
	_, _ = io.WriteString(w, "again\n")
	if line, err := text.ReadString('a'); err != nil || line != "\n=== a" { // everybody has come to the second attempt, or will
		t.Fatalf("REST: %q %v", line, err)
	}
	g.end(job, jobs.StatusSuccess, w)
	rest, err := io.ReadAll(text)
	if err != nil || string(rest) != "ttempt 3 ===\nagain\n" {
		t.Errorf("REST: %q %v", rest, err)
	}
	all.Wait()

	last := g.send("GET", "/api/v1/runs/"+run, "").body
	for _, one := range watchers {
		if one.err != nil {
			t.Errorf("%s: %v", one.name, one.err)
			continue
		}
		if len(one.states) < 2 {
			t.Errorf("%s saw %d states", one.name, len(one.states))
		} else if one.name == "GraphQL" {
			var state any
			decodeExactly(t, one.states[len(one.states)-1], &state)
			if diff := cmp.Diff(camel(t, last), state); diff != "" {
				t.Errorf("the last state (-REST +GraphQL):\n%s", diff)
			}
		} else if diff := cmp.Diff(last, one.states[len(one.states)-1]); diff != "" {
			t.Errorf("the last state (-REST +%s):\n%s", one.name, diff)
		}
		if got := one.log.String(); got != "2:hello\n3:again\n" {
			t.Errorf("%s: log %q", one.name, got)
		}
	}
}

// add notes bytes of a log, each attempt's number before its own.
func (w *watcher) add(m *lockstepv1.FollowLogResponse) {
	if m.GetOffset() == 0 && len(m.GetData()) > 0 {
		fmt.Fprintf(&w.log, "%d:", m.GetAttempt())
	}
	w.log.Write(m.GetData())
}

// told is any message of WebSocket and SSE.
type told struct {
	Type, Code string
	Run        json.RawMessage
	JobID      string `json:"job_id"`
	Attempt    int32
	Offset     int64
	Data       []byte
	Ended      bool
}

func (w *watcher) hear(t *testing.T, message []byte) told {
	t.Helper()
	var m told
	if err := json.Unmarshal(message, &m); err != nil {
		t.Errorf("%s: %v in %s", w.name, err, message)
	}
	switch m.Type {
	case "run":
		w.states = append(w.states, string(m.Run))
	case "log":
		w.add(&lockstepv1.FollowLogResponse{Attempt: m.Attempt, Offset: m.Offset, Data: m.Data})
	case "problem":
		t.Errorf("%s: %s", w.name, message)
	}
	return m
}

// listen reads server-sent events until the answer ends, or stop says so, and returns the id of the last one.
func (g *gateway) listen(path, from string, one *watcher, stop func(told) bool) (last string, err error) {
	response := g.open("GET", path, "", "Last-Event-ID", from)
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != "text/event-stream" {
		return "", fmt.Errorf("%d %s", response.StatusCode, response.Header.Get("Content-Type"))
	}
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 1<<20)
	var kind string
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ": ")
		switch name {
		case "event":
			kind = value
		case "id":
			last = value
		case "data":
			if kind == "end" {
				continue
			}
			m := one.hear(g.t, []byte(value))
			if m.Type != kind {
				return last, fmt.Errorf("an event %s of type %s", kind, m.Type)
			}
			if stop != nil && stop(m) {
				return last, nil
			}
		}
	}
	if kind != "end" {
		return last, fmt.Errorf("it ended with %s (%w)", kind, io.ErrUnexpectedEOF)
	}
	return last, lines.Err()
}

// socket watches until the run has ended, and its log.
func (g *gateway) socket(run, job string, one *watcher) error {
	ctx := g.context()
	conn, _, err := websocket.Dial(ctx, "ws://"+g.addr+"/api/v1/watch?run="+run, &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + token}}}) //nolint:bodyclose // Dial closes it
	if err != nil {
		return err
	}
	defer func() { _ = conn.CloseNow() }()
	follow := func(attempt int32) error {
		message := fmt.Sprintf(`{"type":"follow","job_id":%q,"attempt":%d,"offset":0}`, job, attempt)
		return conn.Write(ctx, websocket.MessageText, []byte(message))
	}
	if err := follow(2); err != nil {
		return err
	}
	for final, attempt := false, int32(2); ; {
		_, message, err := conn.Read(ctx)
		if err != nil {
			return err
		}
		m := one.hear(g.t, message)
		final = final || strings.Contains(string(m.Run), `"status":"success","url"`)
		switch {
		case m.Type == "log" && m.Ended && attempt == 2:
			attempt = 3
			err = follow(attempt)
		case m.Type == "log" && m.Ended:
			attempt = 4
		}
		if err != nil {
			return err
		}
		if final && attempt == 4 {
			return nil
		}
	}
}

func TestEventsGoOnBehindTheOneThatIsNamed(t *testing.T) {
	t.Parallel()
	g := start(t)
	run, job := g.create()
	g.plan(job)
	w := g.claim(job)
	path := "/api/v1/runs/" + run + "/events?logs=" + job
	var want bytes.Buffer
	one := &watcher{name: "SSE"}
	last := ""
	for line := range 20 { // each answer is broken off at its first piece of the log
		fmt.Fprintf(io.MultiWriter(&want, w), "line %d\n", line)
		var err error
		if last, err = g.listen(path, last, one, func(m told) bool { return m.Type == "log" }); err != nil {
			t.Fatal(err)
		}
	}
	g.end(job, jobs.StatusFailure, w)
	last, err := g.listen(path, last, one, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimPrefix(one.log.String(), "2:"); got != want.String() {
		t.Errorf("log %q, want %q", got, want.String())
	}
	versions := map[string]bool{}
	for _, state := range one.states {
		versions[state] = true
	}
	if len(versions) != len(one.states) {
		t.Errorf("%d of %d states were told again", len(one.states)-len(versions), len(one.states))
	}
	if a := g.send("GET", path, "", "Last-Event-ID", last); a.status != http.StatusNoContent {
		t.Errorf("behind the end (%s): %d", last, a.status)
	}
	if a := g.send("HEAD", "/api/v1/runs/"+run+"/events", ""); a.status != http.StatusOK || a.header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("HEAD: %d %v", a.status, a.header)
	}
	for _, from := range []string{"x", "-1", "1,2", "1," + job + ".0.0", "1," + job + ".1.-1", "1,999.1.0", "1,end,x", strconv.Itoa(1<<62) + "0", "1,,"} {
		a := g.send("GET", path, "", "Last-Event-ID", from)
		if p := restProblem(t, a); a.status != http.StatusBadRequest || p.Field != "Last-Event-ID" {
			t.Errorf("from %q: %d %s", from, a.status, a.body)
		}
	}
	for _, logs := range []string{"x", ",", job + "," + job, "1,2,3,4,5,6,7,8,9"} {
		a := g.send("GET", "/api/v1/runs/"+run+"/events?logs="+logs, "")
		if p := restProblem(t, a); a.status != http.StatusBadRequest || p.Field != "logs" {
			t.Errorf("logs %q: %d %s", logs, a.status, a.body)
		}
	}
}

func TestNobodyCallsAProcedureWithoutItsRight(t *testing.T) {
	t.Parallel()
	closed, open := start(t, "RATE_LIMIT_FAILED=0"), start(t, "ANONYMOUS_READ=true", "RATE_LIMIT_FAILED=0") // wrong credentials, one after the other
	calls := []struct {
		procedure string
		request   proto.Message
		reads     bool
	}{
		{lockstepv1connect.RunServiceCreateRunProcedure, &lockstepv1.CreateRunRequest{Repository: repository}, false},
		{lockstepv1connect.RunServiceRerunRunProcedure, &lockstepv1.RerunRunRequest{Id: "1"}, false},
		{lockstepv1connect.RunServiceCancelRunProcedure, &lockstepv1.CancelRunRequest{Id: "1"}, false},
		{lockstepv1connect.RunServiceGetRunProcedure, &lockstepv1.GetRunRequest{Id: "1"}, true},
		{lockstepv1connect.RunServiceListRunsProcedure, &lockstepv1.ListRunsRequest{}, true},
		{lockstepv1connect.JobServiceGetJobProcedure, &lockstepv1.GetJobRequest{Id: "1"}, true},
		{lockstepv1connect.QueueServiceListQueueProcedure, &lockstepv1.ListQueueRequest{}, true},
		{lockstepv1connect.QueueServiceListWorkersProcedure, &lockstepv1.ListWorkersRequest{}, true},
		{lockstepv1connect.RunServiceWatchRunProcedure, &lockstepv1.WatchRunRequest{Id: "1"}, true},
		{lockstepv1connect.JobServiceFollowLogProcedure, &lockstepv1.FollowLogRequest{JobId: "1", StoredOnly: true}, true},
	}
	for _, g := range []*gateway{closed, open} {
		run, _ := g.create()
		g.send("POST", "/api/v1/runs/"+run+"/cancel", "") // so that watching ends
		for _, who := range []string{"", "another-token-of-the-tests"} {
			for _, client := range g.rpcs(who) {
				for _, call := range calls {
					err := client.any(g.context(), call.procedure, call.request)
					if call.reads && g == open && who == "" {
						if err != nil {
							t.Errorf("%s by %s with %q, everybody may read: %v", call.procedure, client.name, who, err)
						}
						continue
					}
					if p := problemOf(t, err); p.RPC != codes.Unauthenticated || p.Code != "unauthorized" || p.Field != "Authorization" {
						t.Errorf("%s by %s with %q: %+v", call.procedure, client.name, who, p)
					}
				}
			}
		}
	}
}

// any calls a procedure of either kind and forgets its answer.
func (c rpc) any(ctx context.Context, procedure string, request proto.Message) error {
	switch request.(type) {
	case *lockstepv1.WatchRunRequest:
		return c.stream(ctx, procedure, request, func() proto.Message { return &lockstepv1.WatchRunResponse{} }, func(proto.Message) {})
	case *lockstepv1.FollowLogRequest:
		return c.stream(ctx, procedure, request, func() proto.Message { return &lockstepv1.FollowLogResponse{} }, func(proto.Message) {})
	case *lockstepv1.ListRunsRequest:
		return c.call(ctx, procedure, request, &lockstepv1.ListRunsResponse{})
	case *lockstepv1.GetJobRequest:
		return c.call(ctx, procedure, request, &lockstepv1.GetJobResponse{})
	case *lockstepv1.ListQueueRequest:
		return c.call(ctx, procedure, request, &lockstepv1.ListQueueResponse{})
	case *lockstepv1.ListWorkersRequest:
		return c.call(ctx, procedure, request, &lockstepv1.ListWorkersResponse{})
	}
	return c.call(ctx, procedure, request, &lockstepv1.GetRunResponse{})
}

func TestEveryInterfaceSaysThatTheDatabaseIsAwayAndOvercomesIt(t *testing.T) {
	t.Parallel()
	g := start(t)
	run, _ := g.create()
	clients := g.rpcs(token)
	name := jobstest.Value[string](t, g.db, "SELECT current_database()")
	other := jobstest.New(t) // to speak to the server from
	other.Exec(t, "ALTER DATABASE "+name+" ALLOW_CONNECTIONS false")
	other.Exec(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
	for _, path := range []string{"/api/v1/runs/" + run, "/api/v1/runs", "/api/v1/queue", "/api/v1/workers", "/api/v1/runs/" + run + "/events"} {
		a := g.send("GET", path, "")
		if p := restProblem(t, a); a.status != http.StatusServiceUnavailable || p.Code != "database_unavailable" || p.RetryAfter == "" {
			t.Errorf("%s: %d %+v", path, a.status, p)
		}
	}
	for _, client := range clients {
		for procedure, request := range map[string]proto.Message{
			lockstepv1connect.RunServiceGetRunProcedure:    &lockstepv1.GetRunRequest{Id: run},
			lockstepv1connect.RunServiceCreateRunProcedure: &lockstepv1.CreateRunRequest{Repository: repository},
			lockstepv1connect.RunServiceWatchRunProcedure:  &lockstepv1.WatchRunRequest{Id: run},
		} {
			p := problemOf(t, client.any(g.context(), procedure, request))
			if p.RPC != codes.Unavailable || p.Code != "database_unavailable" || client.name != "gRPC" && p.RetryAfter == "" {
				t.Errorf("%s by %s: %+v", procedure, client.name, p)
			}
		}
	}
	subscriber, err := g.greeted()
	if err != nil {
		t.Fatal(err)
	}
	questions := map[string]string{
		"r": `{run(id:"` + run + `"){id}}`, "l": `{runs{edges{cursor}}}`, "j": `{job(id:"` + run + `"){id}}`, "q": `{queue{jobs{id}}}`,
		"m": `mutation{createRun(repository:"` + repository + `"){replayed}}`, "w": `subscription{runChanged(id:"` + run + `"){id}}`,
	}
	for id, query := range questions {
		var p problem
		if id == "w" {
			if err := subscriber.subscribe(id, query); err != nil {
				t.Fatal(err)
			}
			p, err = subscriber.refusal()
		} else {
			p, err = g.graphql(query).problem(t), nil
		}
		if err != nil || p.Code != "database_unavailable" || p.Status != http.StatusServiceUnavailable {
			t.Errorf("%s: %+v %v", query, p, err)
		}
	}
	other.Exec(t, "ALTER DATABASE "+name+" ALLOW_CONNECTIONS true")
	for id, query := range questions {
		if id == "w" {
			continue
		}
		if said := g.graphql(query); len(said.Errors) > 0 {
			t.Errorf("%s afterwards: %+v", query, said.Errors)
		}
	}
	for _, client := range clients {
		if err := client.call(g.context(), lockstepv1connect.RunServiceGetRunProcedure, &lockstepv1.GetRunRequest{Id: run}, &lockstepv1.GetRunResponse{}); err != nil {
			t.Errorf("%s afterwards: %v", client.name, err)
		}
	}
}

func TestStoppingTellsStreamsToComeBack(t *testing.T) {
	t.Parallel()
	g := start(t)
	run, _ := g.create()
	clients := g.rpcs(token)
	began, ends := make(chan struct{}, len(clients)), make(chan problem, len(clients))
	for _, client := range clients {
		go func() {
			err := client.stream(g.context(), lockstepv1connect.RunServiceWatchRunProcedure, &lockstepv1.WatchRunRequest{Id: run},
				func() proto.Message { return &lockstepv1.WatchRunResponse{} }, func(proto.Message) { began <- struct{}{} })
			ends <- problemOf(t, err)
		}()
	}
	for range clients {
		<-began
	}
	g.stop()
	for range clients {
		if p := <-ends; p.RPC != codes.Unavailable || p.Code != "stopping" {
			t.Errorf("a stream ended with %+v", p)
		}
	}
}

func TestWhatIsNoCallIsTheCallersMistake(t *testing.T) {
	t.Parallel()
	g := start(t)
	long := strings.Repeat("x", 100<<10)
	tests := []struct{ name, procedure, kind, body, code string }{
		{"no JSON", "RunService/GetRun", "application/json", "hello", "invalid_argument"},
		{"half a JSON", "RunService/GetRun", "application/json", `{"id":`, "invalid_argument"},
		{"another type", "RunService/GetRun", "application/json", `{"id":[1]}`, "invalid_argument"},
		{"a depth bomb", "RunService/GetRun", "application/json", strings.Repeat("[", 60_000), "invalid_argument"},
		{"no protobuf", "RunService/CreateRun", "application/proto", "\xff\xff\xff", "invalid_argument"},
		{"not UTF-8", "RunService/CreateRun", "application/proto", "\x0a\x01\xff", "invalid_argument"},
		{"a NUL", "RunService/CreateRun", "application/json", `{"repository":"https://example.com/o/n\u0000"}`, "invalid_argument"},
		{"too large", "RunService/CreateRun", "application/json", `{"repository":"` + long + `"}`, "resource_exhausted"},
		{"no such procedure", "RunService/DropRun", "application/json", "{}", "unimplemented"},
		{"no such service", "NoService/CreateToken", "application/json", "{}", "unimplemented"},
	}
	for _, test := range tests {
		a := g.send("POST", "/lockstep.v1."+test.procedure, test.body, "Content-Type", test.kind)
		var said struct{ Code string }
		if err := json.Unmarshal([]byte(a.body), &said); err != nil || said.Code != test.code || a.status < 400 {
			t.Errorf("%s: %d %s, want %s", test.name, a.status, a.body, test.code)
		}
	}
	for _, kind := range []string{"application/grpc", "application/grpc+proto", "application/grpc-web", "application/connect+proto", "application/connect+json"} {
		for name, body := range map[string]string{
			"half a frame": "\x00\x00\x00", "a frame that is too long": "\x00\xff\xff\xff\xff", "no message": "", "an unknown flag": "\x77\x00\x00\x00\x01x",
			"rubbish": "\x00\x00\x00\x00\x03\xff\xff\xff", "rubbish that is packed": "\x01\x00\x00\x00\x03\xff\xff\xff",
		} {
			a := g.send("POST", "/lockstep.v1.RunService/WatchRun", body, "Content-Type", kind)
			all := fmt.Sprint(a.header, a.body)
			if a.status >= 500 || strings.Contains(all, "panic") || strings.Contains(all, "goroutine") {
				t.Errorf("%s of %s: %d %s", name, kind, a.status, all)
			}
		}
	}
	if n := jobstest.Value[int64](t, g.db, "SELECT count(*) FROM ci_runs"); n != 0 {
		t.Errorf("%d runs were left", n)
	}
}
