package jobs_test

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
)

// batch is how many jobs one claim, finish or beat is about, where there are many.
const batch = 100

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

// BenchmarkEnqueueTogether is one accepted run of 256 clients that each wait for theirs.
func BenchmarkEnqueueTogether(b *testing.B) {
	db := jobstest.New(b)
	gateway := db.Open(b, "api-gateway")
	b.SetParallelism(max(1, 256/runtime.GOMAXPROCS(0)))
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := gateway.Enqueue(b.Context(), jobs.NewRun{Repository: repository, Event: "push"}); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkStage is one job through one stage that does nothing: claim, handler, finish.
func BenchmarkStage(b *testing.B) {
	db := jobstest.New(b)
	b.StopTimer()
	ready(b, db, b.N)
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

// BenchmarkClaim is one claim of 100 jobs.
func BenchmarkClaim(b *testing.B) {
	db := jobstest.New(b)
	b.StopTimer()
	ready(b, db, b.N*batch)
	worker, take := register(b, db), statement(b, "claim")
	b.StartTimer()
	for range b.N {
		claim(b, db, take, worker)
	}
}

// BenchmarkFinish is one finish of 100 claims, behind the locks of their runs.
func BenchmarkFinish(b *testing.B) {
	db := jobstest.New(b)
	b.StopTimer()
	ready(b, db, b.N*batch)
	worker := register(b, db)
	take, finish, lock := statement(b, "claim"), statement(b, "finish"), statement(b, "lock_runs")
	statuses, reasons := make([]string, batch), make([]string, batch)
	for i := range statuses {
		statuses[i] = string(jobs.StatusSuccess)
	}
	for range b.N {
		ids, tokens := claim(b, db, take, worker)
		b.StartTimer()
		both := &pgx.Batch{}
		both.Queue(lock, pgx.NamedArgs{"jobs": ids})
		both.Queue(finish, pgx.NamedArgs{"jobs": ids, "tokens": tokens, "statuses": statuses, "reasons": reasons})
		if err := db.Pool.SendBatch(b.Context(), both).Close(); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
	}
	if left := jobstest.Value[int](b, db, "SELECT count(*) FROM ci_runs WHERE status <> 'success'"); left != 0 {
		b.Fatalf("%d runs have not ended", left)
	}
}

// BenchmarkBeat is one beat of a worker that holds 100 claims.
func BenchmarkBeat(b *testing.B) {
	db := jobstest.New(b)
	ready(b, db, batch)
	worker := register(b, db)
	claim(b, db, statement(b, "claim"), worker)
	beat := statement(b, "beat")
	for b.Loop() {
		if _, err := db.Pool.Exec(b.Context(), beat, pgx.NamedArgs{"worker": worker}); err != nil {
			b.Fatal(err)
		}
	}
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

// BenchmarkNotifications is 100 notifications of one commit, until a subscriber has heard of each.
func BenchmarkNotifications(b *testing.B) {
	db := jobstest.New(b)
	listening, heard := make(chan struct{}, 1), make(chan struct{}, 1)
	var wakes atomic.Int64
	stop := db.Open(b, "api-gateway").Listen(func(wake jobs.Wake) {
		switch {
		case wake == jobs.Wake{}:
			listening <- struct{}{}
		case wakes.Add(1)%batch == 0:
			heard <- struct{}{}
		}
	})
	defer stop()
	receive(b, listening, "the listener is at work")
	for b.Loop() {
		db.Exec(b, "SELECT pg_notify($1, id || ':new') FROM generate_series(1, $2::int) AS id", jobs.Channel, batch)
		receive(b, heard, "all wakes")
	}
}

// ready makes n jobs that a runner may claim, each of a run of its own, as fast as rows can be made.
func ready(b *testing.B, db *jobstest.Database, n int) {
	b.Helper()
	db.Exec(b, "ALTER TABLE ci_jobs DISABLE TRIGGER USER")
	db.Exec(b, "INSERT INTO ci_runs (repository, event) SELECT $1, 'push' FROM generate_series(1, $2::int)", repository, n)
	db.Exec(b, "INSERT INTO ci_jobs (run_id, repository, status, turn, job_key) SELECT id, repository, 'initialized', id, 'test' FROM ci_runs")
	db.Exec(b, "ALTER TABLE ci_jobs ENABLE TRIGGER USER")
}

// statement is the runner's SQL of queries/<name>.sql.
func statement(b *testing.B, name string) string {
	b.Helper()
	text, err := os.ReadFile(filepath.Join("queries", name+".sql"))
	if err != nil {
		b.Fatal(err)
	}
	return strings.NewReplacer("{{takes}}", string(jobs.StatusInitialized), "{{holds}}", string(jobs.StatusRunning)).Replace(string(text))
}

// register adds a worker that nobody beats for.
func register(b *testing.B, db *jobstest.Database) (worker int64) {
	b.Helper()
	err := db.Pool.QueryRow(b.Context(), statement(b, "register"),
		pgx.NamedArgs{"stage": "runner", "name": "bench", "slots": batch, "lease": time.Hour}).Scan(&worker)
	if err != nil {
		b.Fatal(err)
	}
	return worker
}

// claim takes 100 jobs.
func claim(b *testing.B, db *jobstest.Database, take string, worker int64) (ids []int64, tokens []pgtype.UUID) {
	b.Helper()
	rows, err := db.Pool.Query(b.Context(), take, pgx.NamedArgs{"worker": worker, "slots": batch})
	if err != nil {
		b.Fatal(err)
	}
	defer rows.Close()
	at := map[string]int{}
	for i, column := range rows.FieldDescriptions() {
		at[column.Name] = i
	}
	for rows.Next() {
		values, err := rows.Values()
		if err != nil {
			b.Fatal(err)
		}
		ids = append(ids, values[at["id"]].(int64))
		tokens = append(tokens, pgtype.UUID{Bytes: values[at["claim_token"]].([16]byte), Valid: true})
	}
	if err := rows.Err(); err != nil {
		b.Fatal(err)
	}
	if len(ids) != batch {
		b.Fatalf("claimed %d jobs, want %d", len(ids), batch)
	}
	return ids, tokens
}
