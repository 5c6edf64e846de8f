package gateway_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/99designs/gqlgen/graphql/introspection"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/auth"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/gateway"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/graph/generated"
)

// ask posts a query or mutation; variables are pairs.
func (s *server) ask(query string, variables ...any) answer {
	s.t.Helper()
	return s.send("POST", "/graphql", question(s.t, query, variables...))
}

// askAs is ask with other credentials.
func (s *server) askAs(who, query string) answer {
	s.t.Helper()
	return s.send("POST", "/graphql", question(s.t, query), "Authorization", who)
}

func question(t testing.TB, query string, variables ...any) string {
	values := map[string]any{}
	for i := 0; i < len(variables); i += 2 {
		name, _ := variables[i].(string)
		values[name] = variables[i+1]
	}
	body, err := json.Marshal(map[string]any{"query": query, "variables": values})
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// graphError is an error as GraphQL tells it.
type graphError struct {
	Message    string
	Extensions struct {
		Code, Field string
		Status      int
	}
}

// refused is what is wrong with an answer, if there is just that.
func (a answer) refused(t *testing.T) graphError {
	t.Helper()
	if a.header.Get("Content-Type") == "application/problem+json" {
		p := a.problem(t)
		e := graphError{Message: p.Detail}
		e.Extensions.Code, e.Extensions.Field, e.Extensions.Status = p.Code, p.Field, p.Status
		return e
	}
	var said struct {
		Data   map[string]any
		Errors []graphError
	}
	decode(t, a.body, &said)
	if len(said.Errors) == 0 {
		t.Fatalf("nothing is wrong: %d %.300s", a.status, a.body)
	}
	if strings.Contains(a.body, `"data"`) != (a.status == http.StatusOK) {
		t.Errorf("%d %.300s", a.status, a.body)
	}
	for name, value := range said.Data {
		if value != nil {
			t.Errorf("%s was answered: %.300s", name, a.body)
		}
	}
	return said.Errors[0]
}

func TestGraphQLRefusesWhatCannotBe(t *testing.T) {
	t.Parallel()
	s := start(t)
	r := s.create()
	jobID := r.Jobs[0].ID
	ended := s.create().ID
	if a := s.ask(`mutation{cancelRun(id:"` + ended + `"){run{status}}createRun(repository:"https://example.com/owner/name",idempotencyKey:"used"){replayed}}`); strings.Contains(a.body, "errors") {
		t.Fatal(a.body)
	}
	const name = "{runs{edges{node{id}}}}"
	const repository = `repository:"https://example.com/owner/name"`
	query := func(text string, variables ...any) string { return question(t, text, variables...) }
	times := strings.Repeat
	fragments := func(n int) string { // each spreads the next one twice
		var b strings.Builder
		b.WriteString("query{...f0}")
		for i := range n {
			fmt.Fprintf(&b, " fragment f%d on Query{...f%d ...f%d}", i, i+1, i+1)
		}
		fmt.Fprintf(&b, " fragment f%d on Query{workers{id}}", n)
		return b.String()
	}
	aliases := func(n int, field string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "a%d:%s ", i, field)
		}
		return "{" + b.String() + "}"
	}
	tests := []struct {
		name, body  string
		status      int // of HTTP; 200: it was executed, and this part failed
		code, field string
	}{
		{"no body", "", 415, "unsupported_media_type", "Content-Type"},
		{"no JSON", "hello", 400, "invalid_json", ""},
		{"the query itself", name, 400, "invalid_json", ""},
		{"half a JSON", `{"query":`, 400, "invalid_json", ""},
		{"a JSON string", `"` + name + `"`, 400, "invalid_json", ""},
		{"null", `null`, 400, "invalid_field", "query"},
		{"two objects", query(name) + query(name), 400, "invalid_json", ""},
		{"an empty object", `{}`, 400, "invalid_field", "query"},
		{"an empty query", query(""), 400, "invalid_field", "query"},
		{"query null", `{"query":null}`, 400, "invalid_field", "query"},
		{"query a number", `{"query":1}`, 400, "invalid_field", "query"},
		{"query a list", `{"query":["{workers{id}}"]}`, 400, "invalid_field", "query"},
		{"an unknown member", `{"query":"{workers{id}}","debug":true}`, 400, "invalid_json", ""},
		{"variables a list", `{"query":"{workers{id}}","variables":[1]}`, 400, "invalid_field", "variables"},
		{"variables a string", `{"query":"{workers{id}}","variables":"{}"}`, 400, "invalid_field", "variables"},
		{"operationName a number", `{"query":"{workers{id}}","operationName":5}`, 400, "invalid_field", "operationName"},
		{"an operation that is not there", `{"query":"query a{workers{id}}","operationName":"b"}`, 400, "invalid_query", ""},
		{"which of two operations", query("query a{workers{id}} query b{workers{id}}"), 400, "invalid_query", ""},
		{"a persisted query", `{"extensions":{"persistedQuery":{"version":1,"sha256Hash":"00"}}}`, 400, "persisted_query_not_supported", "extensions"},
		{"a batch", "[" + query(name) + "," + query(name) + "]", 400, "batch_refused", ""},
		{"a batch of 10,000", "[" + times("{},", 9_999) + "{}]", 400, "batch_refused", ""},
		{"an empty batch", " \n[]", 400, "batch_refused", ""},
		{"not UTF-8", "{\"query\":\"{workers{id}}\xff\"}", 400, "invalid_json", ""},
		{"a body of 300 KB", query("{workers{id}}" + times(" ", 300<<10)), 413, "body_too_large", ""},
		{"variables of 300 KB", query(name, "v", times("x", 300<<10)), 413, "body_too_large", ""},
		{"variables as a depth bomb", `{"query":"{workers{id}}","variables":{"v":` + times("[", 50_000) + times("]", 50_000) + `}}`, 400, "invalid_json", ""},
		{"only a comment", query("# hello"), 400, "invalid_query", ""},
		{"only a fragment", query("fragment f on Run{id}"), 400, "invalid_query", ""},
		{"half a query", query("{workers{id}"), 400, "invalid_query", ""},
		{"a NUL", query("{workers{id\x00}}"), 400, "invalid_query", ""},
		{"a string without end", query(`{run(id:"1){id}}`), 400, "invalid_query", ""},
		{"a long word", query("{" + times("x", 200<<10) + "}"), 400, "invalid_query", ""},
		{"no such field", query("{secrets{id}}"), 400, "invalid_query", ""},
		{"no such field of a run", query("{runs{edges{node{password}}}}"), 400, "invalid_query", ""},
		{"no such type", query("fragment f on Secret{id} {workers{id ...f}}"), 400, "invalid_query", ""},
		{"no such directive", query("{workers @admin{id}}"), 400, "invalid_query", ""},
		{"no such argument", query(`{workers(all:true){id}}`), 400, "invalid_query", ""},
		{"an object without its fields", query("{workers}"), 400, "invalid_query", ""},
		{"fields of a word", query("{workers{id{id}}}"), 400, "invalid_query", ""},
		{"a mutation asked as a query", query("{createRun(" + repository + "){replayed}}"), 400, "invalid_query", ""},
		{"a subscription by POST", query(`subscription{runChanged(id:"1"){id}}`), 400, "subscription_by_post", ""},
		{"a fragment of itself", query("query{...f} fragment f on Query{...f}"), 400, "invalid_query", ""},
		{"fragments in a ring", query("query{...f} fragment f on Query{...g} fragment g on Query{...f}"), 400, "invalid_query", ""},
		{"fragments that double 30 times", query(fragments(30)), 400, "query_too_expensive", ""},
		{"fragments that double 100 times", query(fragments(100)), 400, "query_too_expensive", ""},
		{"20,000 directives", query("{workers{id " + times("@a", 20_000) + "}}"), 400, "invalid_query", ""},
		{"4,000 times the same field", query("{workers{" + times("id ", 4000) + "}}"), 400, "invalid_query", ""},
		{"@skip twice", query("{workers{id @skip(if:true) @skip(if:true)}}"), 400, "invalid_query", ""},
		{"10,000 fields deep", query(times("{a", 10_000) + times("}", 10_000)), 400, "invalid_query", ""},
		{"1,000 lists deep", query("{run(id:" + times("[", 1000) + times("]", 1000) + "){id}}"), 400, "invalid_query", ""},
		{"100,000 lists deep", query("{run(id:" + times("[", 100_000) + times("]", 100_000) + "){id}}"), 400, "invalid_query", ""},
		{"13 fields deep", query(`{job(id:"1"){` + times("run{jobs{", 6) + "id" + times("}}", 6) + "}}"), 400, "query_too_deep", ""},
		{"jobs of runs of jobs", query("{runs(first:100){edges{node{jobs{run{jobs{run{jobs{id}}}}}}}}}"), 400, "query_too_expensive", ""},
		{"60 aliases", query(aliases(60, `run(id:"1"){id}`)), 400, "too_many_aliases", ""},
		{"60 root fields", query("{" + times("...f ", 60) + "} fragment f on Query{__typename}"), 400, "too_many_fields", ""},
		{"30 lists", query(aliases(30, "workers{id}")), 400, "query_too_expensive", ""},
		{"30 mutations", query("mutation" + aliases(30, "createRun("+repository+"){replayed}")), 400, "query_too_expensive", ""},
		{"130 aliases of one field", query(aliases(130, `run(id:"1"){id}`)), 400, "too_many_aliases", ""},
		{"12 lists of 100 runs with all", query(aliases(12, "runs(first:100){edges{node{jobs{steps{name}}}}}")), 400, "query_too_expensive", ""},
		{"100 by a variable", query("query($n:Int){"+strings.Trim(aliases(12, "runs(first:$n){edges{node{jobs{steps{name}}}}}"), "{"), "n", 100), 400, "query_too_expensive", ""},
		{"types of fields of types", query("{__schema{types{fields{type{fields{type{fields{type{fields{name}}}}}}}}}}"), 400, "invalid_query", ""},
		{"no end of types", query("{__type(name:\"Run\"){" + times("ofType{", 25) + "name" + times("}", 25) + "}}"), 400, "query_too_deep", ""},
		{"first 0", query("{runs(first:0){edges{cursor}}}"), 200, "invalid_parameter", "first"},
		{"first -1", query("{runs(first:-1){edges{cursor}}}"), 200, "invalid_parameter", "first"},
		{"first 101", query("{runs(first:101){edges{cursor}}}"), 200, "invalid_parameter", "first"},
		{"first 2147483647", query("{runs(first:2147483647){edges{cursor}}}"), 200, "invalid_parameter", "first"},
		{"first 2^62", query("{runs(first:4611686018427387904){edges{cursor}}}"), 200, "invalid_field", "first"},
		{"first null", query("{runs(first:null){edges{cursor}}}"), 200, "invalid_parameter", "first"},
		{"first 1.5", query("{runs(first:1.5){edges{cursor}}}"), 400, "invalid_query", ""},
		{"first a word", query(`{runs(first:"all"){edges{cursor}}}`), 400, "invalid_query", ""},
		{"first by a variable -1", query("query($n:Int){runs(first:$n){edges{cursor}}}", "n", -1), 200, "invalid_parameter", "first"},
		{"first by a variable null", query("query($n:Int){runs(first:$n){edges{cursor}}}", "n", nil), 200, "invalid_parameter", "first"},
		{"first by a variable 1e400", `{"query":"query($n:Int){runs(first:$n){edges{cursor}}}","variables":{"n":1e400}}`, 400, "invalid_variable", "n"},
		{"first by a variable of 30 digits", `{"query":"query($n:Int){runs(first:$n){edges{cursor}}}","variables":{"n":111111111111111111111111111111}}`, 400, "invalid_variable", "n"},
		{"first by a list", query("query($n:Int){runs(first:$n){edges{cursor}}}", "n", []int{1}), 400, "invalid_variable", "n"},
		{"a variable that is missing", query("query($id:ID!){run(id:$id){id}}"), 400, "invalid_variable", "id"},
		{"a variable that is null", query("query($id:ID!){run(id:$id){id}}", "id", nil), 400, "invalid_variable", "id"},
		{"a variable that is nowhere", query("{run(id:$id){id}}"), 400, "invalid_query", ""},
		{"a variable of another type", query("query($n:Boolean){runs(first:$n){edges{cursor}}}", "n", true), 400, "invalid_query", ""},
		{"a variable of no type", query("query($n:Secret){runs(first:$n){edges{cursor}}}"), 400, "invalid_query", ""},
		{"a variable of an object", query("query($n:Run){workers{id}}"), 400, "invalid_query", ""},
		{"first 0 of the queue", query("{queue(first:0){jobs{id}}}"), 200, "invalid_parameter", "first"},
		{"a forged cursor", query(`{runs(after:"MTI"){edges{cursor}}}`), 200, "invalid_parameter", "after"},
		{"an empty cursor", query(`{runs(after:""){edges{cursor}}}`), 200, "invalid_parameter", "after"},
		{"a cursor of SQL", query(`{runs(after:"' OR 1=1 --"){edges{cursor}}}`), 200, "invalid_parameter", "after"},
		{"an unknown filter", query(`{runs(filter:{owner:"x"}){edges{cursor}}}`), 400, "invalid_query", ""},
		{"no such run", query(`{run(id:"999"){id}}`), 200, "not_found", ""},
		{"an id below 1", query(`{run(id:-1){id}}`), 200, "not_found", ""},
		{"an id of words", query(`{run(id:"1 OR 1=1"){id}}`), 200, "not_found", ""},
		{"an id of 19 digits and more", query(`{run(id:"9223372036854775808"){id}}`), 200, "not_found", ""},
		{"an id that is true", query(`{run(id:true){id}}`), 400, "invalid_query", ""},
		{"a job by its run's name", query(`{job(id:"run"){id}}`), 200, "not_found", ""},
		{"no repository", query(`mutation{createRun{replayed}}`), 400, "invalid_query", ""},
		{"a repository of another scheme", query(`mutation{createRun(repository:"ext::sh -c id"){replayed}}`), 200, "invalid_field", "repository"},
		{"a repository with a NUL", query(`mutation{createRun(repository:"https://example.com/o/\u0000"){replayed}}`), 200, "invalid_field", "repository"},
		{"a repository of half a character", query(`mutation{createRun(repository:"https://example.com/o/\ud800"){replayed}}`), 200, "invalid_field", "repository"},
		{"a ref that is an option", query(`mutation{createRun(` + repository + `,ref:"--upload-pack=id"){replayed}}`), 200, "invalid_field", "ref"},
		{"a short sha", query(`mutation{createRun(` + repository + `,sha:"abc"){replayed}}`), 200, "invalid_field", "sha"},
		{"a key with a space", query(`mutation{createRun(` + repository + `,idempotencyKey:"a b"){replayed}}`), 200, "invalid_header", "idempotencyKey"},
		{"an empty key", query(`mutation{createRun(` + repository + `,idempotencyKey:""){replayed}}`), 200, "invalid_header", "idempotencyKey"},
		{"a long key", query(`mutation{createRun(` + repository + `,idempotencyKey:"` + times("k", 256) + `"){replayed}}`), 200, "invalid_header", "idempotencyKey"},
		{"a key of another request", query(`mutation{createRun(` + repository + `,ref:"main",idempotencyKey:"used"){replayed}}`), 200, "idempotency_key_reused", "idempotencyKey"},
		{"an ended run cancelled", query(`mutation{cancelRun(id:"` + ended + `"){run{id}}}`), 200, "run_ended", ""},
		{"no run cancelled", query(`mutation{cancelRun(id:"999"){run{id}}}`), 200, "not_found", ""},
		{"a job run again", query(`mutation{rerunRun(id:"job ` + jobID + `"){replayed}}`), 200, "not_found", ""},
	}
	if len(tests) < 100 {
		t.Errorf("only %d bad inputs", len(tests))
	}
	before := s.count("ci_runs")
	for _, test := range tests {
		began := time.Now()
		a := s.send("POST", "/graphql", test.body)
		if took := time.Since(began); took > 10*time.Second { // a fraction of a second, but for -race on a busy machine
			t.Errorf("%s: it took %s", test.name, took)
		}
		e := a.refused(t)
		if a.status != test.status || e.Extensions.Code != test.code || e.Extensions.Field != test.field || e.Message == "" || len(e.Message) > 800 || len(a.body) > 16<<10 {
			t.Errorf("%s: %d %.700s", test.name, a.status, a.body)
		}
		if e.Extensions.Status < 400 || e.Extensions.Status >= 500 || test.status != 200 && e.Extensions.Status != test.status {
			t.Errorf("%s: HTTP %d, status %d", test.name, a.status, e.Extensions.Status)
		}
	}
	if after := s.count("ci_runs"); after != before {
		t.Errorf("%d runs, %d before", after, before)
	}
}

func TestGraphQLIsPostedAsJSON(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, kind := range []string{"application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x", "application/graphql", "application/jsonp", "application/json,text/plain", ";"} {
		a := s.send("POST", "/graphql", question(t, `mutation{createRun(repository:"https://example.com/owner/name"){replayed}}`), "Content-Type", kind)
		if p := a.problem(t); a.status != http.StatusUnsupportedMediaType || p.Field != "Content-Type" {
			t.Errorf("%s: %d %s", kind, a.status, a.body)
		}
	}
	for origin, want := range map[string]int{s.url: 200, "": 200, "https://evil.example": 403, "null": 403} {
		if a := s.send("POST", "/graphql", question(t, "{workers{id}}"), "Origin", origin); a.status != want {
			t.Errorf("from %q: %d %s", origin, a.status, a.body)
		}
	}
	for _, path := range []string{"/graphql?query={workers{id}}", "/graphql?query=mutation{cancelRun(id:1){run{id}}}", "/graphql?x"} {
		for _, method := range []string{"GET", "POST"} {
			body := ""
			if method == "POST" {
				body = question(t, "{workers{id}}")
			}
			if a := s.send(method, path, body); a.status != http.StatusBadRequest {
				t.Errorf("%s %s: %d %s", method, path, a.status, a.body)
			}
		}
	}
	for _, method := range []string{"PUT", "DELETE", "PATCH"} {
		if a := s.send(method, "/graphql", ""); a.status != http.StatusMethodNotAllowed {
			t.Errorf("%s: %d", method, a.status)
		}
	}
	if n := s.count("ci_runs"); n != 0 {
		t.Errorf("%d runs", n)
	}
	if a := s.send("GET", "/graphql", ""); a.status != http.StatusOK || !strings.Contains(a.body, "type Query {") {
		t.Errorf("the schema: %d %s", a.status, a.body)
	}
	a := s.send("POST", "/graphql", question(t, "{workers{id}}"), "Accept", "application/graphql-response+json, application/json;q=0.9")
	if a.header.Get("Content-Type") != "application/graphql-response+json" || a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("%v", a.header)
	}
}

func TestGraphQLTellsOfItself(t *testing.T) {
	t.Parallel()
	s := start(t)
	a := s.ask(introspection.Query)
	if a.status != http.StatusOK || strings.Contains(a.body, "errors") || !strings.Contains(a.body, `"runChanged"`) {
		t.Errorf("%d %.300s", a.status, a.body)
	}
}

func TestEveryRootFieldHasARight(t *testing.T) {
	t.Parallel()
	schema := generated.NewExecutableSchema(generated.Config{}).Schema()
	n := 0
	for _, f := range append(schema.Query.Fields, schema.Subscription.Fields...) {
		if strings.HasPrefix(f.Name, "__") {
			continue
		}
		n++
		kind := "Query"
		if schema.Subscription.Fields.ForName(f.Name) != nil {
			kind = "Subscription"
		}
		if right := auth.Needs("graphql " + kind + "." + f.Name); right != auth.Read {
			t.Errorf("%s.%s needs %d", kind, f.Name, right)
		}
	}
	for _, f := range schema.Mutation.Fields {
		n++
		if right := auth.Needs("graphql Mutation." + f.Name); right < auth.Write {
			t.Errorf("Mutation.%s needs %d", f.Name, right)
		}
	}
	if n < 10 {
		t.Errorf("only %d root fields found", n)
	}
}

func TestGraphQLAsksForTheRightOfEachRootField(t *testing.T) {
	t.Parallel()
	closed := start(t)
	open := start(t, func(o *gateway.Options) { o.AnonymousRead = true })
	const read, write = `{runs{edges{node{id}}}}`, `mutation{createRun(repository:"https://example.com/owner/name"){replayed}}`
	for _, s := range []*server{closed, open} {
		for query, needs := range map[string]string{
			read: "read", "{__typename}": "read", "{__schema{queryType{name}}}": "read", write: "write",
			`mutation{__typename ... on Mutation{cancelRun(id:1){run{id}}}}`: "write",
		} {
			for _, who := range []string{"", "Bearer another-token-of-the-tests", basicAuth(token)} {
				a := s.askAs(who, query)
				may := needs == "read" && s == open && who == ""
				if refused := a.status == http.StatusUnauthorized || a.status == http.StatusForbidden; refused == may {
					t.Errorf("%s by %q (anonymous reading: %t): %d %s", query, who, s == open, a.status, a.body)
				}
			}
		}
		if n := s.count("ci_runs"); n != 0 {
			t.Errorf("%d runs", n)
		}
	}
}

func TestGraphQLCostsTheSameForOneRunAndForFifty(t *testing.T) {
	t.Parallel()
	s, statements := startCounted(t)
	s.create()
	const all = `{id status version jobs{id name steps{name status}run{id}}}`
	ask := func(query string) (asked int64, body string) {
		t.Helper()
		before := statements.Load()
		a := s.ask(query)
		if a.status != http.StatusOK || strings.Contains(a.body, `"errors"`) {
			t.Fatalf("%s: %d %.300s", query, a.status, a.body)
		}
		return statements.Load() - before, a.body
	}
	aliases := func(n int, field string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "a%d:"+field+" ", i, i+1)
		}
		return "{" + b.String() + "}"
	}
	list := `{runs(first:50){edges{node` + all + `}}}`
	queue := `{queue(first:100){jobs{name run` + all + `}}}`
	one := map[string]int64{}
	one["list"], _ = ask(list)
	one["queue"], _ = ask(queue)
	one["runs by id"], _ = ask(aliases(1, `run(id:"%d")`+all))
	one["jobs by id"], _ = ask(aliases(1, `job(id:"%d"){name run`+all+`}`))
	for range 49 {
		s.create()
	}
	many := map[string]int64{}
	var body string
	many["list"], body = ask(list)
	if n := strings.Count(body, `"jobs":[{`); n != 50 {
		t.Errorf("the list has %d runs with jobs", n)
	}
	many["queue"], body = ask(queue)
	if n := strings.Count(body, `"jobs":[{"id"`); n != 50 {
		t.Errorf("the queue has %d runs with jobs", n)
	}
	many["runs by id"], _ = ask(aliases(50, `run(id:"%d")`+all))
	many["jobs by id"], body = ask(aliases(20, `job(id:"%d"){name run`+all+`}`))
	if n := strings.Count(body, `"name":"initialize","run":{`); n != 20 {
		t.Errorf("%d jobs with runs: %s", n, body)
	}
	for what, n := range many {
		if n != one[what] || n < 1 || n > 2 && what != "queue" {
			t.Errorf("%s: %d statements for one, %d for many", what, one[what], n)
		}
	}
	both, _ := ask(`{r:run(id:"1"){id} j:job(id:"2"){id run{id}} runs(first:50){edges{node` + all + `}}}`)
	if both > 5 {
		t.Errorf("three root fields cost %d statements", both)
	}
	t.Log(many)
}

// startCounted is start, with a count of the statements that the gateway has asked of its pool.
func startCounted(t *testing.T) (*server, *atomic.Int64) {
	t.Helper()
	db := jobstest.New(t)
	config, err := pgconn.ParseConfig(db.As("api-gateway"))
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	statements := &atomic.Int64{}
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			network, address := pgconn.NetworkAddress(config.Host, config.Port)
			server, err := net.Dial(network, address)
			if err != nil {
				_ = client.Close()
				return
			}
			go func() { _, _ = io.Copy(client, server); _ = client.Close() }()
			go func() { countStatements(server, client, statements); _ = server.Close() }()
		}
	}()
	counted := fmt.Sprintf("postgres://%s:%s@%s/%s?sslmode=disable", config.User, config.Password, listener.Addr(), config.Database)
	queue, err := jobs.Open(t.Context(), counted, jobs.Options{App: "api-gateway", ListenURL: db.As("api-gateway")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(queue.Close)
	url, stop := serve(t, queue)
	return &server{t: t, db: db, url: url, stop: stop}, statements
}

// countStatements passes on what a client of PostgreSQL says, and counts its Execute messages (manual, "Message Formats"): the
// first message has no type, each further one is a letter and its length.
func countStatements(to io.Writer, from io.Reader, n *atomic.Int64) {
	for header := 4; ; header = 5 {
		head := make([]byte, header)
		if _, err := io.ReadFull(from, head); err != nil {
			return
		}
		if head[0] == 'E' {
			n.Add(1)
		}
		body := make([]byte, binary.BigEndian.Uint32(head[header-4:])-4)
		if _, err := io.ReadFull(from, body); err != nil {
			return
		}
		if _, err := to.Write(append(head, body...)); err != nil {
			return
		}
	}
}

// Whatever is posted is answered, and nothing of it is our fault.
func FuzzGraphQL(f *testing.F) {
	for _, query := range []string{
		`{run(id:"1"){id jobs{steps{name}run{id}}}}`, `query($n:Int=5,$f:RunFilter){runs(first:$n,after:"x",filter:$f){edges{cursor node{...r}}pageInfo{endCursor}}} fragment r on Run{id}`,
		`mutation m{createRun(repository:"https://example.com/o/n",ref:"main",idempotencyKey:"k"){replayed run{id}}}`, `mutation{cancelRun(id:1){run{status}} rerunRun(id:"2"){replayed}}`,
		`subscription{logLines(jobId:"1",from:{attempt:1,offset:0}){data}}`, `{queue(first:3){jobs{run{id}}}workers{id}}`, introspection.Query,
		`{__type(name:"Run"){fields{name @skip(if:true)}}}`, `{a:workers{id}...on Query@include(if:false){job(id:"""1"""){id}}}`,
	} {
		f.Add([]byte(question(f, query)))
		f.Add([]byte(question(f, query, "n", 7, "f", map[string]any{"repository": "x"})))
	}
	f.Add([]byte(`[{"query":"{workers{id}}"}]`))
	f.Add([]byte(`{"query":"query a{workers{id}}","operationName":"a","variables":null,"extensions":{"x":[1e99]}}`))
	url, _ := serve(f, jobstest.New(f).Open(f, "api-gateway"))
	f.Fuzz(func(t *testing.T, body []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/graphql", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+token)
		request.Header.Set("Content-Type", "application/json")
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatalf("no answer: %v", err)
		}
		defer func() { _ = response.Body.Close() }()
		text, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode >= 500 || bytes.Contains(text, []byte(`"code":"internal"`)) || !json.Valid(text) {
			t.Errorf("%d (%v) %s", response.StatusCode, err, text)
		}
	})
}

func TestATokenOfOneRepositoryFindsNothingOfAnotherByGraphQL(t *testing.T) {
	t.Parallel()
	s := start(t)
	other := s.create()
	header, _ := s.issue(auth.Prefix+"mine", "run", "https://example.com/owner/mine")
	a := s.askAs(header, `mutation{createRun(repository:"https://example.com/owner/mine"){run{id jobs{id}}}}`)
	var made struct {
		Data struct{ CreateRun struct{ Run run } }
	}
	decode(t, a.body, &made)
	mine := made.Data.CreateRun.Run
	if a := s.askAs(header, `{run(id:"`+mine.ID+`"){id} job(id:"`+mine.Jobs[0].ID+`"){id} runs{edges{node{id jobs{run{id}}}}} queue{jobs{run{id}}}}`); strings.Contains(a.body, "errors") || strings.Contains(a.body, `"id":"`+other.ID+`"`) || strings.Count(a.body, `"id":"`+mine.ID+`"`) < 4 {
		t.Errorf("of its own it finds %s", a.body)
	}
	for _, query := range []string{
		`{run(id:"` + other.ID + `"){id}}`, `{job(id:"` + other.Jobs[0].ID + `"){id run{id}}}`, `{a:run(id:"` + mine.ID + `"){__typename} run(id:"` + other.ID + `"){id}}`,
		`mutation{cancelRun(id:"` + other.ID + `"){run{id}}}`, `mutation{rerunRun(id:"` + other.ID + `"){run{id}}}`,
		`mutation{createRun(repository:"` + other.Repository + `"){run{id}}}`, `{repositoryStats(repository:"` + other.Repository + `"){repository}}`,
	} {
		if a := s.askAs(header, query); a.status != http.StatusOK || !strings.Contains(a.body, `"code":"not_found"`) || strings.Contains(a.body, `"id":"`) {
			t.Errorf("%s: %d %s", query, a.status, a.body)
		}
	}
	c := s.subscriber("Authorization", header).greet()
	c.subscribe("run", `subscription{runChanged(id:"`+other.ID+`"){id}}`)
	c.expect("error", "not_found")
	c.subscribe("log", `subscription{logLines(jobId:"`+other.Jobs[0].ID+`"){data}}`)
	c.expect("error", "not_found")
	if n := s.count("ci_runs"); n != 2 {
		t.Errorf("%d runs", n)
	}
}
