// Package watch shows runs and logs as they change to everybody who looks.
//
// One Hub reads for all of them: woken by notifications, and by a timer that alone is enough. It reads a watched run
// once for all its watchers, and all followed logs in one statement. What a watcher has not taken yet is at most the
// newest state and one piece of each log it follows; a slow one holds up nobody, needs no more memory, and goes on in
// the table where it stopped.
package watch

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	lockstepv1 "github.com/lockstep-ci/lockstep/services/api-gateway/gen/lockstep/v1"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/runs"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/wire"
)

const (
	liveTick   = 100 * time.Millisecond // between two looks while something watched is not final: steps and logs notify nobody
	idleTick   = time.Second            // otherwise
	restBeat   = 20 * time.Millisecond  // at least between two looks, so that a burst of wakes is one
	tellCost   = 10 * time.Microsecond  // of rest for each watcher told, which costs about as much: half of the time is left for others
	lookLimit  = 10 * time.Second       // for the statements of one look
	latestRuns = 30                     // in the list
	maxFeeds   = 10_000                 // watchers of one process
	maxTails   = 8                      // logs one watcher follows
)

// Why there is no feed, or none any more.
var (
	ErrTooMany error = problem.New(http.StatusServiceUnavailable, "too_many_watchers", "no further watcher can be served now; try again")
	ErrClosed  error = problem.New(http.StatusServiceUnavailable, "stopping", "this gateway is stopping: connect again")
)

// Hub reads for all watchers.
type Hub struct {
	db   *jobs.DB
	runs *runs.Service
	log  *zap.Logger
	wake chan struct{} // size 1

	mu        sync.Mutex
	stopped   bool
	feeds     int
	topics    map[subject]*topic // what is watched
	followers map[*Feed]struct{} // those that follow a log
}

// subject is what somebody may watch: a run, or when it is 0 the list of the latest runs; of one repository, unless that is empty.
type subject struct {
	run        int64
	repository string
}

// topic is a subject that somebody watches.
type topic struct {
	subject
	state atomic.Pointer[State] // nil: not read yet; the hub's loop alone stores
	feeds map[*Feed]struct{}    // never empty; guarded by the hub's mutex
}

// State is a watched run, or the list, at one moment. It is shared by all watchers and never changed.
type State struct {
	Run     *runs.Run       // nil: the list
	Message *lockstepv1.Run // the same for RPC
	JSON    []byte          // and for WebSocket and SSE
	frame   []byte          // that as a whole frame of WebSocket
}

// final reports whether nothing will change any more.
func (s *State) final() bool { return s != nil && s.Run != nil && s.Run.Status.Final() }

// NewHub makes a hub that reads from db. Run must run for it to work.
func NewHub(db *jobs.DB, service *runs.Service, log *zap.Logger) *Hub {
	h := &Hub{db: db, runs: service, log: log, wake: make(chan struct{}, 1), topics: map[subject]*topic{}, followers: map[*Feed]struct{}{}}
	db.Metrics().MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "lockstep_watchers", Help: "Who watches a run, the list or a log now."}, func() float64 {
		h.mu.Lock()
		defer h.mu.Unlock()
		return float64(h.feeds)
	}))
	return h
}

// Run serves the watchers until ctx ends; then it closes all feeds.
func (h *Hub) Run(ctx context.Context) {
	defer h.close()
	stop := h.db.Listen(func(jobs.Wake) { h.nudge() })
	defer stop()

	var failing bool
	for timer := time.NewTimer(0); ; {
		select {
		case <-ctx.Done():
			return
		case <-h.wake:
		case <-timer.C:
		}
		began := time.Now()
		wait, told, err := h.look(ctx)
		switch {
		case err == nil:
			failing = false
		case ctx.Err() != nil:
			return
		case !failing:
			failing = true // said once, until it works again
			h.log.Warn("watchers wait for the database", zap.Error(err))
		}
		// The more there are to tell, and the more a look costs, the fewer looks there are: what changes meanwhile is told as one,
		// and requests get their turn between two crowds.
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(restBeat, min(time.Since(began), idleTick), time.Duration(told)*tellCost)):
		}
		timer.Reset(wait)
	}
}

// look reads what is watched and hands out what is new, to so many watchers. wait is how long nothing needs another look, wakes
// apart.
func (h *Hub) look(ctx context.Context) (wait time.Duration, told int, err error) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	watched, live := h.watched()
	if len(watched) == 0 {
		return idleTick, 0, nil
	}
	told, err = h.lookAtRuns(ctx, watched)
	if err != nil {
		return idleTick, told, err
	}
	fed, more, err := h.lookAtLogs(ctx)
	told += fed
	switch {
	case err != nil:
		return idleTick, told, err
	case more:
		return 0, told, nil
	case live:
		return liveTick, told, nil
	}
	return idleTick, told, nil
}

// watched returns what somebody watches, and whether steps or logs may change without a wake.
func (h *Hub) watched() (topics map[subject]*topic, live bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	live = len(h.followers) > 0
	for _, t := range h.topics {
		live = live || (t.run != 0 && !t.state.Load().final())
	}
	return maps.Clone(h.topics), live
}

// lookAtRuns renews the states: of the lists, and of the runs whose version has risen. It returns how many watchers are told.
func (h *Hub) lookAtRuns(ctx context.Context, watched map[subject]*topic) (told int, err error) {
	fresh := map[*topic]*State{}
	var unfinished []int64
	for _, t := range watched {
		switch {
		case t.run != 0 && !t.state.Load().final():
			unfinished = append(unfinished, t.run)
		case t.run == 0:
			state, err := h.readList(ctx, t.repository)
			if err != nil {
				return 0, err
			}
			if old := t.state.Load(); old == nil || string(old.JSON) != string(state.JSON) {
				fresh[t] = state
			}
		}
	}
	if len(unfinished) > 0 {
		versions, err := h.runs.Versions(ctx, unfinished)
		if err != nil {
			return 0, err
		}
		changed := slices.DeleteFunc(unfinished, func(run int64) bool {
			version, exists := versions[run]
			state := watched[subject{run: run}].state.Load()
			return !exists || state != nil && state.Run.Version == version
		})
		if len(changed) > 0 {
			found, err := h.runs.Read(ctx, changed)
			if err != nil {
				return 0, err
			}
			for _, run := range found {
				id, _ := runs.ParseID(run.ID) // the database's own
				fresh[watched[subject{run: id}]] = newState(run)
			}
		}
	}

	h.mu.Lock()
	defer h.mu.Unlock()
	for t, state := range fresh {
		t.state.Store(state)
		for f := range t.feeds {
			f.signal()
		}
		told += len(t.feeds)
	}
	return told, nil
}

func (h *Hub) readList(ctx context.Context, repository string) (*State, error) {
	list, err := h.runs.Summaries(ctx, repository, latestRuns)
	if err != nil {
		return nil, err
	}
	message := &lockstepv1.LatestRuns{}
	for i := range list {
		message.Runs = append(message.Runs, list[i].Message())
	}
	state := &State{}
	state.frame, state.JSON = framed(wire.Tagged("runs", message))
	return state, nil
}

func newState(run runs.Run) *State {
	message := run.Message()
	state := &State{Run: &run, Message: message}
	state.frame, state.JSON = framed(wire.Tagged("run", &lockstepv1.WatchRunResponse{Run: message}))
	return state
}

// lookAtLogs reads on for followers that have taken what they were given, and returns how many are told. more: not all of them,
// or not all there is.
func (h *Hub) lookAtLogs(ctx context.Context) (told int, more bool, err error) {
	positions, more := h.hungry()
	if len(positions) == 0 {
		return 0, false, nil
	}
	read, err := readLogs(ctx, h.db.Pool(), positions)
	if err != nil {
		return 0, false, err
	}
	for _, r := range read {
		if r.err != nil {
			h.log.Error("log not shown", zap.Error(r.err))
		}
	}
	pieces := map[position]*Piece{} // shared by all who follow from there; nil: nothing new
	for _, p := range positions {
		r, found := read[p]
		pieces[p] = r.piece(p, found)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for f := range h.followers {
		for _, t := range f.tails {
			piece := pieces[t.position]
			if piece == nil || t.piece != nil || t.done { // it has moved since it was asked for, or is new
				continue
			}
			t.take(piece, read[t.position])
			f.signal()
			told++
		}
	}
	return told, more, nil
}

// hungry returns where followers wait for log, each position once, at most maxPositions of them.
func (h *Hub) hungry() (positions []position, more bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	seen := map[position]bool{}
	for f := range h.followers { // in random order: nobody is always last
		for _, t := range f.tails {
			if t.piece != nil || t.done || seen[t.position] {
				continue
			}
			if len(positions) == maxPositions {
				return positions, true
			}
			seen[t.position] = true
			positions = append(positions, t.position)
		}
	}
	return positions, false
}

// nudge asks for a look soon. It never blocks.
func (h *Hub) nudge() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

func (h *Hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopped = true
	for _, t := range h.topics {
		for f := range t.feeds {
			close(f.closed)
			f.signal()
		}
	}
}
