package jobs_test

import (
	"context"
	"testing"
	"time"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
)

// BenchmarkEnqueue is one accepted run, on disk, by one client.
func BenchmarkEnqueue(b *testing.B) {
	db := jobstest.New(b)
	gateway := db.Open(b, "api-gateway")
	for b.Loop() {
		if _, err := gateway.Enqueue(b.Context(), jobs.NewRun{Repository: repository, Event: "push"}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkStage is one job through one stage that does nothing: claim, handler, finish.
func BenchmarkStage(b *testing.B) {
	db := jobstest.New(b)
	b.StopTimer()
	db.Exec(b, "ALTER TABLE ci_jobs DISABLE TRIGGER USER")
	db.Exec(b, "INSERT INTO ci_runs (repository, event) SELECT $1, 'push' FROM generate_series(1, $2)", repository, b.N)
	db.Exec(b, "INSERT INTO ci_jobs (run_id, repository, status, turn, job_key) SELECT id, repository, 'initialized', id, 'test' FROM ci_runs")
	db.Exec(b, "ALTER TABLE ci_jobs ENABLE TRIGGER USER")
	runner := db.Open(b, "runner")
	left := make(chan struct{}, b.N)
	stage := runnerStage(100, func(context.Context, *jobs.Job) (jobs.Result, error) {
		left <- struct{}{}
		return jobs.Result{}, nil
	})
	stage.Beat, stage.Lease = time.Second, 10*time.Second
	b.StartTimer()
	stop := work(b, runner, stage)
	for range b.N {
		<-left
	}
	stop() // waits for the last finish
}

// BenchmarkWake is from the commit of a run to the start of its handler, on an idle system.
func BenchmarkWake(b *testing.B) {
	db := jobstest.New(b)
	gateway := db.Open(b, "api-gateway")
	started := make(chan time.Time, 1)
	stage := runnerStage(1, func(context.Context, *jobs.Job) (jobs.Result, error) {
		started <- time.Now()
		return jobs.Result{Status: jobs.StatusSkipped}, nil
	})
	stage.Name, stage.Takes, stage.Holds = "initializer", jobs.StatusNew, jobs.StatusInitializing
	work(b, db.Open(b, "initializer"), stage)
	var total time.Duration
	for b.Loop() {
		if _, err := gateway.Enqueue(b.Context(), jobs.NewRun{Repository: repository, Event: "push"}); err != nil {
			b.Fatal(err)
		}
		committed := time.Now()
		total += (<-started).Sub(committed)
		db.Await(b, soon, "SELECT NOT EXISTS (SELECT FROM ci_jobs WHERE NOT ci_is_final(status))") // idle again
	}
	b.ReportMetric(float64(total.Microseconds())/float64(b.N), "µs/wake")
}
