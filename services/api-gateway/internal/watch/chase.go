package watch

import "github.com/lockstep-ci/lockstep/services/api-gateway/internal/runs"

// Chase follows the log of one job: through one attempt, or on through those that come after it, to the end of the job.
type Chase struct {
	feed      *Feed
	job       int64
	only      bool
	attempt   int32 // the one that is told, or was last; 0: none yet
	following bool
	now       *runs.Job
}

// Chase begins at a byte of an attempt; attempt 0 is the beginning of the latest. only: it ends with that attempt.
func (f *Feed) Chase(job int64, attempt int32, offset int64, only bool) (*Chase, error) {
	c := &Chase{feed: f, job: job, only: only, attempt: attempt, following: attempt > 0}
	if c.following {
		return c, f.Follow(job, attempt, offset)
	}
	return c, nil
}

// Advance is given all that the feed's Take returns. It returns the pieces that are of this log, and whether they are the
// last. When a further attempt begins, a piece without data says so.
func (c *Chase) Advance(state *State, taken []Piece) (pieces []Piece, over bool, err error) {
	if state != nil {
		if c.now = state.Run.Job(c.job); c.now == nil {
			return nil, true, ErrNoSuchJob
		}
	}
	for _, piece := range taken {
		switch {
		case piece.Job != c.job:
			continue
		case piece.Err != nil:
			return pieces, true, piece.Err
		}
		pieces = append(pieces, piece)
		c.following = !piece.Ended
	}
	switch {
	case c.following || c.now == nil:
	case c.only && c.attempt > 0, c.attempt == c.now.Attempt && c.now.Status.Final():
		return pieces, true, nil
	case c.now.Attempt > c.attempt:
		if c.attempt > 0 {
			pieces = append(pieces, Piece{Job: c.job, Attempt: c.now.Attempt})
		}
		c.attempt, c.following = c.now.Attempt, true
		err = c.feed.Follow(c.job, c.attempt, 0)
	}
	return pieces, false, err
}
