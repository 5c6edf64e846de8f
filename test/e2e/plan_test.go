package e2e_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestJobsWaitForTheirNeedsAndAMatrixFansOut(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.start()
	repo := s.repository("octo/matrix", workflow(`
name: ci
on: [push]
env:
  COLOR: blue
jobs:
  build:
    name: Build ${{ matrix.size }}
    runs-on: ubuntu-latest
    strategy:
      matrix:
        size: [small, large]
    steps:
      - uses: actions/checkout@v4
      - run: echo "built ${{ matrix.size }} in $COLOR"
  lint:
    runs-on: ubuntu-latest
    steps:
      - run: echo linted
  ship:
    needs: [build, lint]
    runs-on: ubuntu-latest
    steps:
      - run: echo "shipped ${{ github.sha }} of ${{ github.ref_name }}"
`))
	r := s.finish(s.push(repo), "success")
	if len(r.Jobs) != 4 {
		t.Fatalf("the run has jobs %s, want two builds, lint and ship", encode(r.Jobs))
	}
	var ship job
	var last time.Time
	for _, j := range r.Jobs {
		switch {
		case strings.Contains(j.Name, "ship"):
			ship = j
		case last.Before(*j.Steps[len(j.Steps)-1].FinishedAt):
			last = *j.Steps[len(j.Steps)-1].FinishedAt
		}
		for _, size := range []string{"small", "large"} {
			if strings.Contains(j.Name, size) && !strings.Contains(s.log(j), "built "+size+" in blue") {
				t.Errorf("the log of %q does not say what it built:\n%s", j.Name, s.log(j))
			}
		}
	}
	if ship.Steps[0].StartedAt.Before(last) {
		t.Errorf("ship started at %s, before what it needs ended at %s", ship.Steps[0].StartedAt, last)
	}
	if log := s.log(ship); !strings.Contains(log, "shipped "+repo.head+" of main") {
		t.Errorf("ship's log says otherwise:\n%s", log)
	}
	for _, j := range r.Jobs {
		s.github.await(repo.head, "lockstep/"+j.Name, "success")
	}
}

func TestAFailingTestFailsTheRunAndSkipsWhatNeedsIt(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.start()
	repo := s.repository("octo/red", workflow(`
name: ci
on: push
jobs:
  test:
    runs-on: ubuntu-latest
    steps:
      - name: Prepare
        run: echo prepared
      - name: Test
        run: |
          echo "--- FAIL: TestParrot: it is dead" >&2
          exit 7
      - name: Celebrate
        run: echo hooray
  deploy:
    needs: test
    runs-on: ubuntu-latest
    steps:
      - run: echo deployed
`))
	r := s.finish(s.push(repo), "failure")
	test, deploy := s.job(r, "ci / test"), s.job(r, "ci / deploy")
	if test.Status != "failure" || deploy.Status != "skipped" {
		t.Errorf("test is %s and deploy %s, want failure and skipped", test.Status, deploy.Status)
	}
	var got []string
	for _, one := range test.Steps {
		code := "-"
		if one.ExitCode != nil {
			code = fmt.Sprint(*one.ExitCode)
		}
		got = append(got, one.Name+" "+one.Status+" "+code)
	}
	if want := "Prepare success 0, Test failure 7, Celebrate skipped -"; strings.Join(got, ", ") != want {
		t.Errorf("the steps are %s, want %s", strings.Join(got, ", "), want)
	}
	if !strings.Contains(deploy.Reason, "ci / test") {
		t.Errorf("deploy was skipped with the reason %q, want one that names what failed", deploy.Reason)
	}
	if log := s.log(test); !strings.Contains(log, "--- FAIL: TestParrot: it is dead") || strings.Contains(log, "hooray") {
		t.Errorf("the log is not that of a failing test:\n%s", log)
	}
	if page := s.page(r.ID); !strings.Contains(page, "--- FAIL: TestParrot: it is dead") {
		t.Errorf("the page does not show the failing step's output:\n%s", page)
	}
	s.github.await(repo.head, "lockstep/ci / test", "failure")
}

// What cannot be run ends with its reason, in every place where somebody would look.
func TestWhatCannotBeRunEndsWithItsReason(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.start()
	const good = "jobs:\n  test:\n    runs-on: ubuntu-latest\n    steps:\n      - run: echo tested\n"

	mistaken := s.repository("octo/mistaken", workflow("name: ci\non: push\njobs:\n  test:\n    runs-on: ubuntu-latest\n    container: alpine\n    steps:\n      - run: echo tested\n"))
	invalid := s.repository("octo/invalid", workflow("name: ci\non: push\njobs:\n  test:\n    runs-on: ubuntu-latest\n    steps:\n      - run: [echo\n"))
	stranger := s.repository("octo/stranger", workflow("name: ci\non: push\njobs:\n  test:\n    runs-on: windows-latest\n    steps:\n      - run: echo tested\n"))
	bare := s.repository("octo/bare", map[string]string{"README.md": "no workflow here"})
	elsewhere := s.repository("octo/elsewhere", workflow("name: ci\non:\n  push:\n    branches: [release/*]\n"+good))
	gone := s.repository("octo/gone", workflow("name: ci\non: push\n"+good))
	gone.name = "octo/moved" // from here on it is asked for where it is not
	forced := s.repository("octo/forced", workflow("name: ci\non: push\n"+good))
	forced.git("reset", "--quiet", "--hard", "HEAD")
	lost := forced.git("commit-tree", "HEAD^{tree}", "-m", "Never pushed")
	forced.git("gc", "--quiet", "--prune=now")

	for _, c := range []struct {
		name, status, reason string
		repo                 *repository
		sha                  string
	}{
		{"a key outside the subset", "failure", ".github/workflows/ci.yml:6:5", mistaken, mistaken.head},
		{"broken YAML", "failure", ".github/workflows/ci.yml:7:14: not YAML", invalid, invalid.head},
		{"no runner with this label", "failure", ".github/workflows/ci.yml:5:14", stranger, stranger.head},
		{"no workflow", "failure", "workflow", bare, bare.head},
		{"no workflow for this event", "skipped", "", elsewhere, elsewhere.head},
		{"no repository", "failure", "no such repository", gone, gone.head},
		{"no such commit", "failure", "commit does not exist", forced, lost},
	} {
		t.Run(c.name, func(t *testing.T) {
			var id string
			if c.sha == lost {
				var r run
				s.ask("POST", "/api/v1/runs", map[string]string{"repository": c.repo.url(), "sha": lost}, 201, &r, "Idempotency-Key", "lost")
				id = r.ID
			} else {
				id = s.push(c.repo)
			}
			r := s.finish(id, c.status)
			if len(r.Jobs) != 1 {
				t.Fatalf("the run has jobs %s, want one that bears the reason", encode(r.Jobs))
			}
			if j := r.Jobs[0]; j.Status != c.status || !strings.Contains(j.Reason, c.reason) || j.Reason == "" {
				t.Errorf("the job is %s because %q, want %s and a reason with %q", j.Status, j.Reason, c.status, c.reason)
			}
			if page := s.page(id); !strings.Contains(page, c.reason) {
				t.Errorf("the page does not say %q:\n%s", c.reason, page)
			}
			state := map[string]string{"failure": "failure", "skipped": "success"}[c.status]
			if told := s.github.await(c.sha, "lockstep/"+r.Jobs[0].Name, state); !strings.Contains(told.Description, c.reason) {
				t.Errorf("GitHub was told %q, want %q in it", told.Description, c.reason)
			}
		})
	}
	s.db.Await(t, time.Second, "SELECT bool_and(ci_is_final(status)) FROM ci_jobs") // nothing is stuck
}

func TestOneBadFileFailsAloneAndTheOtherRuns(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.start()
	repo := s.repository("octo/half", map[string]string{
		".github/workflows/bad.yml":  "name: bad\non: push\njobs:\n  test:\n    runs-on: ubuntu-latest\n    services: {}\n    steps:\n      - run: echo bad\n",
		".github/workflows/good.yml": "name: good\non: push\njobs:\n  test:\n    runs-on: ubuntu-latest\n    steps:\n      - run: echo good\n",
	})
	r := s.finish(s.push(repo), "failure")
	if j := s.job(r, "good / test"); j.Status != "success" {
		t.Errorf("the good file's job is %s, want success", j.Status)
	}
	var bad job
	for _, j := range r.Jobs {
		if j.Name != "good / test" {
			bad = j
		}
	}
	if bad.Status != "failure" || !strings.Contains(bad.Reason, ".github/workflows/bad.yml:6:5") {
		t.Errorf("the bad file's job is %s because %q, want a failure at .github/workflows/bad.yml:6:5", bad.Status, bad.Reason)
	}
}
