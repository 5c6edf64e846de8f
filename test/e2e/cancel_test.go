package e2e_test

import (
	"net/http"
	"testing"
	"time"
)

func TestCancellingEndsARunWithAllThatItStarted(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.more["runner"] = []string{"CONCURRENCY=1"}
	s.start()
	repo := s.stubborn("octo/stubborn")
	repo.commit(map[string]string{".github/workflows/more.yml": `
name: more
on: push
jobs:
  later:
    runs-on: ubuntu-latest
    needs: last
    steps:
      - run: echo never
  last:
    runs-on: ubuntu-latest
    steps:
      - run: until [ -e ` + s.file("first") + ` ]; do sleep 0.02; done
`})
	id := s.push(repo)
	s.lives("step")
	s.lives("daemon.1")

	s.ask(http.MethodPost, "/api/v1/runs/"+id+"/cancel", nil, http.StatusAccepted, nil)
	r := s.finish(id, "cancelled")
	s.gone("step", time.Second)
	s.gone("daemon.1", time.Second)
	if j := s.job(r, "ci / test"); j.Status != "cancelled" || j.Reason == "" {
		t.Errorf("the running job is %s because %q, want cancelled and a reason", j.Status, j.Reason)
	}
	if j := s.job(r, "more / later"); j.Status != "cancelled" {
		t.Errorf("the waiting job is %s, want cancelled", j.Status)
	}
	s.github.await(repo.head, "lockstep/ci / test", "error") // GitHub has no word for cancelled
	s.ask(http.MethodPost, "/api/v1/runs/"+id+"/cancel", nil, http.StatusConflict, nil)

	var again run
	s.ask(http.MethodPost, "/api/v1/runs/"+id+"/rerun", nil, http.StatusCreated, &again, "Idempotency-Key", "again")
	if again.ID == id || again.Repository != r.Repository || again.Event != "push" {
		t.Errorf("the rerun of %s is %s", id, encode(again))
	}
	if done := s.finish(again.ID, "success"); done.HeadSHA != repo.head {
		t.Errorf("the rerun is of %s, want %s", done.HeadSHA, repo.head)
	}
	s.finish(id, "cancelled") // final states have no exit
	s.github.await(repo.head, "lockstep/ci / test", "success")
}
