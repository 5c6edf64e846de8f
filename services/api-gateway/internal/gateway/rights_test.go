package gateway_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"github.com/vektah/gqlparser/v2"
	"github.com/vektah/gqlparser/v2/ast"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
	lockstepv1 "github.com/lockstep-ci/lockstep/services/api-gateway/gen/lockstep/v1"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/auth"
)

// way is one way in: a route, a procedure or a root field of GraphQL.
type way struct{ name, method, path, body string }

// ways are all that there are. What they ask for, where they need a name, is there for nobody.
func ways(t *testing.T) (found []way) {
	t.Helper()
	source, err := os.ReadFile("gateway.go")
	if err != nil {
		t.Fatal(err)
	}
	nothing := strings.NewReplacer("{$}", "", "{id}", "999999", "{repository}", "https%3A%2F%2Fexample.com%2Fno%2Fname", "{file}", "none.css")
	add := func(method, path, body string) {
		found = append(found, way{method + " " + path, method, nothing.Replace(path), body})
	}
	for _, route := range regexp.MustCompile(`mux\.Handle\("([A-Z]+) (/[^"]+)"`).FindAllStringSubmatch(string(source), -1) {
		body := "{}"
		if route[1] == http.MethodGet {
			body = ""
		}
		add(route[1], route[2], body)
	}
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		add(http.MethodGet, path, "")
	}
	protoregistry.GlobalFiles.RangeFilesByPackage(lockstepv1.File_lockstep_v1_run_proto.Package(), func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				procedure := "/" + string(service.FullName()) + "/" + string(service.Methods().Get(j).Name())
				found = append(found, way{procedure, http.MethodPost, procedure, "{}"})
			}
		}
		return true
	})
	text, err := os.ReadFile("../graph/schema.graphql")
	if err != nil {
		t.Fatal(err)
	}
	schema, err := gqlparser.LoadSchema(&ast.Source{Input: string(text)})
	if err != nil {
		t.Fatal(err)
	}
	for _, root := range []*ast.Definition{schema.Query, schema.Mutation, schema.Subscription} {
		for _, field := range root.Fields {
			if strings.HasPrefix(field.Name, "__") {
				continue
			}
			query, _ := json.Marshal(map[string]string{"query": fmt.Sprintf("%s{%s%s%s}", strings.ToLower(root.Name), field.Name, arguments(schema, field), selection(schema, field))})
			found = append(found, way{"graphql " + root.Name + "." + field.Name, http.MethodPost, "/graphql", string(query)})
		}
	}
	if len(found) < 60 {
		t.Fatalf("only %d ways in were found", len(found))
	}
	return found
}

func arguments(schema *ast.Schema, field *ast.FieldDefinition) string {
	var list []string
	for _, argument := range field.Arguments {
		if argument.Type.NonNull && argument.DefaultValue == nil {
			list = append(list, argument.Name+":"+literal(schema, argument.Type))
		}
	}
	if list == nil {
		return ""
	}
	return "(" + strings.Join(list, ",") + ")"
}

func literal(schema *ast.Schema, of *ast.Type) string {
	switch definition := schema.Types[of.Name()]; {
	case definition.Kind == ast.Enum:
		return definition.EnumValues[0].Name
	case definition.Kind == ast.InputObject:
		var list []string
		for _, field := range definition.Fields {
			if field.Type.NonNull && field.DefaultValue == nil {
				list = append(list, field.Name+":"+literal(schema, field.Type))
			}
		}
		return "{" + strings.Join(list, ",") + "}"
	case of.Name() == "Int" || of.Name() == "Long":
		return "1"
	case of.Name() == "ID":
		return `"999999"`
	}
	return `"https://example.com/no/name"`
}

func selection(schema *ast.Schema, field *ast.FieldDefinition) string {
	if schema.Types[field.Type.Name()].IsLeafType() {
		return ""
	}
	return "{__typename}"
}

// aboutAll is what nobody may ask who sees one repository.
var aboutAll = map[string]bool{"GET /api/v1/workers": true, "/lockstep.v1.QueueService/ListWorkers": true, "GET /queue": true}

// A way in that the table of rights leaves out fails here.
func TestEveryWayInAsksForItsRight(t *testing.T) {
	t.Parallel()
	s := start(t)
	issued := func(name, scope string, repository any, end string) string {
		header, id := s.issue(auth.Prefix+name, scope, repository)
		if end != "" {
			s.db.Exec(t, "UPDATE ci_tokens SET "+end+" = now() WHERE id = $1", id)
		}
		return header
	}
	const nobody = 0
	who := map[string]struct {
		header string
		right  auth.Right
	}{
		"anonymous":             {"", nobody},
		"a wrong token":         {"Bearer " + auth.Prefix + "wrong", nobody},
		"an expired token":      {issued("expired", "admin", nil, "expires_at"), nobody},
		"a revoked token":       {issued("revoked", "admin", nil, "revoked_at"), nobody},
		"scope read":            {issued("read", "read", nil, ""), auth.Read},
		"scope run":             {issued("run", "run", nil, ""), auth.Write},
		"scope admin":           {issued("admin", "admin", nil, ""), auth.Admin},
		"the admin":             {"Bearer " + token, auth.Admin},
		"read, one repository":  {issued("read one", "read", "https://example.com/owner/name", ""), auth.Read},
		"run, one repository":   {issued("run one", "run", "https://example.com/owner/name", ""), auth.Write},
		"another kind of token": {"Digest abc", nobody},
	}
	for _, way := range ways(t) {
		needs := auth.Needs(way.name)
		if needs == auth.Nobody {
			t.Errorf("%s: nobody has decided who may", way.name)
			continue
		}
		if write := way.method != http.MethodGet && !strings.HasPrefix(way.name, "graphql") && way.path != "/graphql" && strings.HasPrefix(way.path, "/api/v1/"); write && needs < auth.Write {
			t.Errorf("%s changes something and needs %d", way.name, needs)
		}
		for name, p := range who {
			a := s.send(way.method, way.path, way.body, "Authorization", p.header)
			refused := a.status == http.StatusUnauthorized || a.status == http.StatusForbidden
			switch {
			case way.path == "/webhooks/github": // by its signature
				if a.status != http.StatusUnauthorized {
					t.Errorf("%s by %s: %d %s", way.name, name, a.status, a.body)
				}
			case needs == auth.Anybody && (way.method != http.MethodGet || strings.HasPrefix(way.path, "/login")): // it guards itself
			case needs == auth.Anybody:
				if refused {
					t.Errorf("%s by %s: %d %s", way.name, name, a.status, a.body)
				}
			case p.right == nobody:
				page := strings.HasPrefix(way.name, "GET /") && !strings.HasPrefix(way.path, "/api/")
				if a.status != http.StatusUnauthorized && !(page && p.header == "" && a.status == http.StatusSeeOther) { // to sign in
					t.Errorf("%s by %s: %d %s", way.name, name, a.status, a.body)
				}
			case p.right < needs || aboutAll[way.name] && strings.HasSuffix(name, "one repository"):
				if a.status != http.StatusForbidden {
					t.Errorf("%s by %s: %d %s", way.name, name, a.status, a.body)
				}
			case refused || a.status >= http.StatusInternalServerError:
				t.Errorf("%s by %s: %d %s", way.name, name, a.status, a.body)
			}
		}
	}
}

func TestATokenOfOneRepositoryFindsNothingOfAnother(t *testing.T) {
	t.Parallel()
	s := start(t)
	const mine, other, canary = "https://example.com/owner/name", "https://example.com/canary/other", "canary"
	s.create()
	var hidden run
	decode(t, s.send("POST", "/api/v1/runs", `{"repository":"`+other+`"}`).body, &hidden)
	job := s.plan(hidden)
	log := s.claim(job)
	if _, err := log.Write([]byte(canary)); err != nil {
		t.Fatal(err)
	}
	s.finish(job, jobs.StatusFailure, log)
	s.db.Exec(t, "INSERT INTO ci_repositories (repository, weight) VALUES ($1, 2) ON CONFLICT (repository) DO UPDATE SET weight = 2", other)
	approval := jobstest.Value[string](t, s.db, `INSERT INTO ci_approvals (repository, pull_request, head_sha, sender_id, run, delivery_id, asked_at)
		VALUES ($1, 1, repeat('ab', 20), 1, '{}', 'delivery', now()) RETURNING id::text`, other)
	_, hiddenToken := s.newToken(`{"name":"` + canary + `","scope":"read","repository":"` + other + `"}`)
	bearer, _ := s.newToken(`{"name":"mine","scope":"admin","repository":"` + mine + `"}`)

	seen, kept := 0, 0
	for _, way := range ways(t) {
		id := hidden.ID
		for kind, of := range map[string]string{"job": job, "logLines": job, "approv": approval, "token": hiddenToken} {
			if strings.Contains(strings.ToLower(way.name), strings.ToLower(kind)) {
				id = of
			}
		}
		names := strings.Contains(way.path, "no%2Fname") || strings.Contains(way.body, "no/name")
		named := names || strings.Contains(way.path+way.body, "999999")
		there := strings.NewReplacer("999999", id, "no%2Fname", "canary%2Fother", "no/name", "canary/other")
		path, body := there.Replace(way.path), there.Replace(way.body)
		kind := "application/json"
		if strings.HasPrefix(way.name, "/lockstep.") {
			body = fmt.Sprintf(`{"id":%q,"jobId":%q}`, id, id)
			if strings.HasSuffix(way.name, "WatchRun") || strings.HasSuffix(way.name, "FollowLog") {
				kind, body = "application/connect+json", "\x00\x00\x00\x00"+string(rune(len(body)))+body
			}
		}
		a := s.send(way.method, path, body, "Authorization", bearer, "Content-Type", kind)
		if !names && strings.Contains(a.body, canary) {
			t.Errorf("%s tells of another repository: %s", way.name, a.body)
		}
		if named && strings.HasPrefix(path, "/api/") && a.status != http.StatusNotFound {
			t.Errorf("%s: %d %s", way.name, a.status, a.body)
		}
		kept++
		if way.method == http.MethodGet || strings.Contains(way.name, "/Get") || strings.Contains(way.name, "/List") || strings.HasPrefix(way.name, "graphql Query") || kind != "application/json" {
			if way.path == "/api/v1/watch" || strings.HasSuffix(way.path, "/events") { // one wants a WebSocket, the other ends when all has ended
				continue
			}
			if strings.Contains(s.send(way.method, path, body, "Content-Type", kind).body, canary) {
				seen++
			}
		}
	}
	if t.Logf("%d ways were tried, the admin sees the other repository by %d", kept, seen); seen < 20 {
		t.Errorf("the admin sees the other repository by %d ways only", seen)
	}
	conn, response, err := websocket.Dial(t.Context(), s.url+"/api/v1/watch?run="+hidden.ID, &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {bearer}}}) //nolint:bodyclose // Dial has closed it
	if err == nil {
		_ = conn.CloseNow()
	}
	if response == nil || response.StatusCode != http.StatusNotFound {
		t.Errorf("a socket to the other's run: %v", err)
	}
}
