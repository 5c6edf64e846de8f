package joblog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap/zaptest"
	"pgregory.net/rapid"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
)

const soon = 20 * time.Second

// held makes a job that somebody runs.
func held(t *testing.T, db *jobstest.Database) *jobs.Job {
	t.Helper()
	j := &jobs.Job{}
	db.Exec(t, "INSERT INTO ci_jobs (repository, status, status_change_time) VALUES ('https://github.com/acme/widgets', 'new', now())")
	for _, status := range []string{"initializing", "initialized", "running"} {
		db.Exec(t, "UPDATE ci_jobs SET status = $1::ci_job_status WHERE id = (SELECT max(id) FROM ci_jobs)", status)
	}
	err := db.Pool.QueryRow(t.Context(), `
		SELECT j.id, j.attempt, j.claim_token, r.log_day FROM ci_jobs j JOIN ci_runs r ON r.id = j.run_id
		WHERE j.id = (SELECT max(id) FROM ci_jobs)`).Scan(&j.ID, &j.Attempt, &j.Token, &j.LogDay)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// open starts a log as the runner does, under its role.
func open(t *testing.T, pool *pgxpool.Pool, job *jobs.Job, limit int64) *Writer {
	t.Helper()
	w, err := NewWriter(pool, job, Options{Dir: t.TempDir(), Limit: limit, Log: zaptest.NewLogger(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = w.Close(ctx)
	})
	return w
}

func write(t *testing.T, w *Writer, p []byte) {
	t.Helper()
	if _, err := w.Write(p); err != nil {
		t.Fatal(err)
	}
}

func closeWell(t *testing.T, w *Writer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	if err := w.Close(ctx); err != nil {
		t.Fatal(err)
	}
}

// readAll reads as a viewer does, from a byte on.
func readAll(t *testing.T, db *jobstest.Database, job *jobs.Job, offset int64, limit int) []byte {
	t.Helper()
	r := NewReader(db.Open(t, "api-gateway").Pool(), job.LogDay, job.ID, job.Attempt)
	var all []byte
	for {
		p, next, err := r.ReadFrom(t.Context(), offset, limit)
		if err != nil {
			t.Fatal(err)
		}
		if len(p) > limit || next != offset+int64(len(p)) {
			t.Fatalf("from %d with limit %d: %d bytes, next %d", offset, limit, len(p), next)
		}
		if len(p) == 0 {
			return all
		}
		all = append(all, p...)
		offset = next
	}
}

// noise is bytes of every kind: newlines, NUL, broken UTF-8.
func noise(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(rand.Uint32())
	}
	return p
}

func TestEveryByteIsReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	runner := db.Open(t, "runner").Pool()
	rapid.Check(t, func(r *rapid.T) {
		job := held(t, db)
		w := open(t, runner, job, 1<<20)
		var want []byte
		for _, n := range rapid.SliceOfN(rapid.IntRange(0, 3*MaxChunk), 0, 5).Draw(r, "writes") {
			p := noise(n)
			want = append(want, p...)
			write(t, w, p)
		}
		if got := w.Offset(); got != min(int64(len(want)), 1<<19) {
			r.Fatalf("offset %d after %d bytes", got, len(want))
		}
		closeWell(t, w)
		from := rapid.IntRange(0, len(want)).Draw(r, "from")
		limit := rapid.IntRange(1000, 4*MaxChunk).Draw(r, "limit")
		if got := readAll(t, db, job, int64(from), limit); !bytes.Equal(got, want[from:]) {
			r.Fatalf("from %d with limit %d: got %d bytes, want %d, or others", from, limit, len(got), len(want)-from)
		}
		lines := jobstest.Value[int64](t, db, "SELECT coalesce(sum(line_count), 0) FROM ci_logs WHERE job_id = $1", job.ID)
		if want := bytes.Count(want, []byte("\n")); lines != int64(want) {
			r.Fatalf("%d lines, want %d", lines, want)
		}
	})
	if n := jobstest.Value[int](t, db, "SELECT max(byte_count) FROM ci_logs"); n > MaxChunk {
		t.Errorf("a chunk has %d bytes", n)
	}
}

func TestALogIsThereWhileItIsWritten(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	job := held(t, db)
	w := open(t, db.Open(t, "runner").Pool(), job, DefaultLimit)
	for _, line := range []string{"one\n", "two\n"} {
		write(t, w, []byte(line))
		db.Await(t, soon, "SELECT coalesce(sum(byte_count), 0) = $2 FROM ci_logs WHERE job_id = $1", job.ID, w.Offset())
	}
	if got := readAll(t, db, job, 0, 100); string(got) != "one\ntwo\n" {
		t.Errorf("got %q", got)
	}
}

func TestAReaderThatIsUpToDateGoesOnWhereItStopped(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	job := held(t, db)
	w := open(t, db.Open(t, "runner").Pool(), job, DefaultLimit)
	r := NewReader(db.Pool, job.LogDay, job.ID, job.Attempt)
	var offset int64
	for i := range 3 {
		if p, _, err := r.ReadFrom(t.Context(), offset, 100); err != nil || len(p) != 0 {
			t.Fatalf("nothing new: got %q, %v", p, err)
		}
		line := fmt.Appendf(nil, "line %d\n", i)
		write(t, w, line)
		db.Await(t, soon, "SELECT coalesce(sum(byte_count), 0) = $2 FROM ci_logs WHERE job_id = $1", job.ID, w.Offset())
		p, next, err := r.ReadFrom(t.Context(), offset, 100)
		if err != nil || !bytes.Equal(p, line) {
			t.Fatalf("got %q, %v", p, err)
		}
		offset = next
	}
	if _, _, err := r.ReadFrom(t.Context(), -1, 1); err == nil {
		t.Error("an offset below 0 is accepted")
	}
}

func TestALostClaimStoresNothingMore(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	job := held(t, db)
	w := open(t, db.Open(t, "runner").Pool(), job, DefaultLimit)
	write(t, w, []byte("mine\n"))
	db.Await(t, soon, "SELECT EXISTS (SELECT FROM ci_logs WHERE job_id = $1)", job.ID)

	db.Exec(t, "UPDATE ci_jobs SET status = 'initialized' WHERE id = $1", job.ID)
	db.Exec(t, "UPDATE ci_jobs SET status = 'running' WHERE id = $1", job.ID)
	write(t, w, []byte("late\n"))
	if err := w.Close(t.Context()); !errors.Is(err, jobs.ErrClaimLost) {
		t.Errorf("close: %v, want ErrClaimLost", err)
	}
	if n := jobstest.Value[int](t, db, "SELECT sum(byte_count)::int FROM ci_logs"); n != len("mine\n") {
		t.Errorf("%d bytes are stored", n)
	}
}

func TestAChunkSentTwiceIsStoredOnce(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	job := held(t, db)
	w := open(t, db.Open(t, "runner").Pool(), job, DefaultLimit)
	for range 2 {
		if err := w.append(t.Context(), chunk{size: 3, lines: 1, data: pack([]byte("hi\n"))}); err != nil {
			t.Fatal(err)
		}
	}
	if got := readAll(t, db, job, 0, 100); string(got) != "hi\n" {
		t.Errorf("got %q", got)
	}
}

func TestNothingIsLostOrHeldUpWhileTheDatabaseIsAway(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	job := held(t, db)
	w := open(t, db.Open(t, "runner").Pool(), job, 8<<20)

	before, during := noise(100_000), noise(3_000_000)
	write(t, w, before)
	db.Await(t, soon, "SELECT EXISTS (SELECT FROM ci_logs WHERE job_id = $1)", job.ID)
	back := away(t, db)
	for p := range slices.Chunk(during, 10_000) {
		write(t, w, p) // this returns: the deadline of the test says when it does not
	}
	back()
	closeWell(t, w)
	if got := readAll(t, db, job, 0, 1<<20); !bytes.Equal(got, append(before, during...)) {
		t.Errorf("%d bytes came back, want %d, or others", len(got), len(before)+len(during))
	}
}

func TestCloseGivesUpWithItsContext(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	job := held(t, db)
	pool := db.Open(t, "runner").Pool()
	back := away(t, db)
	defer back()
	w := open(t, pool, job, DefaultLimit)
	write(t, w, []byte("x"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Close(ctx); err == nil {
		t.Error("it says that all is stored")
	}
	if _, err := w.Write([]byte("y")); err == nil {
		t.Error("a closed log takes bytes")
	}
}

func TestOfALongLogTheFirstAndTheLastHalfAreKept(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	runner := db.Open(t, "runner").Pool()
	const limit = 200_000
	for _, size := range []int{limit/2 - 1, limit / 2, limit - 1, limit, limit + 1, limit * 3 / 2, 5*limit + 77} {
		job := held(t, db)
		w := open(t, runner, job, limit)
		all := noise(size)
		for p := range slices.Chunk(all, 33_333) {
			write(t, w, p)
		}
		closeWell(t, w)
		want := all
		if size > limit {
			notice := fmt.Sprintf("\n[%d bytes were cut here: of a log over %d bytes the first and the last half are kept]\n", size-limit, limit)
			want = []byte(string(all[:limit/2]) + notice + string(all[size-limit/2:]))
		}
		if got := readAll(t, db, job, 0, 1<<20); !bytes.Equal(got, want) {
			t.Errorf("of %d bytes %d came back, want %d, or others", size, len(got), len(want))
		}
	}
}

func TestALogThatCannotBeIsRefused(t *testing.T) {
	t.Parallel()
	if _, err := NewWriter(nil, &jobs.Job{}, Options{Dir: t.TempDir(), Limit: MinLimit - 1}); err == nil {
		t.Error("a limit below the least is accepted")
	}
	if _, err := NewWriter(nil, &jobs.Job{}, Options{Dir: "/no/such/folder", Limit: MinLimit}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
}

func TestAChunkThatIsNotWhatItsRowSaysIsAnError(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	job := held(t, db)
	for name, row := range map[string]struct {
		offset, size int
		data         []byte
	}{
		"not compressed": {0, 3, []byte("abc")},
		"other size":     {0, 3, pack([]byte("abcd"))},
		"a bomb":         {0, 3, pack(bytes.Repeat([]byte("x"), 10*MaxChunk))},
		"a gap":          {7, 3, pack([]byte("abc"))},
	} {
		db.Exec(t, "DELETE FROM ci_logs")
		db.Exec(t, "INSERT INTO ci_logs (log_day, job_id, attempt, seq, byte_offset, byte_count, line_count, data) VALUES ($1, $2, $3, 0, $4, $5, 0, $6)",
			job.LogDay, job.ID, job.Attempt, row.offset, row.size, row.data)
		r := NewReader(db.Pool, job.LogDay, job.ID, job.Attempt)
		if p, next, err := r.ReadFrom(t.Context(), 0, 100); err == nil || next != 0 {
			t.Errorf("%s: got %q, %d, %v", name, p, next, err)
		}
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(pack([]byte("hello\n")), 6)
	f.Add([]byte{}, 0)
	f.Fuzz(func(t *testing.T, data []byte, size int) {
		if p, err := Unpack(data, size); err == nil && (len(p) != size || len(p) > MaxChunk) {
			t.Errorf("%d bytes for %d", len(p), size)
		}
	})
}

// away cuts the runner's connections and lets nobody make new ones, until back is called.
func away(t *testing.T, db *jobstest.Database) (back func()) {
	t.Helper()
	name := jobstest.Value[string](t, db, "SELECT current_database()::text")
	db.Exec(t, "REVOKE CONNECT ON DATABASE "+name+" FROM PUBLIC")
	db.Exec(t, "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'lockstep_runner'")
	return func() {
		t.Helper()
		db.Exec(t, "GRANT CONNECT ON DATABASE "+name+" TO PUBLIC")
	}
}
