package jobs_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
)

// Everything at once on the same rows: claims, finishes, failures, fail-fast, cancels, workers marked dead. Every run must
// end, each job once, and nobody may wait for anybody in a circle.
func TestUnderLoadEveryRunEndsAndNothingDeadlocks(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	db.Exec(t, "INSERT INTO ci_repositories (repository, max_running) VALUES ($1, 5)", repository)
	const runs = 40
	all := make([]int64, runs)
	for i := range all {
		all[i] = insertRun(t, db)
		db.Exec(t, `
			INSERT INTO ci_jobs (run_id, repository, status, workflow, job_key, matrix_index, name, needs, fail_fast)
			SELECT $1, $2, 'blocked', 'ci.yml', key, index, format('ci / %s %s', key, index), needs::text[], key = 'test'
			FROM  (VALUES ('lint', 0, '{}'), ('test', 0, '{}'), ('test', 1, '{}'), ('test', 2, '{}'),
			              ('build', 0, '{lint,test}'), ('ship', 0, '{build}')) AS plan (key, index, needs)`, all[i], repository)
	}
	db.Exec(t, "SELECT ci_admit($1)", all)

	for range 4 {
		work(t, db.Open(t, "runner"), runnerStage(5, func(context.Context, *jobs.Job) (jobs.Result, error) {
			switch rand.IntN(10) {
			case 0:
				return jobs.Result{Status: jobs.StatusFailure, Reason: "bad luck"}, nil
			case 1:
				return jobs.Result{}, errors.New("worse luck")
			default:
				return jobs.Result{}, nil
			}
		}))
	}
	reap(t, db, jobs.Reaping{MaxFailures: 2})
	gateway := db.Open(t, "api-gateway")
	stop := make(chan struct{})
	var noise sync.WaitGroup
	noise.Go(func() {
		for ticker := time.NewTicker(5 * time.Millisecond); ; {
			select {
			case <-stop:
				return
			case <-ticker.C:
			}
			switch rand.IntN(4) {
			case 0:
				if err := gateway.Cancel(context.Background(), all[rand.IntN(runs)], ""); err != nil && !errors.Is(err, jobs.ErrEnded) {
					t.Errorf("cancel: %v", err)
				}
			case 1: // a worker is taken for dead
				if _, err := db.Pool.Exec(context.Background(), "UPDATE ci_workers SET dead_at = clock_timestamp() WHERE id = (SELECT id FROM ci_workers WHERE dead_at IS NULL ORDER BY random() LIMIT 1)"); err != nil {
					t.Errorf("mark: %v", err)
				}
			case 2: // backoffs end
				if _, err := db.Pool.Exec(context.Background(), "UPDATE ci_jobs SET not_before = now() WHERE id IN (SELECT id FROM ci_jobs WHERE status = 'blocked' AND not_before > now() FOR UPDATE SKIP LOCKED)"); err != nil {
					t.Errorf("end backoffs: %v", err)
				}
			}
		}
	})
	db.Await(t, 3*soon, "SELECT bool_and(ci_is_final(status)) FROM ci_runs")
	close(stop)
	noise.Wait()

	for what, sql := range map[string]string{
		"jobs that have not ended":              "SELECT count(*) FROM ci_jobs WHERE NOT ci_is_final(status)",
		"attempts that ended twice":             "SELECT count(*) FROM (SELECT FROM ci_attempts GROUP BY job_id, claim_token HAVING count(*) > 1) AS doubled",
		"jobs that ended more than once":        "SELECT count(*) FROM (SELECT FROM ci_attempts WHERE ci_is_final(outcome) GROUP BY job_id HAVING count(*) > 1) AS doubled",
		"jobs that ran before their needs":      "SELECT count(*) FROM ci_attempts a JOIN ci_jobs j ON j.id = a.job_id JOIN ci_jobs need ON need.run_id = j.run_id AND need.job_key = ANY (j.needs) WHERE need.status <> 'success'",
		"runs whose status is not their jobs'":  "SELECT count(*) FROM ci_runs r WHERE (status = 'success') <> (SELECT bool_and(j.status = 'success') FROM ci_jobs j WHERE j.run_id = r.id)",
		"deadlocks":                             "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()",
		"jobs running at once beyond the limit": "SELECT greatest(0, max(together) - 5) FROM (SELECT (SELECT count(*) FROM ci_attempts b WHERE b.claimed_at <= a.claimed_at AND b.ended_at > a.claimed_at) AS together FROM ci_attempts a) AS t",
	} {
		if n := jobstest.Value[int64](t, db, sql); n != 0 {
			t.Errorf("%s: %d", what, n)
		}
	}
	t.Log(jobstest.Value[string](t, db, "SELECT string_agg(status || ' ' || n, ', ') FROM (SELECT status, count(*) AS n FROM ci_jobs GROUP BY status) AS s"))
}
