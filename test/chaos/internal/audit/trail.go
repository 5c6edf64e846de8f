package audit

import (
	"cmp"
	"context"
	"encoding/json"
	"iter"
	"maps"
	"time"

	"github.com/jackc/pgx/v5"
)

// trail is what the database has to say.
type trail struct {
	services map[string]string // login → service
	moves    []move
	workers  []worker
	writes   []write
	chunks   []chunk
	ended    []ended
	runs     []run
	jobs     []job // as they are in the end

	runOf map[int64]int64 // job → run
}

// job is a row of ci_jobs, as far as it is looked at.
type job struct {
	ID         int64     `json:"id"`
	Run        int64     `json:"run_id"`
	Status     string    `json:"status"`
	Attempt    int       `json:"attempt"`
	Token      string    `json:"claim_token"`
	Worker     int64     `json:"worker_id"`
	Failures   int       `json:"failures"`
	Crashes    int       `json:"crashes"`
	Workflow   string    `json:"workflow"`
	Key        string    `json:"job_key"`
	Matrix     int       `json:"matrix_index"`
	Name       string    `json:"name"`
	Needs      []string  `json:"needs"`
	Reason     string    `json:"reason"`
	DeadlineAt time.Time `json:"deadline_at"`
}

// move is one change of a job.
type move struct {
	Seq    int64
	At     time.Time
	Login  string
	Before job // zero: it was inserted
	After  job
}

func (m move) from() string { return m.Before.Status }

// worker is the begin or the end of one.
type worker struct {
	At            time.Time
	Login         string
	Worker        int64
	Dead          bool
	Silent, Lease float64 // seconds
}

type write struct {
	At      time.Time
	Login   string
	What    string
	Job     int64
	Attempt int
	Number  int
	Digest  string
	Late    *float64 // seconds; nil: in time
}

// chunk is a row of ci_logs in the end.
type chunk struct {
	Job     int64
	Attempt int
	Number  int
	Offset  int64
	Bytes   int64
	Digest  string
}

// ended is a row of ci_attempts.
type ended struct {
	Job     int64
	Attempt int
	Token   string
	Outcome string
}

type run struct {
	ID         int64
	Repository string
	SHA        string
	Status     string
	Principal  string
	Key        string
	CreatedAt  time.Time
}

func read(ctx context.Context, conn *pgx.Conn) (*trail, error) {
	t := &trail{services: map[string]string{}, runOf: map[int64]int64{}}
	var login, service string
	rows, err := conn.Query(ctx, "SELECT login, service FROM chaos.logins")
	if err != nil {
		return nil, err
	}
	if _, err := pgx.ForEachRow(rows, []any{&login, &service}, func() error { t.services[login] = service; return nil }); err != nil {
		return nil, err
	}
	if err := t.readMoves(ctx, conn); err != nil {
		return nil, err
	}
	if t.workers, err = collect[worker](ctx, conn, "SELECT at, login, worker, dead, silent, lease FROM chaos.workers ORDER BY seq"); err != nil {
		return nil, err
	}
	if t.writes, err = collect[write](ctx, conn, "SELECT at, login, what, job, attempt, number, digest, late FROM chaos.writes ORDER BY seq"); err != nil {
		return nil, err
	}
	if t.chunks, err = collect[chunk](ctx, conn, "SELECT job_id, attempt, seq, byte_offset, byte_count, md5(data) FROM ci_logs ORDER BY job_id, attempt, seq"); err != nil {
		return nil, err
	}
	if t.ended, err = collect[ended](ctx, conn, "SELECT job_id, attempt, claim_token::text, outcome::text FROM ci_attempts ORDER BY job_id, attempt"); err != nil {
		return nil, err
	}
	t.runs, err = collect[run](ctx, conn, `
		SELECT id, repository, coalesce(head_sha, ''), status::text, coalesce(principal, ''), coalesce(idempotency_key, ''), created_at FROM ci_runs ORDER BY id`)
	if err != nil {
		return nil, err
	}
	rows, err = conn.Query(ctx, "SELECT to_jsonb(j) FROM ci_jobs j ORDER BY id")
	if err != nil {
		return nil, err
	}
	t.jobs, err = pgx.CollectRows(rows, pgx.RowTo[job])
	return t, err
}

func (t *trail) readMoves(ctx context.Context, conn *pgx.Conn) error {
	rows, err := conn.Query(ctx, "SELECT seq, at, login, before, after FROM chaos.moves ORDER BY seq")
	if err != nil {
		return err
	}
	var m move
	var before, after []byte
	_, err = pgx.ForEachRow(rows, []any{&m.Seq, &m.At, &m.Login, &before, &after}, func() error {
		m.Before, m.After = job{}, job{}
		if before != nil {
			if err := json.Unmarshal(before, &m.Before); err != nil {
				return err
			}
		}
		if err := json.Unmarshal(after, &m.After); err != nil {
			return err
		}
		t.moves = append(t.moves, m)
		t.runOf[m.After.ID] = m.After.Run
		return nil
	})
	return err
}

func collect[T any](ctx context.Context, conn *pgx.Conn, sql string) ([]T, error) {
	rows, err := conn.Query(ctx, sql)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[T])
}

func keys[K cmp.Ordered, V any](m map[K]V) iter.Seq[K] { return maps.Keys(m) }

func held(status string) bool { return status == "initializing" || status == "running" }

func final(status string) bool {
	switch status {
	case "success", "failure", "error", "cancelled", "skipped":
		return true
	}
	return false
}
