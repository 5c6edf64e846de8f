package joblog

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// readChunks bounds one query: at most 2 MiB of log.
const readChunks = 32

// Reader reads the log of one attempt. One goroutine may use it at a time.
type Reader struct {
	pool    *pgxpool.Pool
	logDay  time.Time
	job     int64
	attempt int

	// Where the last ReadFrom stopped: its offset, and the chunk that holds the next byte.
	offset int64
	seq    int
}

// NewReader reads the log of an attempt of a job whose run was created on logDay (ci_runs.log_day).
func NewReader(pool *pgxpool.Pool, logDay time.Time, job int64, attempt int) *Reader {
	return &Reader{pool: pool, logDay: logDay, job: job, attempt: attempt}
}

// ReadFrom returns log from a byte offset on and the offset behind it: at most limit bytes, and maybe fewer even if there
// are more. No bytes means that there are none yet at this offset. Going on where the last call stopped is cheapest.
func (r *Reader) ReadFrom(ctx context.Context, offset int64, limit int) (p []byte, next int64, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("read the log of job %d attempt %d from byte %d: %w", r.job, r.attempt, offset, err)
		}
	}()
	if offset < 0 || limit < 1 {
		return nil, offset, fmt.Errorf("limit %d: an offset is at least 0, a limit 1", limit)
	}
	seq := 0
	if offset == r.offset {
		seq = r.seq
	}
	rows, err := r.pool.Query(ctx, readSQL, pgx.NamedArgs{
		"log_day": r.logDay, "job": r.job, "attempt": r.attempt, "seq": seq, "byte_offset": offset, "chunks": readChunks,
	})
	if err != nil {
		return nil, offset, err
	}
	chunks, err := pgx.CollectRows(rows, pgx.RowToStructByPos[stored])
	if err != nil {
		return nil, offset, err
	}
	next = offset
	for _, c := range chunks {
		if c.Offset > next || c.Offset+int64(c.Size) <= next {
			return nil, offset, fmt.Errorf("chunk %d: %d bytes from %d on, want byte %d", c.Seq, c.Size, c.Offset, next)
		}
		text, err := Unpack(c.Data, c.Size)
		if err != nil {
			return nil, offset, fmt.Errorf("chunk %d: %w", c.Seq, err)
		}
		text = text[next-c.Offset:]
		if rest := limit - len(p); len(text) > rest { // it will be needed again
			p, next, seq = append(p, text[:rest]...), next+int64(rest), c.Seq
			break
		}
		p, next, seq = append(p, text...), next+int64(len(text)), c.Seq+1
	}
	r.offset, r.seq = next, seq
	return p, next, nil
}

// stored is a row of read.sql.
type stored struct {
	Seq    int
	Offset int64
	Size   int
	Data   []byte
}
