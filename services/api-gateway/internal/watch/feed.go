package watch

import (
	"context"
	"errors"
	"strconv"

	lockstepv1 "github.com/lockstep-ci/lockstep/services/api-gateway/gen/lockstep/v1"
)

// Feed is what one watcher is told: a run (or the list) whenever it has changed, and pieces of the logs it follows. Wait
// for Ready, then Take. Its methods may be called from several goroutines.
type Feed struct {
	hub    *Hub
	run    int64
	ready  chan struct{} // size 1
	closed chan struct{}

	// Guarded by the hub's mutex.
	taken *State // what Take has returned last
	tails map[int64]*tail
}

// tail is one followed log.
type tail struct {
	position
	piece *Piece // not taken yet
	full  bool   // there is more behind the piece
	done  bool   // nothing more will come
}

// Piece is a part of a log. Pieces of one attempt follow each other without a gap.
type Piece struct {
	Job     int64
	Attempt int32
	Offset  int64 // of the first byte
	Data    []byte
	Ended   bool  // the attempt has ended, and this is the end of its log
	Err     error // the log cannot be read on
}

// Message is the piece as every interface tells it.
func (p *Piece) Message() *lockstepv1.FollowLogResponse {
	return &lockstepv1.FollowLogResponse{
		JobId: strconv.FormatInt(p.Job, 10), Attempt: p.Attempt, Offset: p.Offset, Data: p.Data, Ended: p.Ended,
	}
}

// Errors of a piece, and of following too many.
var (
	ErrNoSuchJob   = errors.New("the run has no such job")
	ErrUnreadable  = errors.New("the log is damaged from here on")
	ErrTooManyLogs = errors.New("watch: too many logs")
)

// Open watches a run; 0 is the list of the latest runs. Close the feed when done.
func (h *Hub) Open(run int64) (*Feed, error) {
	f := &Feed{hub: h, run: run, ready: make(chan struct{}, 1), closed: make(chan struct{}), tails: map[int64]*tail{}}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.stopped:
		return nil, ErrClosed
	case len(h.feeds) >= maxFeeds:
		return nil, ErrTooMany
	}
	h.feeds[f] = struct{}{}
	if h.states[run] != nil {
		f.signal()
	}
	h.nudge()
	return f, nil
}

// Close ends the feed; the hub may have ended it before.
func (f *Feed) Close() {
	f.hub.mu.Lock()
	defer f.hub.mu.Unlock()
	delete(f.hub.feeds, f)
}

// Ready receives when there may be something to take.
func (f *Feed) Ready() <-chan struct{} { return f.ready }

// Closed is closed when the hub has stopped and nothing more will come.
func (f *Feed) Closed() <-chan struct{} { return f.closed }

// Take returns what is new since the last call: the state if it has changed, else nil, and a piece of each followed log that
// has more. The hub reads on for those.
func (f *Feed) Take() (state *State, pieces []Piece) {
	f.hub.mu.Lock()
	defer f.hub.mu.Unlock()
	if now := f.hub.states[f.run]; now != f.taken {
		state, f.taken = now, now
	}
	for job, t := range f.tails {
		if t.piece == nil {
			continue
		}
		pieces = append(pieces, *t.piece)
		t.piece = nil
		if t.done {
			delete(f.tails, job)
		} else if t.full {
			f.hub.nudge()
		}
	}
	return state, pieces
}

// Follow asks for the log of a job of this run from a byte of one attempt on, instead of what was asked of that job before.
func (f *Feed) Follow(job int64, attempt int32, offset int64) error {
	f.hub.mu.Lock()
	defer f.hub.mu.Unlock()
	if len(f.tails) >= maxTails && f.tails[job] == nil {
		return ErrTooManyLogs
	}
	f.tails[job] = &tail{position: position{run: f.run, job: job, attempt: attempt, offset: offset}}
	f.hub.nudge()
	return nil
}

// Unfollow takes a Follow back.
func (f *Feed) Unfollow(job int64) {
	f.hub.mu.Lock()
	defer f.hub.mu.Unlock()
	delete(f.tails, job)
}

// signal says that there is something to take. The hub's mutex is held.
func (f *Feed) signal() {
	select {
	case f.ready <- struct{}{}:
	default:
	}
}

// feed gives the follower what was read at its position, and reports whether that is anything.
func (t *tail) feed(r reading, found bool) bool {
	piece := Piece{Job: t.job, Attempt: t.attempt, Offset: t.offset, Data: r.data}
	switch {
	case !found:
		piece.Err = ErrNoSuchJob
	case r.err != nil:
		piece.Err = ErrUnreadable
	default:
		piece.Ended = r.ended && !r.full()
	}
	t.done = piece.Ended || piece.Err != nil
	if len(r.data) == 0 && !t.done {
		return false
	}
	t.offset += int64(len(r.data))
	t.seq, t.full, t.piece = r.seq, r.full(), &piece
	return true
}

// Wait waits for Ready. It returns the context's error, or ErrClosed.
func (f *Feed) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-f.closed:
		return ErrClosed
	case <-f.ready:
		return nil
	}
}
