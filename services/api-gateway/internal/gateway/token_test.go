package gateway_test

import (
	"bufio"
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/auth"
)

// issue makes a token as another gateway would; it returns the header that sends it, and its id.
func (s *server) issue(secret, scope string, repository any) (header string, id int64) {
	s.t.Helper()
	id = jobstest.Value[int64](s.t, s.db, `INSERT INTO ci_tokens (name, hash, hint, scope, repository, created_by)
		VALUES ($1, $2, 'lst_', $3, $4, 'admin') RETURNING id`, secret, auth.Hash(secret), scope, repository)
	return "Bearer " + secret, id
}

func TestATokenMayWhatItsScopeSays(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.create()
	for scope, want := range map[string][2]int{"read": {200, 403}, "run": {200, 201}, "admin": {200, 201}} {
		header, _ := s.issue(auth.Prefix+scope, scope, nil)
		if a := s.send("GET", "/api/v1/runs", "", "Authorization", header); a.status != want[0] {
			t.Errorf("%s reads: %d %s", scope, a.status, a.body)
		}
		if a := s.send("POST", "/api/v1/runs", `{"repository":"https://example.com/owner/name"}`, "Authorization", header); a.status != want[1] {
			t.Errorf("%s writes: %d %s", scope, a.status, a.body)
		}
	}
}

func TestATokenEndsAtOnce(t *testing.T) {
	t.Parallel()
	s := start(t)
	for name, end := range map[string]string{
		"revoked": "UPDATE ci_tokens SET revoked_at = now() WHERE id = $1",
		"expired": "UPDATE ci_tokens SET expires_at = now() WHERE id = $1",
		"deleted": "DELETE FROM ci_tokens WHERE id = $1",
	} {
		header, id := s.issue(auth.Prefix+name, "read", nil)
		if a := s.send("GET", "/api/v1/runs", "", "Authorization", header); a.status != http.StatusOK {
			t.Errorf("a token that is to be %s: %d", name, a.status)
		}
		s.db.Exec(t, end, id)
		if a := s.send("GET", "/api/v1/runs", "", "Authorization", header); a.status != http.StatusUnauthorized || a.problem(t).Code != "unauthorized" {
			t.Errorf("a token that was %s: %d %s", name, a.status, a.body)
		}
	}
}

func TestAStreamEndsWithItsToken(t *testing.T) {
	t.Parallel()
	s := start(t)
	run := s.create()
	header, id := s.issue(auth.Prefix+"streams", "read", nil)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()

	conn, _, err := websocket.Dial(ctx, s.url+"/api/v1/watch?run="+run.ID, &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {header}}}) //nolint:bodyclose // a WebSocket has none
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.CloseNow() }()
	events := s.open(ctx, "GET", "/api/v1/runs/"+run.ID+"/events", "", "Authorization", header)
	defer func() { _ = events.Body.Close() }()
	log := s.open(ctx, "GET", "/api/v1/jobs/"+run.Jobs[0].ID+"/log?follow=1", "", "Authorization", header)
	defer func() { _ = log.Body.Close() }()
	if _, _, err := conn.Read(ctx); err != nil {
		t.Fatalf("the run as it is: %v", err)
	}
	s.db.Exec(t, "UPDATE ci_tokens SET revoked_at = now() WHERE id = $1", id)

	_, told, err := conn.Read(ctx)
	if err != nil || !strings.Contains(string(told), `"code":"unauthorized"`) {
		t.Errorf("the socket is told %s, %v", told, err)
	}
	if _, _, err := conn.Read(ctx); websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
		t.Errorf("the socket ends with %v", err)
	}
	for name, answer := range map[string]*http.Response{"events": events, "log": log} {
		for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
			if strings.Contains(lines.Text(), "end") {
				t.Errorf("%s: %s", name, lines.Text())
			}
		}
		if ctx.Err() != nil {
			t.Fatalf("%s go on", name)
		}
	}
}
