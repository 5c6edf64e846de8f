package gateway

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

func TestPanicIsAnsweredAndLoggedOnce(t *testing.T) {
	t.Parallel()
	core, logged := observer.New(zapcore.DebugLevel)
	server := httptest.NewServer(front(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/begun" {
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic("what should not be")
		}
		panic(errors.New("what should not be"))
	}), zap.New(core)))
	t.Cleanup(server.Close)
	server.Config.ErrorLog = zap.NewStdLog(zap.New(core))

	get := func(path string) (status int, id, text string, err error) {
		request, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+path, nil)
		request.Header.Set("X-Request-Id", "the-client's") // an apostrophe: it is not kept
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = response.Body.Close() }()
		body, err := io.ReadAll(response.Body)
		return response.StatusCode, response.Header.Get("X-Request-Id"), string(body), err
	}
	status, id, text, err := get("/")
	var p struct {
		Code      string
		RequestID string `json:"request_id"`
	}
	if err := errors.Join(err, json.Unmarshal([]byte(text), &p)); err != nil || status != http.StatusInternalServerError ||
		p.Code != "internal" || p.RequestID == "" || p.RequestID != id || strings.Contains(text, "should not") {
		t.Errorf("%d %s, error %v", status, text, err)
	}
	entries := logged.TakeAll()
	if len(entries) != 1 || entries[0].ContextMap()["request_id"] != p.RequestID || !strings.Contains(entries[0].ContextMap()["stack"].(string), "front_test.go") {
		t.Errorf("logged: %v", entries)
	}
	if _, _, text, err := get("/begun"); err == nil || strings.Contains(text, "internal") {
		t.Errorf("half an answer ends with %q, error %v", text, err)
	}
	if entries := logged.TakeAll(); len(entries) != 1 {
		t.Errorf("logged: %v", entries)
	}
}
