package jobs_test

import (
	"errors"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
)

func TestEnqueueIsDurableAndIdempotent(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	gateway := db.Open(t, "api-gateway")
	request := jobs.NewRun{Repository: repository + ".git", Event: "push", Ref: "refs/heads/main", Trusted: true,
		Principal: "github", IdempotencyKey: "delivery-1", RequestHash: []byte("one")}

	var wg sync.WaitGroup
	ids := make(chan int64, 10)
	for range cap(ids) {
		wg.Go(func() {
			enqueued, err := gateway.Enqueue(t.Context(), request)
			if err != nil {
				t.Error(err)
			}
			ids <- enqueued.RunID
		})
	}
	wg.Wait()
	close(ids)
	first := <-ids
	for id := range ids {
		if id != first {
			t.Errorf("runs %d and %d for one key", first, id)
		}
	}
	got := jobstest.Value[string](t, db, "SELECT format('%s runs, %s jobs, %s', count(DISTINCT r.id), count(j.id), min(r.repository)) FROM ci_runs r JOIN ci_jobs j ON j.run_id = r.id")
	if want := "1 runs, 1 jobs, " + repository; got != want {
		t.Errorf("got %q, want %q", got, want)
	}

	request.RequestHash = []byte("two")
	if _, err := gateway.Enqueue(t.Context(), request); !errors.Is(err, jobs.ErrKeyReused) {
		t.Errorf("the key on another request: %v", err)
	}
}

func TestEnqueueTxIsAcceptedWithTheTransaction(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	gateway := db.Open(t, "api-gateway")
	rollback := errors.New("no")
	for _, end := range []error{rollback, nil} {
		err := pgx.BeginFunc(t.Context(), gateway.Pool(), func(tx pgx.Tx) error {
			if _, err := jobs.EnqueueTx(t.Context(), tx, jobs.NewRun{Repository: repository, Event: "manual"}); err != nil {
				return err
			}
			return end
		})
		if !errors.Is(err, end) {
			t.Fatal(err)
		}
	}
	if n := jobstest.Value[int](t, db, "SELECT count(*)::int FROM ci_jobs"); n != 1 {
		t.Errorf("%d jobs, want the committed one", n)
	}
}

func TestRerunIsANewRunOfTheSameCommit(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	gateway := db.Open(t, "api-gateway")
	first, err := gateway.Enqueue(t.Context(), jobs.NewRun{Repository: repository, Event: "push", Ref: "refs/heads/main", HeadSHA: "0123456789012345678901234567890123456789", SenderID: 1 << 40})
	if err != nil {
		t.Fatal(err)
	}
	second, err := gateway.Rerun(t.Context(), first.RunID, "token", "key", nil, 1<<41)
	if err != nil {
		t.Fatal(err)
	}
	again, err := gateway.Rerun(t.Context(), first.RunID, "token", "key", nil, 0)
	if err != nil || again.RunID != second.RunID || !again.Existing {
		t.Errorf("the same key again: %+v, %v", again, err)
	}
	got := jobstest.Value[bool](t, db, `
		SELECT (a.repository, a.event, a.ref, a.head_sha, a.trusted, a.id) = (b.repository, b.event, b.ref, b.head_sha, b.trusted, b.rerun_of)
		       AND a.sender_id = 1::bigint << 40 AND b.sender_id = 1::bigint << 41
		FROM   ci_runs a, ci_runs b WHERE a.id = $1 AND b.id = $2`, first.RunID, second.RunID)
	if !got {
		t.Error("the re-run differs")
	}
	if _, err := gateway.Rerun(t.Context(), 4711, "", "", nil, 0); !errors.Is(err, jobs.ErrNotFound) {
		t.Errorf("rerun of no run: %v", err)
	}
}

func TestTurnsLetASmallRepositoryPastABigOne(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	gateway := db.Open(t, "api-gateway")
	place := func(repository string, n int) {
		for range n {
			if _, err := gateway.Enqueue(t.Context(), jobs.NewRun{Repository: repository, Event: "manual"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	next := func() string {
		return jobstest.Value[string](t, db, `
			UPDATE ci_jobs SET status = 'initializing'
			WHERE  id = (SELECT id FROM ci_jobs WHERE status = 'new' ORDER BY priority DESC, turn, id LIMIT 1)
			RETURNING repository`)
	}
	const big, small = "https://github.com/acme/big", "https://github.com/acme/small"
	place(big, 50)
	for range 10 { // big has been served for a while
		next()
	}
	place(small, 1)
	if first, second := next(), next(); first != small && second != small {
		t.Errorf("the one job waits behind %s and %s", first, second)
	}
	for range 39 {
		next()
	}
	// Now small has a history of one and big of fifty: who comes anew does not stand behind that.
	place(small, 20)
	place(big, 1)
	if first, second, third := next(), next(), next(); first != big && second != big && third != big {
		t.Errorf("the busy repository's next job stands behind %s, %s, %s", first, second, third)
	}
}
