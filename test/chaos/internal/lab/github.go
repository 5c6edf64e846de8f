package lab

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/lockstep-ci/lockstep/test/chaos/internal/audit"
)

// github stands in for GitHub: it takes statuses, keeps them in order, and can be made to misbehave.
type github struct {
	*httptest.Server

	mu    sync.Mutex
	mood  string // how it answers; empty: well
	calls []audit.Call
	ends  chan struct{} // closed when whoever is kept waiting may go
}

// The moods of GitHub.
var moods = []string{"GitHub answers 500", "GitHub answers 429", "GitHub does not answer", "GitHub hangs up after it has taken a status", "GitHub is slow"}

func newGitHub() *github {
	g := &github{ends: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /repos/{owner}/{name}/statuses/{sha}", g.createStatus)
	g.Server = httptest.NewServer(mux)
	return g
}

func (g *github) feel(mood string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mood = mood
	if mood == "" {
		close(g.ends)
		g.ends = make(chan struct{})
	}
}

func (g *github) take(r *http.Request) bool {
	var status struct {
		State     string `json:"state"`
		Context   string `json:"context"`
		TargetURL string `json:"target_url"`
	}
	if err := json.NewDecoder(r.Body).Decode(&status); err != nil { // the caller died while it spoke
		return false
	}
	id, _ := strconv.ParseInt(status.TargetURL[strings.LastIndexByte(status.TargetURL, '/')+1:], 10, 64)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calls = append(g.calls, audit.Call{At: time.Now(), SHA: r.PathValue("sha"), Context: status.Context, State: status.State, Run: id})
	return true
}

func (g *github) createStatus(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	mood, ends := g.mood, g.ends
	g.mu.Unlock()
	code := http.StatusCreated
	switch mood {
	case moods[0]:
		code = http.StatusInternalServerError
	case moods[1]:
		w.Header().Set("Retry-After", "1")
		code = http.StatusTooManyRequests
	case moods[2]: // it took the status, or not, and says nothing
		if r.ContentLength%2 == 0 && !g.take(r) {
			return
		}
		select {
		case <-ends:
		case <-r.Context().Done():
		}
		panic(http.ErrAbortHandler)
	case moods[3]:
		g.take(r)
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			if tcp, ok := conn.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0) // a reset, no end
			}
			_ = conn.Close()
		}
		return
	case moods[4]:
		select {
		case <-time.After(700 * time.Millisecond):
		case <-r.Context().Done():
		}
	}
	if code == http.StatusCreated && !g.take(r) {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(`{"id":1}`))
}

func (g *github) recorded() []audit.Call {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]audit.Call(nil), g.calls...)
}
