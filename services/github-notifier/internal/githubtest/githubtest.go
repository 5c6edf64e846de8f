// Package githubtest is a GitHub for tests: it records the commit statuses that it is told, and answers as a test wants.
package githubtest

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

// Call is one commit status that somebody asked for.
type Call struct {
	Path          string
	Authorization string
	At            time.Time

	State       string `json:"state"`
	Context     string `json:"context"`
	Description string `json:"description"`
	TargetURL   string `json:"target_url"`
}

// Answer answers one call. It may take its time.
type Answer func(http.ResponseWriter, *http.Request)

// Server is a GitHub on a loopback address.
type Server struct {
	URL     string
	arrived chan Call

	mu       sync.Mutex
	answers  []Answer
	calls    []Call
	flying   map[string]int // calls in flight, by path and context
	together int
}

// New starts a GitHub that gives these answers, one to each call in the order of arrival, and Created from then on. It
// stops when the test ends; an answer must not outlive it.
func New(t testing.TB, answers ...Answer) *Server {
	t.Helper()
	s := &Server{answers: answers, flying: map[string]int{}, arrived: make(chan Call, 10_000)}
	server := httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(server.Close)
	s.URL = server.URL
	return s
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	call := Call{Path: r.URL.Path, Authorization: r.Header.Get("Authorization"), At: time.Now()}
	body, err := io.ReadAll(r.Body)
	if err != nil || r.Method != http.MethodPost || json.Unmarshal(body, &call) != nil {
		http.Error(w, `{"message": "Problems parsing JSON"}`, http.StatusBadRequest)
		return
	}
	place := call.Path + " " + call.Context
	answer := Created

	s.mu.Lock()
	s.calls = append(s.calls, call)
	if len(s.answers) > 0 {
		answer, s.answers = s.answers[0], s.answers[1:]
	}
	s.flying[place]++
	s.together = max(s.together, s.flying[place])
	s.mu.Unlock()
	s.arrived <- call

	land := sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.flying[place]--
	})
	defer land()
	answer(&landing{w, land}, r)
}

// landing ends the flight as the answer begins: whoever reads it may call again at once.
type landing struct {
	http.ResponseWriter
	land func()
}

func (l *landing) WriteHeader(code int)        { l.land(); l.ResponseWriter.WriteHeader(code) }
func (l *landing) Unwrap() http.ResponseWriter { return l.ResponseWriter }

// Next waits for the next call to arrive.
func (s *Server) Next(t testing.TB) Call {
	t.Helper()
	select {
	case call := <-s.arrived:
		return call
	case <-time.After(20 * time.Second): // far above what anything here takes
		t.Fatal("GitHub was not called within 20s")
		panic("unreachable")
	}
}

// Calls returns all calls so far.
func (s *Server) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Call(nil), s.calls...)
}

// Together is the most calls that were ever in flight at once for one context of one commit.
func (s *Server) Together() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.together
}

// Created is GitHub's answer to a good status.
func Created(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	_, _ = io.WriteString(w, `{"id": 1, "state": "success"}`)
}

// Status answers with a code, a body, and header names and values in turn.
func Status(code int, body string, header ...string) Answer {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}
}

// After answers once the channel is closed, or the caller has gone.
func After(c <-chan struct{}, answer Answer) Answer {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-c:
		case <-r.Context().Done():
		}
		answer(w, r)
	}
}

// Hang never answers; it ends when the caller goes away.
func Hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// Stall begins to answer, and hangs.
func Stall(w http.ResponseWriter, r *http.Request) {
	w.WriteHeader(http.StatusCreated)
	_, _ = io.WriteString(w, `{"id": `)
	_ = http.NewResponseController(w).Flush()
	<-r.Context().Done()
}

// Reset breaks the connection off.
func Reset(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err) // HTTP/1.1 can be hijacked
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // RST instead of FIN
	}
	_ = conn.Close()
}
