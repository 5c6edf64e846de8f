package main_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"github.com/vektah/gqlparser/v2/ast"

	lockstepv1 "github.com/lockstep-ci/lockstep/services/api-gateway/gen/lockstep/v1"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/graph/generated"
)

var graphSchema = generated.NewExecutableSchema(generated.Config{}).Schema()

// allOf selects all fields of a type, and of what they hold; not the way back from a job to its run.
func allOf(name string) string {
	var b strings.Builder
	b.WriteString("{")
	for _, f := range graphSchema.Types[name].Fields {
		kind := graphSchema.Types[f.Type.Name()]
		switch {
		case strings.HasPrefix(f.Name, "__"), kind.Name == "Run" && strings.HasSuffix(name, "Job"):
		case kind.Kind == ast.Object:
			b.WriteString(f.Name + allOf(kind.Name) + " ")
		default:
			b.WriteString(f.Name + " ")
		}
	}
	return b.String() + "}"
}

// graphAnswer is what GraphQL said.
type graphAnswer struct {
	Data   map[string]any
	Errors []struct {
		Message    string
		Extensions problem
	}
}

// graphql asks with the token; variables are pairs.
func (g *gateway) graphql(query string, variables ...any) graphAnswer {
	g.t.Helper()
	return g.graphqlAs("Bearer "+token, query, variables...)
}

func (g *gateway) graphqlAs(who, query string, variables ...any) (said graphAnswer) {
	g.t.Helper()
	a := g.send("POST", "/graphql", string(graphRequest(g.t, query, variables...)), "Authorization", who)
	decodeExactly(g.t, a.body, &said)
	return said
}

func graphRequest(t *testing.T, query string, variables ...any) []byte {
	t.Helper()
	values := map[string]any{}
	for i := 0; i < len(variables); i += 2 {
		values[variables[i].(string)] = variables[i+1]
	}
	body, err := json.Marshal(map[string]any{"query": query, "variables": values})
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// decodeExactly keeps numbers as they were written.
func decodeExactly(t *testing.T, text string, into any) {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(into); err != nil {
		t.Errorf("%v in %.500s", err, text)
	}
}

// camel is an answer of REST with the names that GraphQL has.
func camel(t *testing.T, text string) (value any) {
	t.Helper()
	decodeExactly(t, text, &value)
	var rename func(any) any
	rename = func(value any) any {
		switch v := value.(type) {
		case []any:
			for i := range v {
				v[i] = rename(v[i])
			}
		case map[string]any:
			renamed := map[string]any{}
			for name, inner := range v {
				renamed[camelName(name)] = rename(inner)
			}
			return renamed
		}
		return value
	}
	return rename(value)
}

func camelName(name string) string {
	if name == "" {
		return ""
	}
	words := strings.Split(name, "_")
	for i := range words[1:] {
		words[i+1] = strings.ToUpper(words[i+1][:1]) + words[i+1][1:]
	}
	return strings.Join(words, "")
}

// problem is the one error of an answer in the words of REST.
func (a graphAnswer) problem(t *testing.T) problem {
	t.Helper()
	if len(a.Errors) != 1 {
		t.Errorf("%d errors: %+v", len(a.Errors), a)
		return problem{}
	}
	p := a.Errors[0].Extensions
	p.Detail = a.Errors[0].Message
	return p
}

// asPage is a connection of runs as REST has it.
func asPage(data map[string]any) any {
	connection := data["runs"].(map[string]any)
	page := map[string]any{"nextCursor": nil}
	list := []any{}
	for _, edge := range connection["edges"].([]any) {
		list = append(list, edge.(map[string]any)["node"])
	}
	page["runs"] = list
	if info := connection["pageInfo"].(map[string]any); info["hasNextPage"] == true {
		page["nextCursor"] = info["endCursor"]
	}
	return page
}

// asJob is a job as REST has it.
func asJob(data map[string]any) any {
	job := data["job"].(map[string]any)
	run := job["run"].(map[string]any)
	delete(job, "run")
	return map[string]any{"runId": run["id"], "job": job}
}

// only is the one root field.
func only(data map[string]any) any {
	for _, value := range data {
		return value
	}
	return nil
}

// subscriptions is a connection that speaks graphql-transport-ws.
type subscriptions struct {
	g    *gateway
	conn *websocket.Conn
}

// graphMessage is one message of either side.
type graphMessage struct {
	Type    string          `json:"type"`
	ID      string          `json:"id,omitempty"`
	Payload json.RawMessage `json:"payload,omitempty"`
}

func (g *gateway) dialGraphQL(headers ...string) (*subscriptions, error) {
	header := http.Header{"Authorization": {"Bearer " + token}}
	for i := 0; i < len(headers); i += 2 {
		header.Set(headers[i], headers[i+1])
	}
	conn, _, err := websocket.Dial(g.context(), "ws://"+g.addr+"/graphql", &websocket.DialOptions{HTTPHeader: header, Subprotocols: []string{"graphql-transport-ws"}}) //nolint:bodyclose // Dial closes it
	if err != nil {
		return nil, err
	}
	conn.SetReadLimit(1 << 20)
	g.t.Cleanup(func() { _ = conn.CloseNow() })
	return &subscriptions{g, conn}, nil
}

// greeted is a connection behind its greeting.
func (g *gateway) greeted() (*subscriptions, error) {
	s, err := g.dialGraphQL()
	if err != nil {
		return nil, err
	}
	if err := s.say(graphMessage{Type: "connection_init"}); err != nil {
		return nil, err
	}
	if m, err := s.hear(); err != nil || m.Type != "connection_ack" {
		return nil, fmt.Errorf("%s (%w)", m.Type, err)
	}
	return s, nil
}

func (s *subscriptions) say(m graphMessage) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return s.conn.Write(s.g.context(), websocket.MessageText, text)
}

func (s *subscriptions) subscribe(id, query string) error {
	return s.say(graphMessage{Type: "subscribe", ID: id, Payload: graphRequest(s.g.t, query)})
}

func (s *subscriptions) hear() (m graphMessage, err error) {
	_, text, err := s.conn.Read(s.g.context())
	if err != nil {
		return m, err
	}
	return m, json.Unmarshal(text, &m)
}

// refusal hears what is wrong with a subscription.
func (s *subscriptions) refusal() (p problem, err error) {
	m, err := s.hear()
	if err != nil {
		return p, err
	}
	if m.Type != "error" {
		return p, fmt.Errorf("%s %s", m.Type, m.Payload)
	}
	var said graphAnswer
	decodeExactly(s.g.t, `{"errors":`+string(m.Payload)+"}", &said)
	return said.problem(s.g.t), nil
}

// told is a piece of a log in the words of the definition.
type graphPiece struct {
	JobID   string `json:"jobId"`
	Attempt int32
	Offset  int64
	Data    []byte
	Ended   bool
}

// graphqlWatch watches until the run has ended, and its log.
func (g *gateway) graphqlWatch(run, job string, one *watcher) error {
	s, err := g.greeted()
	if err != nil {
		return err
	}
	err = errors.Join(s.subscribe("run", `subscription{runChanged(id:`+strconv.Quote(run)+`)`+allOf("Run")+`}`),
		s.subscribe("log", `subscription{logLines(jobId:`+strconv.Quote(job)+`)`+allOf("LogPiece")+`}`))
	for open := 2; open > 0 && err == nil; {
		var m graphMessage
		m, err = s.hear()
		switch {
		case err != nil:
		case m.Type == "complete":
			open--
		case m.Type != "next" || strings.Contains(string(m.Payload), `"errors"`):
			err = fmt.Errorf("%s %s", m.Type, m.Payload)
		case m.ID == "run":
			var said struct {
				Data struct{ RunChanged json.RawMessage }
			}
			err = json.Unmarshal(m.Payload, &said)
			one.states = append(one.states, string(said.Data.RunChanged))
		default:
			var said struct{ Data struct{ LogLines graphPiece } }
			err = json.Unmarshal(m.Payload, &said)
			piece := said.Data.LogLines
			one.add(&lockstepv1.FollowLogResponse{Attempt: piece.Attempt, Offset: piece.Offset, Data: piece.Data})
		}
	}
	return err
}
