package gateway_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/runs"
)

// The seeds run as ordinary tests; `make fuzz` goes on from them. None of the targets may ever see a panic or a 5xx; what is refused
// leaves no run, and what is accepted is stored as it was sent.

// fuzzed is a gateway for a target. Its problems and runs are looked at after each input.
func fuzzed(f *testing.F) *fuzzServer {
	f.Helper()
	db := jobstest.New(f)
	url, _ := serve(f, db.Open(f, "api-gateway"))
	return &fuzzServer{db, url}
}

type fuzzServer struct {
	db  *jobstest.Database
	url string
}

// ask sends a request and returns its status; 0 when it cannot even be sent.
func (s *fuzzServer) ask(t *testing.T, method, path, body string, headers ...string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		return 0
	}
	request.Header.Set("Authorization", "Bearer "+token)
	set(headers)(request.Header)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0 // a header that net/http's client does not send
	}
	_ = response.Body.Close()
	if response.StatusCode >= http.StatusInternalServerError {
		t.Errorf("%s %s: %d", method, path, response.StatusCode)
	}
	return response.StatusCode
}

func (s *fuzzServer) runs(t *testing.T) int64 {
	t.Helper()
	return jobstest.Value[int64](t, s.db, "SELECT count(*) FROM ci_runs")
}

func FuzzRunBody(f *testing.F) {
	for _, test := range hostileBodies() {
		if test.path == "/api/v1/runs" && len(test.body) < 1<<10 {
			f.Add(test.body)
		}
	}
	f.Add(`{"repository":"` + goodURL + `","ref":"main","sha":"` + strings.Repeat("a1", 20) + `"}`)
	f.Add(`{"ref":null,"repository":"file:///srv/git/x"}`)
	s := fuzzed(f)
	f.Fuzz(func(t *testing.T, body string) {
		before := s.runs(t)
		status := s.ask(t, "POST", "/api/v1/runs", body, "Content-Type", "application/json")
		stored := s.runs(t) - before
		if (status == http.StatusCreated) != (stored == 1) || stored > 1 {
			t.Fatalf("%d, and %d runs are stored", status, stored)
		}
		if stored == 0 {
			return
		}
		var sent struct{ Repository, Ref, SHA string }
		decode(t, body, &sent)
		repository, err := runs.Repository(sent.Repository)
		same := jobstest.Value[bool](t, s.db, "SELECT coalesce(ref, '') = $1 AND coalesce(head_sha, '') = lower($2) AND repository = $3 FROM ci_runs ORDER BY id DESC LIMIT 1",
			sent.Ref, sent.SHA, repository)
		if !same || err != nil {
			t.Errorf("it is stored otherwise: %s", body)
		}
	})
}

func FuzzCursor(f *testing.F) {
	for _, test := range hostileTargets() {
		if cursor, is := strings.CutPrefix(test.path, "/api/v1/runs?cursor="); is && len(cursor) < 1<<10 {
			f.Add(cursor)
		}
	}
	f.Add("cnVuczox")
	s := fuzzed(f)
	f.Fuzz(func(t *testing.T, cursor string) {
		for _, list := range []string{"runs", "repositories", "approvals", "tokens"} {
			s.ask(t, "GET", "/api/v1/"+list+"?cursor="+url.QueryEscape(cursor), "")
		}
	})
}

func FuzzAuthorization(f *testing.F) {
	for _, seed := range []string{"", "Bearer", "Bearer ", "Bearer  " + token, "bearer " + token, "Basic", "Basic !!!", "Basic Og==", "Bearer lst_", "Bearer lst_\u00e4", "Bearer lst_' OR 1=1 --", "Digest username=x", token} {
		f.Add(seed)
	}
	s := fuzzed(f)
	f.Fuzz(func(t *testing.T, credentials string) {
		scheme, secret, _ := strings.Cut(strings.TrimSpace(credentials), " ")
		if strings.EqualFold(scheme, "Bearer") && secret == token {
			return
		}
		before := s.runs(t)
		status := s.ask(t, "POST", "/api/v1/runs", `{"repository":"`+goodURL+`"}`, "Content-Type", "application/json", "Authorization", credentials)
		if status == http.StatusCreated || s.runs(t) != before {
			t.Errorf("%q may start a run: %d", credentials, status)
		}
	})
}

func FuzzLastEventID(f *testing.F) {
	for _, test := range hostileTargets() {
		if len(test.headers) == 2 && test.headers[0] == "Last-Event-ID" && len(test.headers[1]) < 1<<10 {
			f.Add(strings.NewReplacer("{run}", "1", "{job}", "1").Replace(test.headers[1]))
		}
	}
	f.Add("1:1,1.1.0,end")
	s := fuzzed(f)
	s.db.Exec(f, "INSERT INTO ci_jobs (repository, status, status_change_time) VALUES ($1, 'new', now())", goodURL)
	f.Fuzz(func(t *testing.T, last string) {
		if strings.TrimSpace(last) == "" {
			return // from the beginning: the stream goes on
		}
		s.ask(t, "GET", "/api/v1/runs/1/events?logs=1", "", "Last-Event-ID", last)
	})
}
