package gateway_test

import (
	"encoding/json"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

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
