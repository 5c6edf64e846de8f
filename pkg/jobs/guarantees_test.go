package jobs_test

import (
	"context"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/joblog"
	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
)

// What doc.go promises and no other file tests, and that it names tests that exist.

func TestEachGuaranteeNamesTestsThatExist(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "doc.go", nil, parser.ParseComments|parser.PackageClauseOnly)
	must(t, err)
	_, guarantees, found := strings.Cut(file.Doc.Text(), "# Guarantees")
	if !found {
		t.Fatal("doc.go has no guarantees")
	}
	guarantees, _, _ = strings.Cut(guarantees, "\n# ")
	tests := testNames(t)
	numbered := regexp.MustCompile(`(?m)^\s*\d+\. `)
	items := numbered.Split(guarantees, -1)[1:]
	if len(items) < 10 {
		t.Errorf("%d guarantees: are they still numbered?", len(items))
	}
	for i, item := range items {
		named := regexp.MustCompile(`\bTest[A-Z]\w+`).FindAllString(item, -1)
		if len(named) == 0 {
			t.Errorf("guarantee %d names no test that would falsify it", i+1)
		}
		for _, name := range named {
			if !tests[name] {
				t.Errorf("guarantee %d names %s, which does not exist", i+1, name)
			}
		}
	}
}

// testNames finds the tests of this package and those below it.
func testNames(t *testing.T) map[string]bool {
	names := map[string]bool{}
	must(t, filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, source, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil {
				names[f.Name.Name] = true
			}
		}
		return nil
	}))
	return names
}

func TestAStaleClaimChangesNothingThoughItsProcessHoldsTheJobAgain(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	db := jobstest.New(t)
	planned(t, db, 1)
	service := db.Open(t, "runner")
	hand := jobs.NewHand(service, runner)
	must(t, hand.Beat(ctx))
	claim := func() *jobs.Job {
		claimed, err := hand.Claim(ctx, 1)
		must(t, err)
		if len(claimed) != 1 {
			t.Fatalf("claimed %d jobs", len(claimed))
		}
		return claimed[0]
	}
	old := claim()
	// It stands still for its lease. It is marked and its job taken back; it registers anew and claims the job again.
	watch := jobs.NewWatch(db.Open(t, "reaper"), jobs.Reaping{UnownedAfter: time.Hour, MaxFailures: 3, MaxCrashes: 3})
	beat, err := watch.Beat(ctx, hand.ID())
	must(t, err)
	must(t, watch.Mark(ctx, hand.ID(), beat))
	must(t, watch.Reap(ctx))
	if err := hand.Beat(ctx); !errors.Is(err, jobs.ErrMarked) {
		t.Fatalf("the beat of a marked worker: %v", err)
	}
	hand.Adopt(0)
	must(t, hand.Beat(ctx))
	again := claim()
	if again.ID != old.ID || again.Token == old.Token || again.Attempt != old.Attempt+1 {
		t.Fatalf("claimed %+v, then %+v", old, again)
	}

	before := everything(t, db)
	for name, write := range map[string]func() error{
		"finish": func() error {
			lost, err := hand.Finish(ctx, []*jobs.Job{old}, []jobs.Result{{Status: jobs.StatusSuccess}})
			if err == nil && lost[old.Token] {
				err = jobs.ErrClaimLost
			}
			return err
		},
		"finish with a commit": func() error {
			return hand.FinishWith(ctx, old, jobs.Result{Status: jobs.StatusSuccess, Commit: func(context.Context, pgx.Tx) error {
				t.Error("Commit ran without a claim")
				return nil
			}})
		},
		"fail":    func() error { return hand.Fail(ctx, old, "late") },
		"release": func() error { return hand.Release(ctx, old) },
		"log": func() error {
			w, err := joblog.NewWriter(service.Pool(), old, joblog.Options{Dir: t.TempDir(), Limit: joblog.DefaultLimit, Log: zap.NewNop()})
			must(t, err)
			_, err = w.Write([]byte("late"))
			must(t, err)
			return w.Close(ctx)
		},
		"step": func() error {
			if written, err := writeStep(ctx, service, old); written || err != nil {
				return err
			}
			return jobs.ErrClaimLost
		},
	} {
		if err := write(); !errors.Is(err, jobs.ErrClaimLost) {
			t.Errorf("%s: %v", name, err)
		}
		if diff := gocmp.Diff(before, everything(t, db)); diff != "" {
			t.Errorf("%s changed something (-was +is):\n%s", name, diff)
		}
	}

	must(t, hand.Beat(ctx))
	if !errors.Is(hand.Told[old.Token], jobs.ErrClaimLost) || hand.Told[again.Token] != nil {
		t.Errorf("a beat told the old claim %v, and the new one %v", hand.Told[old.Token], hand.Told[again.Token])
	}
	must(t, hand.FinishWith(ctx, again, jobs.Result{Status: jobs.StatusSuccess, Commit: func(context.Context, pgx.Tx) error { return nil }}))
}

func TestAReaperEndsTheClaimThatItJudgedAndNoOther(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	db := jobstest.New(t)
	planned(t, db, 1)
	hand := jobs.NewHand(db.Open(t, "runner"), runner)
	must(t, hand.Beat(ctx))
	old, err := hand.Claim(ctx, 1)
	must(t, err)
	db.Exec(t, "UPDATE ci_jobs SET deadline_at = clock_timestamp()")
	end, err := jobs.NewWatch(db.Open(t, "reaper"), jobs.Reaping{UnownedAfter: time.Hour, MaxFailures: 3, MaxCrashes: 3}).Judge(ctx)
	must(t, err)
	// Before the reaper acts the claim ends by itself, and another one begins.
	must(t, hand.Release(ctx, old[0]))
	again, err := hand.Claim(ctx, 1)
	must(t, err)
	before := everything(t, db)
	must(t, end())
	if diff := gocmp.Diff(before, everything(t, db)); diff != "" {
		t.Errorf("the reaper changed something (-was +is):\n%s", diff)
	}
	must(t, hand.Release(ctx, again[0]))
}

// everything is all rows of all tables, but for the workers' beats.
func everything(t *testing.T, db *jobstest.Database) (rows []string) {
	t.Helper()
	for _, table := range []string{"ci_runs", "ci_jobs", "ci_job_specs", "ci_attempts", "ci_steps", "ci_logs", "ci_reports", "ci_turns", "ci_sources"} {
		rows = append(rows, jobstest.Value[[]string](t, db, "SELECT coalesce(array_agg(format('%s: %s', '"+table+"', r) ORDER BY r::text), '{}') FROM "+table+" AS r")...)
	}
	return rows
}

// writeStep writes a step by the runner's own statement, and reports whether the claim was still held.
func writeStep(ctx context.Context, db *jobs.DB, job *jobs.Job) (held bool, err error) {
	err = db.Pool().QueryRow(ctx, serviceQuery("runner/internal/run", "steps"), pgx.NamedArgs{
		"job": job.ID, "token": job.Token, "attempt": job.Attempt, "numbers": []int{1}, "names": []string{"step"}, "statuses": []string{"running"},
		"exit_codes": []*int{nil}, "started_ago": []float64{0}, "finished_ago": []*float64{nil}, "log_offsets": []int64{0},
	}).Scan(&held)
	return held, err
}

func TestStoppingUsesUpNoAttempt(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	job := planned(t, db, 1)[0]
	reap(t, db, jobs.Reaping{MaxFailures: 1, MaxCrashes: 1}) // one failure, or crash, would be the end
	service := db.Open(t, "runner")
	for range 3 {
		holding := make(chan *jobs.Job, 1)
		stage := runnerStage(1, func(ctx context.Context, job *jobs.Job) (jobs.Result, error) {
			holding <- job
			<-ctx.Done()
			return jobs.Result{}, context.Cause(ctx)
		})
		stage.Grace = time.Millisecond
		stop := work(t, service, stage)
		receive(t, holding, "the claim")
		stop()
		if got := jobstest.Value[string](t, db, "SELECT format('%s %s %s', status, failures, crashes) FROM ci_jobs"); got != "initialized 0 0" {
			t.Fatalf("after a stop the job is %q", got)
		}
	}
	work(t, service, runnerStage(1, func(context.Context, *jobs.Job) (jobs.Result, error) { return jobs.Result{}, nil }))
	awaitStatus(t, db, job, jobs.StatusSuccess)
}

func TestALostWakeCostsAtMostAPoll(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	db.Exec(t, "ALTER TABLE ci_jobs DISABLE TRIGGER ci_jobs_notify_insert")
	db.Exec(t, "ALTER TABLE ci_jobs DISABLE TRIGGER ci_jobs_notify_update")
	started := make(chan *jobs.Job, 1)
	stage := initializer
	stage.Poll, stage.Gives, stage.Do = time.Second, jobs.StatusSkipped, func(_ context.Context, job *jobs.Job) (jobs.Result, error) {
		started <- job
		return jobs.Result{}, nil
	}
	work(t, db.Open(t, "initializer"), stage)
	gateway := db.Open(t, "api-gateway")
	db.Await(t, soon, "SELECT count(*) = 1 FROM ci_workers")
	const slack = 3 * time.Second // for a busy machine; without a poll it would be for ever
	for range 3 {
		began := time.Now()
		_, err := gateway.Enqueue(t.Context(), jobs.NewRun{Repository: repository, Event: "push"})
		must(t, err)
		receive(t, started, "the job's start")
		if waited := time.Since(began); waited > stage.Poll+slack {
			t.Errorf("the job has waited for %s, with a poll every %s", waited, stage.Poll)
		}
	}
}

func TestEveryRunEndsOnceFaultsStop(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	db := jobstest.New(t)
	gateway, asker, doer := db.Open(t, "api-gateway"), db.Open(t, "initializer"), db.Open(t, "runner")
	// The faults: workers that died with a run that nobody has read yet, with a job, with one that was to be cancelled and
	// with one whose needs others have; a failure; a handler that hangs; and nobody at work.
	const lease = time.Second
	dies := func(service *jobs.DB, stage jobs.Stage, n int) (*jobs.Hand, []*jobs.Job) {
		stage.Lease, stage.RetryAfter = lease, time.Millisecond
		hand := jobs.NewHand(service, stage)
		must(t, hand.Beat(ctx))
		claimed, err := hand.Claim(ctx, n)
		must(t, err)
		if len(claimed) != n {
			t.Fatalf("claimed %d jobs, want %d", len(claimed), n)
		}
		return hand, claimed
	}
	for range 6 {
		_, err := gateway.Enqueue(ctx, jobs.NewRun{Repository: repository, Event: "push"})
		must(t, err)
	}
	hand, asked := dies(asker, initializer, 4)
	for _, job := range asked[1:] {
		must(t, hand.FinishWith(ctx, job, answer(job)))
	}
	hand, held := dies(doer, runner, 8)
	must(t, hand.Fail(ctx, held[0], "no disk"))
	must(t, gateway.Cancel(ctx, held[7].RunID, ""))
	db.Exec(t, "UPDATE ci_jobs SET deadline_at = clock_timestamp() WHERE id = $1", held[1].ID)

	began := time.Now()
	reap(t, db, jobs.Reaping{Every: time.Second})
	stage := initializer
	stage.Poll, stage.Do = time.Second, func(_ context.Context, job *jobs.Job) (jobs.Result, error) { return answer(job), nil }
	work(t, asker, stage)
	work(t, doer, runnerStage(4, func(context.Context, *jobs.Job) (jobs.Result, error) { return jobs.Result{}, nil }))
	db.Await(t, soon, "SELECT bool_and(ci_is_final(status)) FROM ci_runs")
	for _, what := range broken(t, db, slices.Concat(rules, rulesAtRest)) {
		t.Error(what)
	}
	t.Logf("all runs have ended after %s", time.Since(began).Round(time.Millisecond))
}
