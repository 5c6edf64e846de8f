package jobs_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
)

// A transaction anywhere on the server, also of another test, holds the statistics back while it is open.
const tallied = time.Minute

// endRuns makes n runs whose questions are answered with nothing to do: an attempt and a finished run each.
func endRuns(t *testing.T, db *jobstest.Database, n int) {
	t.Helper()
	db.Exec(t, "INSERT INTO ci_jobs (repository) SELECT $1 FROM generate_series(1, $2::int)", repository, n)
	db.Exec(t, "UPDATE ci_jobs SET status = 'initializing' WHERE status = 'new'")
	db.Exec(t, "UPDATE ci_jobs SET status = 'skipped' WHERE status = 'initializing'")
}

// tally counts until there is nothing left.
func tally(t *testing.T, db *jobstest.Database) {
	t.Helper()
	db.Await(t, tallied, `SELECT ci_tally(100) = 0 AND NOT EXISTS (SELECT FROM ci_attempts a, ci_tally_mark m WHERE a.xid > m.xid)`)
}

const (
	countedAttempts = "SELECT coalesce(sum(ended), 0)::bigint FROM ci_tallies WHERE kind = 'work' AND minutes = 1440 AND repository <> ''"
	countedRuns     = "SELECT coalesce(sum(ended), 0)::bigint FROM ci_tallies WHERE kind = 'run' AND minutes = 1440"
)

func wantCounted(t *testing.T, db *jobstest.Database, when string, attempts, runs int64) {
	t.Helper()
	if a, r := jobstest.Value[int64](t, db, countedAttempts), jobstest.Value[int64](t, db, countedRuns); a != attempts || r != runs {
		t.Errorf("%s: %d attempts and %d runs are counted, want %d and %d", when, a, r, attempts, runs)
	}
}

func TestTallyCountsEverythingOnce(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	var all sync.WaitGroup
	stop := make(chan struct{})
	for range 4 { // reapers
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					db.Exec(t, "SELECT ci_tally(7)")
				}
			}
		})
	}
	var writers sync.WaitGroup
	for range 3 {
		writers.Go(func() {
			for range 20 { // each its own rows: an UPDATE of them all would find the others'
				ctx := context.Background()
				_ = pgx.BeginFunc(ctx, db.Pool, func(tx pgx.Tx) error {
					var ids []int64
					rows, _ := tx.Query(ctx, "INSERT INTO ci_jobs (repository) SELECT $1 FROM generate_series(1, 3) RETURNING id", repository)
					ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
					for _, status := range []string{"initializing", "skipped"} {
						if err == nil {
							_, err = tx.Exec(ctx, "UPDATE ci_jobs SET status = $2 WHERE id = ANY ($1)", ids, status)
						}
					}
					if err != nil {
						t.Errorf("end some runs: %v", err)
					}
					return err
				})
			}
		})
	}
	writers.Wait()
	close(stop)
	all.Wait()
	tally(t, db)
	wantCounted(t, db, "four counted at once", 180, 180)
	everywhere := jobstest.Value[int64](t, db, "SELECT sum(ended)::bigint FROM ci_tallies WHERE kind = 'wait' AND minutes = 5 AND repository = ''")
	buckets := jobstest.Value[int64](t, db, "SELECT sum(b.value::bigint)::bigint FROM ci_tallies, jsonb_each_text(buckets) AS b WHERE kind = 'wait' AND minutes = 60 AND repository = ''")
	if everywhere != 180 || buckets != 180 {
		t.Errorf("of all repositories %d are counted, %d in buckets, want 180", everywhere, buckets)
	}
}

func TestTallyMissesNobodyWhoCommitsLate(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	endRuns(t, db, 1)
	tally(t, db)
	late, err := db.Pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = late.Rollback(context.Background()) }()
	for _, sql := range []string{
		"INSERT INTO ci_jobs (repository) VALUES ('https://example.com/late/one')",
		"UPDATE ci_jobs SET status = 'initializing' WHERE status = 'new'", "UPDATE ci_jobs SET status = 'skipped' WHERE status = 'initializing'",
	} {
		if _, err := late.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	endRuns(t, db, 2)
	db.Exec(t, "SELECT ci_tally(100)")
	wantCounted(t, db, "while an older transaction is open", 1, 1)
	if err := late.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	tally(t, db)
	wantCounted(t, db, "after it has ended", 4, 4)
}

func TestTallyThatIsKilledIsAsIfItHadNotBeen(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	endRuns(t, db, 5)
	db.Await(t, tallied, "SELECT pg_snapshot_xmin(pg_current_snapshot()) > (SELECT max(xid::text::bigint) FROM ci_attempts)::text::xid8")
	tx, err := db.Pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if err := tx.QueryRow(t.Context(), "SELECT ci_tally(100)").Scan(&n); err != nil || n != 5 {
		t.Errorf("%d counted, error %v, want 5", n, err)
	}
	if n := jobstest.Value[int32](t, db, "SELECT ci_tally(100)"); n != 0 {
		t.Errorf("a second one counts %d beside the first, or would have waited for it", n)
	}
	_ = tx.Rollback(t.Context())
	tally(t, db)
	wantCounted(t, db, "after the rollback", 5, 5)
}

func TestTallyCountsARunThatEndsWithoutAClaim(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	db.Exec(t, "INSERT INTO ci_jobs (repository) VALUES ($1)", repository)
	db.Exec(t, "UPDATE ci_jobs SET status = 'initializing'")
	db.Exec(t, "UPDATE ci_jobs SET status = 'initialized', job_key = 'test', workflow = 'ci.yml', name = 'ci / test'")
	tally(t, db)
	wantCounted(t, db, "while it runs", 1, 0)
	db.Exec(t, "UPDATE ci_jobs SET status = 'cancelled'")
	db.Exec(t, "SELECT ci_tally(100)")
	wantCounted(t, db, "when it has been cancelled", 1, 1)
}

func TestTallyBeginsAnewInAnotherCluster(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	endRuns(t, db, 3)
	tally(t, db)
	db.Exec(t, "UPDATE ci_tally_mark SET xid = '9000000000000000'") // as pg_restore brings it
	db.Exec(t, "UPDATE ci_attempts SET xid = '5'")                  // a number that the new cluster has passed
	db.Exec(t, "SELECT ci_tally(100)")
	endRuns(t, db, 2)
	db.Await(t, tallied, "SELECT ci_tally(100) IS NOT NULL AND ("+countedRuns+") = 5")
	wantCounted(t, db, "after a restore", 5, 5)
}

func TestReaperTallies(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	db.Exec(t, "INSERT INTO ci_tallies SELECT $1, 'run', m, now() - interval '40 days', '', '', 'success', 1, 1, '{}' FROM unnest(ARRAY[5, 60, 1440]) AS m", repository)
	endRuns(t, db, 4)
	reaper := db.Open(t, "reaper")
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- reaper.Reap(ctx, jobs.Reaping{UnownedAfter: time.Hour, MaxFailures: 3}) }()
	db.Await(t, tallied, "SELECT ("+countedRuns+") = 4") // and the old ones are forgotten
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestTalliesGoWithARepositoryThatIsRenamed(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	const before, after = "https://example.com/owner/before", "https://example.com/owner/after"
	db.Exec(t, "INSERT INTO ci_repositories (repository, github_id) VALUES ($1, 7)", before)
	db.Exec(t, `INSERT INTO ci_tallies SELECT r, 'run', 1440, date_bin('1 day', now(), 'epoch') - n * interval '1 day', '', '', 'success', n, n * 10, jsonb_build_object(n, n)
		FROM (VALUES ($1, 1), ($1, 2), ($2, 1), ($2, 3)) AS v (r, n)`, before, after)
	if !jobstest.Value[bool](t, db, "SELECT ci_move_repository($1, $2, 7)", before, after) {
		t.Fatal("it was not moved")
	}
	got := jobstest.Value[string](t, db, "SELECT string_agg(concat_ws(' ', ended, took_ms, buckets), '; ' ORDER BY begins_at DESC) FROM ci_tallies WHERE repository = $1", after)
	left := jobstest.Value[int64](t, db, "SELECT count(*) FROM ci_tallies WHERE repository = $1", before)
	if want := `2 20 {"1": 2}; 2 20 {"2": 2}; 3 30 {"3": 3}`; got != want || left != 0 {
		t.Errorf("%s, and %d are left under the old name; want %s", got, left, want)
	}
}
