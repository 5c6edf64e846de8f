package rest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/joblog"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/runs"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/watch"
)

const (
	logPiece    = 256 << 10        // bytes read at once
	readLimit   = 10 * time.Second // for reading one piece
	logPatience = 30 * time.Second // for a client to take one piece
)

// JobLog answers GET /api/v1/jobs/{id}/log: the bytes of one attempt's log as they are stored; the latest attempt's unless
// ?attempt= says which. With ?follow=1 the answer goes on until the job has ended: when the job is tried again, a line
// says so and the next attempt's log follows. An attempt that was named is followed to its own end.
func (a *API) JobLog(w http.ResponseWriter, r *http.Request) error {
	job, err := pathID(r)
	if err != nil {
		return err
	}
	named, follow, err := logQuery(r)
	if err != nil {
		return err
	}
	asking, cancel := context.WithTimeout(r.Context(), readLimit)
	place, err := a.runs.PlaceOf(asking, job)
	cancel()
	if err != nil {
		return err
	}
	if named > place.Attempt {
		return problem.In("attempt", http.StatusNotFound, "not_found", fmt.Sprintf("the job's latest attempt is %d", place.Attempt))
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	out := &stream{w: w, control: http.NewResponseController(w)}
	if follow && r.Method != http.MethodHead {
		err = a.followLog(r.Context(), out, place.Run, job, named)
	} else {
		err = a.copyLog(r.Context(), out, place, job, named)
	}
	if err != nil && out.begun { // too late for a problem: an answer that breaks off is not a whole log
		if !errors.Is(err, watch.ErrClosed) {
			problem.Log(r, a.log, problem.Of(err), err)
		}
		panic(http.ErrAbortHandler)
	}
	return err
}

func logQuery(r *http.Request) (attempt int, follow bool, err error) {
	values, err := query(r, "attempt", "follow")
	if err != nil {
		return 0, false, err
	}
	if text, given := values["attempt"]; given {
		if attempt, err = strconv.Atoi(text); err != nil || attempt < 1 {
			return 0, false, problem.In("attempt", http.StatusBadRequest, "invalid_parameter", "attempts count from 1")
		}
	}
	if text, given := values["follow"]; given {
		if follow, err = strconv.ParseBool(text); err != nil {
			return 0, false, problem.In("follow", http.StatusBadRequest, "invalid_parameter", "is 1 or 0")
		}
	}
	return attempt, follow, nil
}

// copyLog sends what is stored of an attempt now.
func (a *API) copyLog(ctx context.Context, out *stream, place runs.Place, job int64, attempt int) error {
	if attempt == 0 {
		attempt = place.Attempt
	}
	reader := joblog.NewReader(a.pool, place.LogDay, job, attempt)
	for offset := int64(0); ; {
		reading, cancel := context.WithTimeout(ctx, readLimit)
		data, next, err := reader.ReadFrom(reading, offset, logPiece)
		cancel()
		if err != nil || len(data) == 0 {
			return err
		}
		if _, err := out.Write(data); err != nil {
			return err
		}
		offset = next
	}
}

// followLog sends the log as it is written: of the named attempt, or (0) of the latest and those that follow it.
func (a *API) followLog(ctx context.Context, out *stream, run, job int64, named int) error {
	feed, err := a.hub.Open(run)
	if err != nil {
		return problem.New(http.StatusServiceUnavailable, "too_many_watchers", "no further follower can be served now; try again")
	}
	defer feed.Close()
	if err := out.flush(); err != nil { // the client learns at once that it is served
		return err
	}
	attempt, following := named, named != 0
	if following {
		if err := feed.Follow(job, named, 0); err != nil {
			return err
		}
	}
	var now runs.Job
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-feed.Closed():
			return watch.ErrClosed
		case <-feed.Ready():
		}
		state, pieces := feed.Take()
		if state != nil {
			if now, err = jobOf(state, job); err != nil {
				return err
			}
		}
		for _, piece := range pieces {
			if piece.Err != nil {
				return piece.Err
			}
			if _, err := out.Write(piece.Data); err != nil {
				return err
			}
			following = !piece.Ended
		}
		if err := out.flush(); err != nil {
			return err
		}
		switch {
		case following:
		case named != 0, attempt == now.Attempt && now.Status.Final():
			return nil
		case now.Attempt > attempt:
			if out.wrote { // what an attempt without output was is nobody's concern
				fmt.Fprintf(out, "\n=== attempt %d ===\n", now.Attempt) // its error comes again with the next write
			}
			attempt, following = now.Attempt, true
			if err := feed.Follow(job, attempt, 0); err != nil {
				return err
			}
		}
	}
}

func jobOf(state *watch.State, id int64) (runs.Job, error) {
	text := strconv.FormatInt(id, 10)
	for _, job := range state.Run.Jobs {
		if job.ID == text {
			return job, nil
		}
	}
	return runs.Job{}, fmt.Errorf("follow log of job %d: %w", id, jobs.ErrNotFound)
}

// stream writes an answer that may take as long as it likes, but no single piece of it may.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	begun   bool // the header has been sent
	wrote   bool // and something behind it
}

var _ io.Writer = (*stream)(nil)

func (s *stream) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := s.patience(); err != nil {
		return 0, err
	}
	s.begun, s.wrote = true, true
	return s.w.Write(p)
}

func (s *stream) flush() error {
	if err := s.patience(); err != nil {
		return err
	}
	s.begun = true
	return s.control.Flush()
}

func (s *stream) patience() error {
	err := s.control.SetWriteDeadline(time.Now().Add(logPatience))
	if errors.Is(err, http.ErrNotSupported) {
		return nil
	}
	return err
}
