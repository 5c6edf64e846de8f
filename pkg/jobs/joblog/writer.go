package joblog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
)

// DefaultLimit is how many bytes of one attempt's log are stored by default.
const DefaultLimit = 64 << 20

// MinLimit is the least a limit may be.
const MinLimit = 1 << 10

const (
	chunkEvery = 100 * time.Millisecond // how long a byte waits for company at most
	appendTry  = 10 * time.Second       // one try of one append
	retryFirst = 100 * time.Millisecond
	retryMost  = 5 * time.Second
)

// Options of a writer.
type Options struct {
	// Dir is a folder for the bytes that are not stored yet, at most Limit of them. Nobody else may write to it, and
	// the caller removes it after Close.
	Dir string
	// Limit is how many bytes are stored, at least MinLimit. Of a longer log the first and the last half are kept, and a
	// line between them says how much was cut. The last half follows when the log ends.
	Limit int64
	Log   *zap.Logger
}

// Writer appends the log of one claim. While the database is away the bytes wait on disk; nothing is lost, and
// nobody who writes is held up.
type Writer struct {
	pool *pgxpool.Pool
	job  *jobs.Job
	log  *zap.Logger

	more chan struct{} // size 1: look at the spool again
	done chan struct{} // closed when ship has returned
	stop context.CancelFunc

	mu    sync.Mutex
	spool *spool
	err   error // of ship
}

// NewWriter starts the log of a claim.
func NewWriter(pool *pgxpool.Pool, job *jobs.Job, o Options) (*Writer, error) {
	if o.Limit < MinLimit {
		return nil, fmt.Errorf("log of job %d: a limit of %d bytes is less than %d", job.ID, o.Limit, MinLimit)
	}
	spool, err := newSpool(o.Dir, o.Limit)
	if err != nil {
		return nil, fmt.Errorf("log of job %d: %w", job.ID, err)
	}
	ctx, stop := context.WithCancel(context.Background())
	w := &Writer{
		pool: pool, job: job, log: o.Log.With(zap.Int64("job_id", job.ID), zap.Int("attempt", job.Attempt)),
		more: make(chan struct{}, 1), done: make(chan struct{}), stop: stop,
		spool: spool,
	}
	go func() {
		defer close(w.done)
		err := w.ship(ctx)
		w.mu.Lock()
		w.err = err
		w.mu.Unlock()
	}()
	return w, nil
}

// Write takes all of p, or says why the disk does not: then the log is broken and the job should end. After Close it
// takes nothing.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.spool.sealed {
		return 0, errors.New("write to a log that was closed")
	}
	if err := w.spool.write(p); err != nil {
		return 0, err
	}
	w.nudge()
	return len(p), nil
}

// Offset is where in the stored log the next byte will be. Behind the limit it is where the cut will be: where the
// bytes end up is not known before the end.
func (w *Writer) Offset() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.spool.headSize()
}

// Close stores what is left and waits for it, however long the database is away, or until ctx ends. ErrClaimLost: the
// claim is another's, and no byte was stored after it was.
func (w *Writer) Close(ctx context.Context) error {
	w.mu.Lock()
	w.spool.seal()
	w.nudge()
	w.mu.Unlock()

	var cut error
	select {
	case <-w.done:
	case <-ctx.Done():
		cut = context.Cause(ctx)
	}
	w.stop()
	<-w.done
	w.mu.Lock()
	defer w.mu.Unlock()
	w.spool.close()
	if cut != nil && w.err != nil && !errors.Is(w.err, jobs.ErrClaimLost) {
		return fmt.Errorf("%w; last: %w", cut, w.err)
	}
	return w.err
}

func (w *Writer) nudge() {
	select {
	case w.more <- struct{}{}:
	default:
	}
}

// ship stores chunk by chunk until the log is closed and all of it stored, the claim is lost, or ctx ends.
func (w *Writer) ship(ctx context.Context) error {
	var offset int64
	buf := make([]byte, MaxChunk)
	for seq := 0; ; seq++ {
		n, err := w.next(ctx, buf, offset)
		if err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
		text := buf[:n]
		c := chunk{seq: seq, offset: offset, size: n, lines: bytes.Count(text, []byte("\n")), data: pack(text)}
		if err := w.store(ctx, c); err != nil {
			return err
		}
		offset += int64(n)
	}
}

// next waits for bytes to store, and then a little longer for company; 0 means that there will be none.
func (w *Writer) next(ctx context.Context, buf []byte, offset int64) (n int, err error) {
	var late <-chan time.Time
	overdue := false
	for {
		w.mu.Lock()
		n := int(min(int64(len(buf)), w.spool.readable()-offset))
		if n == len(buf) || w.spool.sealed || n > 0 && overdue {
			err := w.spool.readAt(buf[:n], offset)
			w.mu.Unlock()
			return n, err
		}
		w.mu.Unlock()
		if n > 0 && late == nil {
			late = time.After(chunkEvery)
		}
		select {
		case <-w.more:
		case <-late:
			overdue = true
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// chunk is one row to be.
type chunk struct {
	seq    int
	offset int64
	size   int
	lines  int
	data   []byte
}

// store appends one chunk, trying again until it is stored, the claim is lost, or ctx ends.
func (w *Writer) store(ctx context.Context, c chunk) error {
	wait := &jobs.Backoff{Next: retryFirst, Most: retryMost}
	for {
		err := w.append(ctx, c)
		if err == nil || errors.Is(err, jobs.ErrClaimLost) {
			return err
		}
		if wait.Next == retryFirst {
			w.log.Warn("could not store the log, trying again", zap.Error(err))
		}
		if !wait.Sleep(ctx) {
			return err
		}
	}
}

func (w *Writer) append(ctx context.Context, c chunk) error {
	ctx, cancel := context.WithTimeout(ctx, appendTry)
	defer cancel()
	var held bool
	err := w.pool.QueryRow(ctx, appendSQL, pgx.NamedArgs{
		"job": w.job.ID, "token": w.job.Token, "log_day": w.job.LogDay, "attempt": w.job.Attempt,
		"seq": c.seq, "byte_offset": c.offset, "byte_count": c.size, "line_count": c.lines, "data": c.data,
	}).Scan(&held)
	if err == nil && !held {
		err = jobs.ErrClaimLost
	}
	if err != nil {
		return fmt.Errorf("append to the log of job %d attempt %d: %w", w.job.ID, w.job.Attempt, err)
	}
	return nil
}
