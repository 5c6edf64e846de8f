package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/joblog"
	lockstepv1 "github.com/lockstep-ci/lockstep/services/api-gateway/gen/lockstep/v1"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/watch"
)

const (
	logPiece  = 256 << 10        // bytes of a log read at once
	readLimit = 10 * time.Second // for one statement of a stream
)

// WatchRun sends the run whenever it has changed, until it has ended. A first nil tells the client that it is served.
func (s *Service) WatchRun(ctx context.Context, request *lockstepv1.WatchRunRequest, send func(*lockstepv1.WatchRunResponse) error) error {
	asking, cancel := context.WithTimeout(ctx, readLimit)
	_, err := s.Version(asking, request.GetId())
	cancel()
	if err != nil {
		return err
	}
	id, err := parseID(request.GetId())
	if err != nil {
		return err
	}
	feed, err := s.hub.Open(id)
	if err != nil {
		return err
	}
	defer feed.Close()
	if err := send(nil); err != nil {
		return err
	}
	for {
		if err := feed.Wait(ctx); err != nil {
			return err
		}
		state, _ := feed.Take()
		if state == nil {
			continue
		}
		if state.Run.Version > request.GetAfterVersion() {
			if err := send(&lockstepv1.WatchRunResponse{Run: state.Message}); err != nil {
				return err
			}
		}
		if state.Run.Status.Final() {
			return nil
		}
	}
}

// FollowLog sends the log of a job as it is written. A first nil tells the client that it is served.
func (s *Service) FollowLog(ctx context.Context, request *lockstepv1.FollowLogRequest, send func(*lockstepv1.FollowLogResponse) error) error {
	job, err := parseID(request.GetJobId())
	if err != nil {
		return err
	}
	attempt, offset := request.GetFrom().GetAttempt(), request.GetFrom().GetOffset()
	switch {
	case request.GetFrom() == nil:
	case attempt < 1:
		return problem.In("attempt", http.StatusBadRequest, "invalid_parameter", "attempts count from 1")
	case offset < 0:
		return problem.In("offset", http.StatusBadRequest, "invalid_parameter", "offsets count from 0")
	}
	asking, cancel := context.WithTimeout(ctx, readLimit)
	place, err := s.runs.PlaceOf(asking, job)
	if err == nil {
		err = s.visible(asking, place.Run)
	}
	cancel()
	if err != nil {
		return err
	}
	if attempt > place.Attempt {
		return problem.In("attempt", http.StatusNotFound, "not_found", fmt.Sprintf("the job's latest attempt is %d", place.Attempt))
	}
	if request.GetStoredOnly() {
		if attempt == 0 {
			attempt = place.Attempt
		}
		return s.readLog(ctx, joblog.NewReader(s.pool, place.LogDay, job, int(attempt)), watch.Piece{Job: job, Attempt: attempt, Offset: offset}, send)
	}

	feed, err := s.hub.Open(place.Run)
	if err != nil {
		return err
	}
	defer feed.Close()
	chase, err := feed.Chase(job, attempt, offset, request.GetThisAttemptOnly())
	if err != nil {
		return err
	}
	if err := send(nil); err != nil {
		return err
	}
	for over := false; !over; {
		if err := feed.Wait(ctx); err != nil {
			return err
		}
		var pieces []watch.Piece
		pieces, over, err = chase.Advance(feed.Take())
		for i := range pieces {
			if err := send(pieces[i].Message()); err != nil {
				return err
			}
		}
		if errors.Is(err, watch.ErrNoSuchJob) { // it was there a moment ago
			return fmt.Errorf("follow log of job %d: %w", job, jobs.ErrNotFound)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readLog sends what is stored of an attempt now, from the offset of next on.
func (s *Service) readLog(ctx context.Context, reader *joblog.Reader, next watch.Piece, send func(*lockstepv1.FollowLogResponse) error) error {
	for {
		reading, cancel := context.WithTimeout(ctx, readLimit)
		data, behind, err := reader.ReadFrom(reading, next.Offset, logPiece)
		cancel()
		if err != nil || len(data) == 0 {
			return err
		}
		next.Data = data
		if err := send(next.Message()); err != nil {
			return err
		}
		next.Offset = behind
	}
}
