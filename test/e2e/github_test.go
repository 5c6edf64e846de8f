package e2e_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// status is a commit status as GitHub's API takes it (docs.github.com, REST, "Create a commit status").
type status struct {
	State       string `json:"state"`
	TargetURL   string `json:"target_url"`
	Description string `json:"description"`
	Context     string `json:"context"`

	repository, sha, authorization string
}

// github stands in for GitHub: it records the statuses it is told, in order.
type github struct {
	*httptest.Server
	t testing.TB

	mu       sync.Mutex
	statuses []status
	held     chan struct{} // while it is open, replies wait
	answer   int           // instead of 201
}

func newGitHub(t testing.TB) *github {
	g := &github{t: t}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /repos/{owner}/{name}/statuses/{sha}", g.createStatus)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("GitHub was asked for %s %s", r.Method, r.URL)
		http.NotFound(w, r)
	})
	g.Server = httptest.NewServer(mux)
	t.Cleanup(g.Close)
	return g
}

func (g *github) createStatus(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil { // the caller died while it spoke
		return
	}
	one := status{
		repository: r.PathValue("owner") + "/" + r.PathValue("name"), sha: r.PathValue("sha"),
		authorization: r.Header.Get("Authorization"),
	}
	if err := json.Unmarshal(body, &one); err != nil {
		g.t.Errorf("GitHub was sent a status that is no JSON: %s", body)
	}
	g.mu.Lock()
	held, answer := g.held, g.answer
	if answer == 0 {
		g.statuses = append(g.statuses, one)
	}
	g.mu.Unlock()
	if held != nil {
		select {
		case <-held:
		case <-r.Context().Done():
			return
		}
	}
	w.Header().Set("Content-Type", "application/json")
	if answer != 0 {
		w.WriteHeader(answer)
		_, _ = io.WriteString(w, `{"message":"Server Error"}`)
		return
	}
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(map[string]any{"id": 1, "state": one.State, "context": one.Context, "description": one.Description, "target_url": one.TargetURL})
}

// hold lets GitHub take statuses and keep its replies until letGo.
func (g *github) hold() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held = make(chan struct{})
}

func (g *github) letGo() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held != nil {
		close(g.held)
		g.held = nil
	}
}

// fail makes GitHub answer with this code and record nothing; 0 ends that.
func (g *github) fail(code int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.answer = code
}

// of lists the statuses of a commit's context, oldest first.
func (g *github) of(sha, context string) []status {
	g.mu.Lock()
	defer g.mu.Unlock()
	var found []status
	for _, one := range g.statuses {
		if one.sha == sha && one.Context == context {
			found = append(found, one)
		}
	}
	return found
}

// states is what of says, in short: "pending success".
func (g *github) states(sha, context string) string {
	var states []string
	for _, one := range g.of(sha, context) {
		states = append(states, one.State)
	}
	return strings.Join(slices.Compact(states), " ")
}

// await waits until the last status of a commit's context has this state, and returns it.
func (g *github) await(sha, context, state string) status {
	g.t.Helper()
	var last status
	eventually(g.t, 20*time.Second, "GitHub's last status of "+context+" is "+state, func() bool {
		all := g.of(sha, context)
		if len(all) > 0 {
			last = all[len(all)-1]
		}
		return last.State == state
	})
	return last
}
