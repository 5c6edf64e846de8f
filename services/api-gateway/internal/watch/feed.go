package watch

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"

	lockstepv1 "github.com/lockstep-ci/lockstep/services/api-gateway/gen/lockstep/v1"
)

// Feed is what one watcher is told: a run (or the list) whenever it has changed, and pieces of the logs it follows. Wait
// for Ready, then Take. One goroutine takes; the other methods may be called from several.
type Feed struct {
	hub    *Hub
	topic  *topic
	ready  chan struct{} // size 1
	closed chan struct{}
	taken  *State // what Take has returned last

	follows atomic.Bool     // there are tails
	tails   map[int64]*tail // guarded by the hub's mutex
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

	told func() (frame, text []byte) // as WebSocket and SSE tell it, made once for all who want it
}

// JSON is the piece as WebSocket and SSE tell it.
func (p *Piece) JSON() []byte {
	if p.told == nil { // nobody shares it
		return pieceMessage(p)
	}
	_, text := p.told()
	return text
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

// Open watches a run. Close the feed when done.
func (h *Hub) Open(run int64) (*Feed, error) { return h.open(subject{run: run}) }

// OpenList watches the list of the latest runs; of one repository, unless it is empty.
func (h *Hub) OpenList(repository string) (*Feed, error) {
	return h.open(subject{repository: repository})
}

func (h *Hub) open(what subject) (*Feed, error) {
	f := &Feed{hub: h, ready: make(chan struct{}, 1), closed: make(chan struct{}), tails: map[int64]*tail{}}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.stopped:
		return nil, ErrClosed
	case h.feeds >= maxFeeds:
		return nil, ErrTooMany
	}
	h.feeds++
	if f.topic = h.topics[what]; f.topic == nil {
		f.topic = &topic{subject: what, feeds: map[*Feed]struct{}{}}
		h.topics[what] = f.topic
	}
	f.topic.feeds[f] = struct{}{}
	if f.topic.state.Load() != nil {
		f.signal()
	}
	h.nudge()
	return f, nil
}

// Close ends the feed. What nobody watches any more is forgotten.
func (f *Feed) Close() {
	h := f.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	h.feeds--
	delete(h.followers, f)
	delete(f.topic.feeds, f)
	if len(f.topic.feeds) == 0 {
		delete(h.topics, f.topic.subject)
	}
}

// Ready receives when there may be something to take.
func (f *Feed) Ready() <-chan struct{} { return f.ready }

// Closed is closed when the hub has stopped and nothing more will come.
func (f *Feed) Closed() <-chan struct{} { return f.closed }

// Take returns what is new since the last call: the state if it has changed, else nil, and a piece of each followed log that
// has more. The hub reads on for those.
func (f *Feed) Take() (state *State, pieces []Piece) {
	if now := f.topic.state.Load(); now != f.taken {
		state, f.taken = now, now
	}
	if !f.follows.Load() { // most do not, and need no mutex
		return state, nil
	}
	f.hub.mu.Lock()
	defer f.hub.mu.Unlock()
	for job, t := range f.tails {
		if t.piece == nil {
			continue
		}
		pieces = append(pieces, *t.piece)
		t.piece = nil
		if t.done {
			f.forget(job)
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
	f.tails[job] = &tail{position: position{run: f.topic.run, job: job, attempt: attempt, offset: offset}}
	f.hub.followers[f] = struct{}{}
	f.follows.Store(true)
	f.hub.nudge()
	return nil
}

// Unfollow takes a Follow back.
func (f *Feed) Unfollow(job int64) {
	f.hub.mu.Lock()
	defer f.hub.mu.Unlock()
	f.forget(job)
}

// forget ends following a job. The hub's mutex is held.
func (f *Feed) forget(job int64) {
	delete(f.tails, job)
	if len(f.tails) == 0 {
		delete(f.hub.followers, f)
		f.follows.Store(false)
	}
}

// signal says that there is something to take, or that the feed is closed. The hub's mutex is held.
func (f *Feed) signal() {
	select {
	case f.ready <- struct{}{}:
	default:
	}
}

// wakeUp lets whoever waits for Ready look around.
func (f *Feed) wakeUp() {
	f.hub.mu.Lock()
	defer f.hub.mu.Unlock()
	f.signal()
}

// piece is what was read at a position for those who follow from there; nil: nothing new.
func (r *reading) piece(at position, found bool) *Piece {
	piece := &Piece{Job: at.job, Attempt: at.attempt, Offset: at.offset, Data: r.data}
	switch {
	case !found:
		piece.Err = ErrNoSuchJob
	case r.err != nil:
		piece.Err = ErrUnreadable
	default:
		piece.Ended = r.ended && !r.full()
	}
	if len(r.data) == 0 && !piece.Ended && piece.Err == nil {
		return nil
	}
	piece.told = sync.OnceValues(func() (frame, text []byte) { return framed(pieceMessage(piece)) })
	return piece
}

// take gives the follower what was read at its position.
func (t *tail) take(piece *Piece, r reading) {
	t.done = piece.Ended || piece.Err != nil
	t.offset += int64(len(piece.Data))
	t.seq, t.full, t.piece = r.seq, r.full(), piece
}

// Wait waits for Ready. It returns why the context has ended, or ErrClosed.
func (f *Feed) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-f.closed:
		return ErrClosed
	case <-f.ready:
	}
	select {
	case <-f.closed:
		return ErrClosed
	default:
		return nil
	}
}
