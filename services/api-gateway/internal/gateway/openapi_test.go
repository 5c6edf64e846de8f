package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
)

// described is the document that the gateway serves, sharpened: an answer may have no field that it does not name.
var described = sync.OnceValues(func() (routers.Router, error) {
	text, err := os.ReadFile("../openapi/openapi.json")
	if err != nil {
		return nil, err
	}
	doc, err := openapi3.NewLoader().LoadFromData(text)
	if err != nil {
		return nil, err
	}
	no := false
	for _, schema := range doc.Components.Schemas {
		schema.Value.AdditionalProperties = openapi3.AdditionalProperties{Has: &no}
	}
	openapi3filter.RegisterBodyDecoder("text/event-stream", openapi3filter.RegisteredBodyDecoder("text/plain"))
	return gorillamux.NewRouter(doc)
})

// mustBeDescribed holds an answer of the API against the document, and the request when it was served.
func mustBeDescribed(t *testing.T, request *http.Request, body string, a answer) {
	t.Helper()
	router, err := described()
	if err != nil {
		t.Fatalf("read openapi.json: %v", err)
	}
	method, path := request.Method, request.URL.Path
	if !strings.HasPrefix(path, "/api/v1/") {
		return
	}
	if a.header.Get("X-Request-Id") == "" { // net/http has refused what is no request, or far too much
		return
	}
	route, parameters, err := router.FindRoute(request)
	if err != nil {
		if a.status != http.StatusNotFound && a.status != http.StatusMethodNotAllowed && method != http.MethodHead {
			t.Errorf("%s %s answers %d and is not described: %v", method, path, a.status, err)
		}
		return
	}
	asked := &openapi3filter.RequestValidationInput{
		Request: request, PathParams: parameters, Route: route,
		Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc},
	}
	if a.status < 300 {
		request.Body = io.NopCloser(strings.NewReader(body)) // once more
		if err := openapi3filter.ValidateRequest(context.Background(), asked); err != nil {
			t.Errorf("%s %s was served and is described otherwise: %v", method, request.URL, err)
		}
	}
	input := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: asked,
		Status:                 a.status,
		Header:                 a.header,
		Body:                   io.NopCloser(bytes.NewReader([]byte(a.body))),
		Options:                &openapi3filter.Options{IncludeResponseStatus: true},
	}
	if err := openapi3filter.ValidateResponse(context.Background(), input); err != nil {
		t.Errorf("%s %s answers %d not as it is described: %v", method, path, a.status, err)
	}
}

func TestTheDocumentIsServedAndSound(t *testing.T) {
	t.Parallel()
	s := start(t)
	a := s.send("GET", "/api/v1/openapi.json", "", "Authorization", "")
	doc, err := openapi3.NewLoader().LoadFromData([]byte(a.body))
	if err != nil || a.status != http.StatusOK {
		t.Fatalf("%d, error %v", a.status, err)
	}
	if err := doc.Validate(t.Context(), openapi3.EnableExamplesValidation()); err != nil {
		t.Error(err)
	}
	for path, item := range doc.Paths.Map() {
		for method, operation := range item.Operations() {
			if operation.Summary == "" || operation.Description == "" || operation.OperationID == "" || len(operation.Tags) != 1 || operation.Security == nil {
				t.Errorf("%s %s: no title, description, id or tag, or nothing of who may call it", method, path)
			}
			for status, answer := range operation.Responses.Map() {
				if (status == "default" || status >= "4") && answer.Value.Content["application/problem+json"] == nil {
					t.Errorf("%s %s answers %s with no problem", method, path, status)
				}
			}
			one := strings.ReplaceAll(path, "{id}", "1")
			if got := s.send(method, one, "", "Authorization", "Bearer wrong"); got.status == http.StatusMethodNotAllowed || got.status == http.StatusForbidden || strings.Contains(got.body, "no such route") {
				t.Errorf("%s %s is described and answers %d %s", method, one, got.status, got.body)
			}
		}
	}
	for _, path := range routesOf(t) {
		if doc.Paths.Value(path) == nil {
			t.Errorf("%s is served and not described", path)
		}
	}
	var plain map[string]any
	decode(t, a.body, &plain)
	for name, schema := range plain["components"].(map[string]any)["schemas"].(map[string]any) {
		change := strings.HasSuffix(name, "Change") // any of its fields may be left out
		if text, _ := json.Marshal(schema); !change && !strings.Contains(string(text), `"required"`) {
			t.Errorf("%s says of no field that it is there", name)
		}
	}
}

// routesOf are the paths of the API that the gateway serves.
func routesOf(t *testing.T) []string {
	t.Helper()
	source, err := os.ReadFile("gateway.go")
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, found := range regexp.MustCompile(`mux\.Handle\("[A-Z]+ (/api/[^"]+)"`).FindAllSubmatch(source, -1) {
		paths = append(paths, string(found[1]))
	}
	if len(paths) < 10 {
		t.Fatalf("routes are declared in another way: only %v found", paths)
	}
	return paths
}
