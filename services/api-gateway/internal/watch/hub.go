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
	"time"

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

	mu      sync.Mutex
	stopped bool
	feeds   map[*Feed]struct{}
	states  map[int64]*State // of each watched run; 0: the list
}

// State is a watched run, or the list, at one moment. It is shared by all watchers and never changed.
type State struct {
	Run     *runs.Run       // nil: the list
	Message *lockstepv1.Run // the same for RPC
	JSON    []byte          // and for WebSocket and SSE
}

// final reports whether nothing will change any more.
func (s *State) final() bool { return s != nil && s.Run != nil && s.Run.Status.Final() }

// NewHub makes a hub that reads from db. Run must run for it to work.
func NewHub(db *jobs.DB, service *runs.Service, log *zap.Logger) *Hub {
	return &Hub{db: db, runs: service, log: log, wake: make(chan struct{}, 1), feeds: map[*Feed]struct{}{}, states: map[int64]*State{}}
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
		wait, err := h.look(ctx)
		switch {
		case err == nil:
			failing = false
		case ctx.Err() != nil:
			return
		case !failing:
			failing = true // said once, until it works again
			h.log.Warn("watchers wait for the database", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(restBeat):
		}
		timer.Reset(wait)
	}
}

// look reads what is watched and hands out what is new. wait is how long nothing needs another look, wakes apart.
func (h *Hub) look(ctx context.Context) (wait time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	watched, live := h.watched()
	if len(watched) == 0 {
		return idleTick, nil
	}
	if err := h.lookAtRuns(ctx, watched); err != nil {
		return idleTick, err
	}
	more, err := h.lookAtLogs(ctx)
	switch {
	case err != nil:
		return idleTick, err
	case more:
		return 0, nil
	case live:
		return liveTick, nil
	}
	return idleTick, nil
}

// watched returns the states that somebody watches, by run, and whether steps or logs may change without a wake. What
// nobody watches any more is forgotten.
func (h *Hub) watched() (states map[int64]*State, live bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	states = map[int64]*State{}
	for f := range h.feeds {
		state := h.states[f.run]
		states[f.run] = state
		live = live || (f.run != 0 && !state.final()) || len(f.tails) > 0
	}
	maps.DeleteFunc(h.states, func(run int64, _ *State) bool { _, is := states[run]; return !is })
	return states, live
}

// lookAtRuns renews the states: of the list, and of the runs whose version has risen.
func (h *Hub) lookAtRuns(ctx context.Context, watched map[int64]*State) error {
	fresh := map[int64]*State{}
	if old, listed := watched[0]; listed {
		state, err := h.readList(ctx)
		if err != nil {
			return err
		}
		if old == nil || string(old.JSON) != string(state.JSON) {
			fresh[0] = state
		}
	}

	unfinished := slices.DeleteFunc(slices.Collect(maps.Keys(watched)), func(run int64) bool { return run == 0 || watched[run].final() })
	if len(unfinished) > 0 {
		versions, err := h.runs.Versions(ctx, unfinished)
		if err != nil {
			return err
		}
		changed := slices.DeleteFunc(unfinished, func(run int64) bool {
			version, exists := versions[run]
			return !exists || watched[run] != nil && watched[run].Run.Version == version
		})
		if len(changed) > 0 {
			found, err := h.runs.Read(ctx, changed)
			if err != nil {
				return err
			}
			for _, run := range found {
				id, _ := runs.ParseID(run.ID) // the database's own
				fresh[id] = newState(run)
			}
		}
	}

	h.mu.Lock()
	defer h.mu.Unlock()
	for run, state := range fresh {
		h.states[run] = state
	}
	for f := range h.feeds {
		if state := h.states[f.run]; state != nil && state != f.taken {
			f.signal()
		}
	}
	return nil
}

func (h *Hub) readList(ctx context.Context) (*State, error) {
	list, err := h.runs.Summaries(ctx, latestRuns)
	if err != nil {
		return nil, err
	}
	message := &lockstepv1.LatestRuns{}
	for i := range list {
		message.Runs = append(message.Runs, list[i].Message())
	}
	return &State{JSON: wire.Tagged("runs", message)}, nil
}

func newState(run runs.Run) *State {
	message := run.Message()
	return &State{Run: &run, Message: message, JSON: wire.Tagged("run", &lockstepv1.WatchRunResponse{Run: message})}
}

// lookAtLogs reads on for followers that have taken what they were given. more: not all of them, or not all there is.
func (h *Hub) lookAtLogs(ctx context.Context) (more bool, err error) {
	positions, more := h.hungry()
	if len(positions) == 0 {
		return false, nil
	}
	read, err := readLogs(ctx, h.db.Pool(), positions)
	if err != nil {
		return false, err
	}
	for _, r := range read {
		if r.err != nil {
			h.log.Error("log not shown", zap.Error(r.err))
		}
	}
	asked := map[position]bool{}
	for _, p := range positions {
		asked[p] = true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for f := range h.feeds {
		for _, t := range f.tails {
			if !asked[t.position] || t.piece != nil || t.done { // it has moved since it was asked for, or is new
				continue
			}
			r, found := read[t.position]
			if t.feed(r, found) {
				f.signal()
			}
		}
	}
	return more, nil
}

// hungry returns where followers wait for log, each position once, at most maxPositions of them.
func (h *Hub) hungry() (positions []position, more bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	seen := map[position]bool{}
	for f := range h.feeds { // in random order: nobody is always last
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
	for f := range h.feeds {
		close(f.closed)
	}
	clear(h.feeds)
}
