package rest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/params"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/runs"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/watch"
)

const (
	maxLogs       = 8 // that one stream of events follows
	versionLimit  = 10 * time.Second
	keepAlive     = 15 * time.Second // between two signs of life: a client that has gone is noticed by them
	keptBuffer    = 16 << 10         // bytes that a stream keeps between two events: a piece of log is larger and rare
	endOfEvents   = "end"
	lastEventID   = "Last-Event-ID"
	invalidHeader = "invalid_header"
)

// RunEvents answers GET /api/v1/runs/{id}/events as server-sent events: the run whenever it has changed, and with ?logs=<job
// id>,… the logs of its jobs, through all attempts. The id of an event is a place, and a client that comes back with it goes on
// from there. After the run and the logs have ended, so does the answer; who comes back behind the end is told 204, on which a
// browser's EventSource gives up.
func (a *API) RunEvents(w http.ResponseWriter, r *http.Request) error {
	if err := watch.CheckOrigin(r, a.origin); err != nil {
		return err
	}
	values, err := query(r, "logs")
	if err != nil {
		return err
	}
	at, err := readPlace(r.PathValue("id"), values["logs"], r.Header.Get(lastEventID))
	if err != nil {
		return err
	}
	asking, cancel := context.WithTimeout(r.Context(), versionLimit)
	version, err := a.service.Version(asking, at.run)
	cancel()
	switch {
	case err != nil:
		return err
	case at.version > version:
		return errPlace
	case at.ended:
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	run, _ := runs.ParseID(at.run) // Version knows it
	feed, err := a.hub.Open(run)
	if err != nil {
		return err
	}
	defer feed.Close()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would keep events back
	if r.Method == http.MethodHead {
		return nil
	}
	out := &events{w: w, control: http.NewResponseController(w), at: at}
	err = out.serve(r.Context(), feed)
	if err != nil && !out.begun {
		return err
	}
	return nil // it has ended without the last event: the client comes back
}

var errPlace error = problem.In(lastEventID, http.StatusBadRequest, invalidHeader, "give the id of an event of this run and these logs")

// place is what a client has been told.
type place struct {
	run     string
	version int64
	logs    []logPlace
	ended   bool // all there was
}

type logPlace struct {
	job, offset int64
	attempt     int32 // 0: none told yet
	over        bool
}

// String is the id of an event: run:version, then job.attempt.offset for each log.
func (p *place) String() string {
	text := fmt.Sprintf("%s:%d", p.run, p.version)
	for _, l := range p.logs {
		if l.attempt > 0 {
			text += fmt.Sprintf(",%d.%d.%d", l.job, l.attempt, l.offset)
		}
	}
	if p.ended {
		text += "," + endOfEvents
	}
	return text
}

// readPlace reads which logs are wanted, and from where on.
func readPlace(run, logs, last string) (place, error) {
	at := place{run: run}
	for _, text := range splitList(logs) {
		job, valid := runs.ParseID(text)
		if !valid || slices.ContainsFunc(at.logs, func(l logPlace) bool { return l.job == job }) || len(at.logs) == maxLogs {
			return at, problem.In("logs", http.StatusBadRequest, "invalid_parameter", fmt.Sprintf("give the ids of at most %d jobs, separated by commas", maxLogs))
		}
		at.logs = append(at.logs, logPlace{job: job})
	}
	for i, text := range splitList(last) {
		switch {
		case i == 0:
			of, told, _ := strings.Cut(text, ":")
			version, valid := number(told)
			if of != run || !valid {
				return at, errPlace
			}
			at.version = version
		case text == endOfEvents && !at.ended:
			at.ended = true
		case at.ended || !at.goOn(text):
			return at, errPlace
		}
	}
	return at, nil
}

// goOn sets the place in one log.
func (p *place) goOn(text string) bool {
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return false
	}
	job, valid := runs.ParseID(parts[0])
	attempt := params.Number(parts[1])
	offset, known := number(parts[2])
	i := slices.IndexFunc(p.logs, func(l logPlace) bool { return l.job == job && l.attempt == 0 })
	if !valid || attempt < 1 || !known || i < 0 {
		return false
	}
	p.logs[i].attempt, p.logs[i].offset = attempt, offset
	return true
}

// number reads decimal digits, from 0 on.
func number(text string) (n int64, valid bool) {
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil && n >= 0 && strconv.FormatInt(n, 10) == text
}

func splitList(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}

// events writes one stream.
type events struct {
	w       http.ResponseWriter
	control *http.ResponseController
	at      place
	out     []byte // not written yet
	begun   bool
}

func (e *events) serve(ctx context.Context, feed *watch.Feed) error {
	chases := make([]*watch.Chase, len(e.at.logs))
	for i, l := range e.at.logs {
		var err error
		if chases[i], err = feed.Chase(l.job, l.attempt, l.offset, false); err != nil {
			return err
		}
	}
	if err := e.flush(); err != nil { // the client learns at once that it is served
		return err
	}
	alive := time.NewTicker(keepAlive)
	defer alive.Stop()
	for final := false; ; {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-feed.Closed():
			return watch.ErrClosed
		case <-alive.C:
			e.out = append(e.out, ":\n\n"...)
		case <-feed.Ready():
			state, pieces := feed.Take()
			if state != nil {
				if final = state.Run.Status.Final(); state.Run.Version > e.at.version {
					e.at.version = state.Run.Version
					e.send("run", state.JSON)
				}
			}
			for i, chase := range chases {
				if err := e.tell(&e.at.logs[i], chase, state, pieces); err != nil {
					return err
				}
			}
			if final && !slices.ContainsFunc(e.at.logs, func(l logPlace) bool { return !l.over }) {
				e.at.ended = true
				e.send(endOfEvents, []byte("{}"))
				return e.flush()
			}
		}
		if err := e.flush(); err != nil {
			return err
		}
	}
}

// tell sends what is new of one log.
func (e *events) tell(l *logPlace, chase *watch.Chase, state *watch.State, taken []watch.Piece) error {
	if l.over {
		return nil
	}
	pieces, over, err := chase.Advance(state, taken)
	for i := range pieces {
		l.attempt, l.offset = pieces[i].Attempt, pieces[i].Offset+int64(len(pieces[i].Data))
		e.send("log", pieces[i].JSON())
	}
	if l.over = over; err != nil {
		e.send("problem", problem.Message(problem.In("logs", http.StatusNotFound, "log_unavailable", err.Error())))
		l.over = true
	}
	return nil
}

// send adds one event to what the next flush writes.
func (e *events) send(kind string, data []byte) {
	e.out = fmt.Appendf(e.out, "event: %s\nid: %s\ndata: ", kind, e.at.String())
	e.out = append(append(e.out, data...), "\n\n"...)
}

func (e *events) flush() error {
	e.begun = true
	_, err := e.w.Write(e.out)
	if e.out = e.out[:0]; cap(e.out) > keptBuffer {
		e.out = nil
	}
	return errors.Join(err, e.control.Flush())
}
