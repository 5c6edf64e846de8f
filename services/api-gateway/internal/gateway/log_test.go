package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/gateway"
)

func TestLogIsTheBytesAsStored(t *testing.T) {
	t.Parallel()
	s := start(t)
	jobID := s.plan(s.create())
	text := make([]byte, 700<<10) // more than one piece, and no text at all
	_, _ = rand.Read(text)
	w := s.claim(jobID)
	if _, err := w.Write(text); err != nil {
		t.Fatal(err)
	}
	s.finish(jobID, jobs.StatusSuccess, w)

	a := s.send("GET", "/api/v1/jobs/"+jobID+"/log", "")
	if a.status != http.StatusOK || a.header.Get("Content-Type") != "text/plain; charset=utf-8" || !bytes.Equal([]byte(a.body), text) {
		t.Errorf("%d %s, %d bytes, want %d", a.status, a.header.Get("Content-Type"), len(a.body), len(text))
	}
	if a := s.send("GET", "/api/v1/jobs/"+jobID+"/log?attempt=1", ""); a.status != http.StatusOK || a.body != "" {
		t.Errorf("the initializer's attempt: %d %q", a.status, a.body)
	}
	if a := s.send("GET", "/api/v1/jobs/"+jobID+"/log?attempt=3", ""); a.status != http.StatusNotFound || a.problem(t).Field != "attempt" {
		t.Errorf("an attempt that was not: %d %s", a.status, a.body)
	}
	if a := s.send("GET", "/api/v1/jobs/"+jobID+"/log?follow=1", ""); !bytes.Equal([]byte(a.body), text) {
		t.Errorf("followed after its end: %d bytes", len(a.body))
	}
	if a := s.send("HEAD", "/api/v1/jobs/"+jobID+"/log?follow=1", ""); a.status != http.StatusOK || a.body != "" {
		t.Errorf("HEAD: %d %q", a.status, a.body)
	}
}

func TestFollowedLogComesAsItIsWritten(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *gateway.Options) { o.AnonymousRead = true })
	created := s.create()
	jobID := created.Jobs[0].ID
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	response := s.open(ctx, "GET", "/api/v1/jobs/"+jobID+"/log?follow=1", "") // before anybody has planned it
	defer func() { _ = response.Body.Close() }()
	lines := bufio.NewReader(response.Body)
	next := func(want string) {
		t.Helper()
		line, err := lines.ReadString('\n')
		if err != nil || line != want {
			t.Fatalf("line %q, error %v, want %q", line, err, want)
		}
	}

	s.plan(created)
	w := s.claim(jobID)
	_, _ = fmt.Fprintln(w, "hello")
	next("hello\n") // nothing has ended yet
	_, _ = fmt.Fprintln(w, "again")
	next("again\n")
	s.finish(jobID, jobs.StatusInitialized, w) // its worker died: it is tried again

	named := s.send("GET", "/api/v1/jobs/"+jobID+"/log?follow=1&attempt=2", "")
	if named.body != "hello\nagain\n" {
		t.Errorf("attempt 2, followed by its number: %q", named.body)
	}
	w = s.claim(jobID)
	_, _ = io.WriteString(w, "the second time")
	next("\n")
	next("=== attempt 3 ===\n")
	s.finish(jobID, jobs.StatusFailure, w)
	rest, err := io.ReadAll(lines)
	if err != nil || string(rest) != "the second time" {
		t.Errorf("the rest is %q, error %v", rest, err)
	}
}

func TestFollowedLogOfAJobThatNeverRanEnds(t *testing.T) {
	t.Parallel()
	s := start(t)
	created := s.create()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	response := s.open(ctx, "GET", "/api/v1/jobs/"+created.Jobs[0].ID+"/log?follow=1", "")
	defer func() { _ = response.Body.Close() }()
	s.send("POST", "/api/v1/runs/"+created.ID+"/cancel", "")
	if rest, err := io.ReadAll(response.Body); err != nil || len(rest) != 0 {
		t.Errorf("%q, error %v", rest, err)
	}
}

func TestStoppingBreaksFollowedLogsOff(t *testing.T) {
	t.Parallel()
	s := start(t)
	created := s.create()
	jobID := s.plan(created)
	w := s.claim(jobID)
	_, _ = fmt.Fprintln(w, "hello")
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	response := s.open(ctx, "GET", "/api/v1/jobs/"+jobID+"/log?follow=1", "")
	defer func() { _ = response.Body.Close() }()
	if line, err := bufio.NewReader(response.Body).ReadString('\n'); err != nil || line != "hello\n" {
		t.Fatalf("%q %v", line, err)
	}
	s.stop()
	if _, err := io.ReadAll(response.Body); err == nil {
		t.Error("a log that was broken off looks like a whole one")
	}
	s.finish(jobID, jobs.StatusSuccess, w)
}

func TestDamagedLogIsNotAWholeOne(t *testing.T) {
	t.Parallel()
	s := start(t)
	jobID := s.plan(s.create())
	w := s.claim(jobID)
	_, _ = io.WriteString(w, strings.Repeat("x", 200<<10))
	s.finish(jobID, jobs.StatusSuccess, w)
	s.db.Exec(t, "UPDATE ci_logs SET data = 'not zstd' WHERE seq = 2")
	for _, query := range []string{"", "?follow=1"} {
		request, _ := http.NewRequestWithContext(t.Context(), "GET", s.url+"/api/v1/jobs/"+jobID+"/log"+query, nil)
		request.Header.Set("Authorization", "Bearer "+token)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			continue // broken off before its first byte
		}
		_, err = io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err == nil && response.StatusCode == http.StatusOK {
			t.Errorf("log%s: no error", query)
		}
	}
}
