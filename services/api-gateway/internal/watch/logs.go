package watch

import (
	"context"
	_ "embed"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/lockstep-ci/lockstep/pkg/jobs/joblog"
)

const (
	maxPositions = 64 // logs read by one statement; the others' turn is the next one
	maxChunks    = 4  // of each log: 256 KiB at most
)

//go:embed queries/logs.sql
var logsSQL string

// position is from where somebody wants a log. Followers at the same position share what is read.
type position struct {
	run, job int64
	attempt  int32
	offset   int64 // the next byte
	seq      int   // the chunk that holds it; 0 while unknown
}

// reading is what a log holds from a position on.
type reading struct {
	data   []byte
	chunks int
	seq    int   // of the chunk that holds the byte behind data
	ended  bool  // the attempt has ended
	err    error // this log cannot be read
}

// full reports whether there may be more at once.
func (r *reading) full() bool { return r.chunks == maxChunks }

// readLogs reads from all positions in one statement. A position without a reading is not of its run.
func readLogs(ctx context.Context, pool *pgxpool.Pool, positions []position) (map[position]reading, error) {
	var runs, jobIDs, offsets []int64
	var seqs []int
	var attempts []int32
	for _, p := range positions {
		runs, jobIDs, offsets = append(runs, p.run), append(jobIDs, p.job), append(offsets, p.offset)
		attempts, seqs = append(attempts, p.attempt), append(seqs, p.seq)
	}
	rows, err := pool.Query(ctx, logsSQL, pgx.NamedArgs{
		"runs": runs, "jobs": jobIDs, "attempts": attempts, "offsets": offsets, "seqs": seqs, "chunks": maxChunks,
	})
	if err != nil {
		return nil, fmt.Errorf("read logs: %w", err)
	}
	read := map[position]reading{}
	var n int
	var ended bool
	var c chunk
	_, err = pgx.ForEachRow(rows, []any{&n, &ended, &c.seq, &c.offset, &c.size, &c.packed}, func() error {
		p := positions[n-1]
		r, again := read[p]
		if !again {
			r = reading{seq: p.seq, ended: ended}
		}
		if c.seq != nil && r.err == nil {
			r.err = r.add(p, c)
		}
		read[p] = r
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read logs: %w", err)
	}
	return read, nil
}

// chunk is one row; without a number it says that there is none from the position on.
type chunk struct {
	seq    *int
	offset *int64
	size   *int
	packed []byte
}

// add appends a chunk to what was read from p on.
func (r *reading) add(p position, c chunk) error {
	text, err := joblog.Unpack(c.packed, *c.size)
	if err != nil {
		return fmt.Errorf("read log of job %d attempt %d chunk %d: %w", p.job, p.attempt, *c.seq, err)
	}
	next := p.offset + int64(len(r.data))
	if next < *c.offset || next-*c.offset > int64(len(text)) { // within the first chunk: a follower came back in its middle
		return fmt.Errorf("read log of job %d attempt %d chunk %d: it begins at byte %d, wanted %d", p.job, p.attempt, *c.seq, *c.offset, next)
	}
	r.data = append(r.data, text[next-*c.offset:]...)
	r.seq = *c.seq + 1
	r.chunks++
	return nil
}
