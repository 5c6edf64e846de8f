package jobs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"go.uber.org/zap"
)

// Stage is what one service does to a job, declared by its states. All fields without a default are required.
type Stage struct {
	Name  string // for logs, metrics and ci_workers
	Takes Status // the claimable state
	Holds Status // the processing state
	Gives Status // the processed state: what a Result without a Status means

	Slots int           // jobs at once, at least 1
	Lease time.Duration // how long the claims hold without a beat, and so how late a death is noticed; at least three Beats
	Beat  time.Duration // time between beats, more than 0
	Poll  time.Duration // longest wait between two looks at the table, more than 0; a lost wake costs at most this
	Grace time.Duration // how long jobs may go on after the stage is told to stop; 0: they are given back at once

	// RetryAfter is how long a job waits after the first infrastructure failure of this stage; doubled for each further
	// one up to 5 min, less up to a fifth. Up to 5 min; 5 s when 0.
	RetryAfter time.Duration

	// Do moves one job; up to Slots of them run at once. Its context ends, with the cause ErrCancelled, ErrClaimLost,
	// ErrStopping or ErrDeadline, when the job must end: return soon, whatever. An error is an infrastructure failure: the
	// job is tried again after a backoff, and ends as StatusError with the error's text after too many. What the user did
	// wrong is a Result. A panic is an error. A worker may die at any line: Do must be fit to be done again.
	Do func(ctx context.Context, job *Job) (Result, error)
}

// Result is how a job left its stage.
type Result struct {
	Status Status // empty: the stage's Gives; else a state that table ci_transitions lets the service's role go to
	Reason string // for people: why it ended so; at most 4000 bytes of it are kept
	// Commit, if any, runs in the transaction that ends the claim, while the claim is proven to be ours. Its error is
	// the job's, like one of Do. It does not run when the job was cancelled meanwhile.
	Commit func(ctx context.Context, tx pgx.Tx) error
}

var statusWord = regexp.MustCompile(`^[a-z][a-z_]*$`)

func (s Stage) validate() error {
	var problems []error
	for name, status := range map[string]Status{"Takes": s.Takes, "Holds": s.Holds, "Gives": s.Gives} {
		if !statusWord.MatchString(string(status)) { // it becomes a literal of the claim
			problems = append(problems, fmt.Errorf("%s %q is not a state", name, status))
		}
	}
	if s.Name == "" || s.Do == nil {
		problems = append(problems, errors.New("it needs a Name and a Do"))
	}
	if s.Slots < 1 {
		problems = append(problems, fmt.Errorf("%d slots: at least 1", s.Slots))
	}
	if s.Beat <= 0 || s.Lease < 3*s.Beat {
		problems = append(problems, fmt.Errorf("lease %s: at least three beats of %s", s.Lease, s.Beat))
	}
	if s.Poll <= 0 {
		problems = append(problems, fmt.Errorf("poll %s: more than 0", s.Poll))
	}
	if s.RetryAfter < 0 || s.RetryAfter > maxRetryAfter {
		problems = append(problems, fmt.Errorf("retry after %s: from 0 to %s", s.RetryAfter, maxRetryAfter))
	}
	return errors.Join(problems...)
}

// Work runs the stage until ctx ends, then drains it: no new claims, Grace for the jobs at hand, the rest is given back.
// It returns nil then, when the last Do has returned; an error means that the stage cannot be: a field is out of range, and
// nothing was claimed. A database that is away is waited for. Several stages may work in one process, each by a call of its own.
func (db *DB) Work(ctx context.Context, stage Stage) error {
	if err := stage.validate(); err != nil {
		return fmt.Errorf("stage %s: %w", stage.Name, err)
	}
	if stage.RetryAfter == 0 {
		stage.RetryAfter = defaultRetryAfter
	}
	// Jobs go on after ctx ends, for the grace period.
	life, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(nil)
	w := newWorker(db, stage)
	stopListening := db.Listen(w.hear)
	defer stopListening()

	var loops sync.WaitGroup
	loops.Go(func() { w.finishes.run(life) })
	loops.Go(func() { w.beatLoop(life) })
	w.claimLoop(ctx, life)
	w.drain()
	end(nil)
	loops.Wait()
	w.leave(context.WithoutCancel(ctx)) // after the last beat, which would register anew
	return nil
}

// worker is a stage at work in this process.
type worker struct {
	db       *DB
	stage    Stage
	log      *zap.Logger
	name     string
	claimSQL string
	finishes *batcher[finishing]
	look     chan struct{} // size 1: there may be something to claim, and it is for us to look
	others   chan struct{} // size 1: there may be something to claim, and another worker of the stage looks first
	freed    chan struct{} // size 1: a slot is free
	beatNow  chan struct{} // size 1: a held job may be to be cancelled
	jobs     sync.WaitGroup

	mu       sync.Mutex
	id       int64 // in ci_workers; 0: not registered, so nothing may be claimed
	held     map[pgtype.UUID]*claim
	suspects map[pgtype.UUID]time.Time // claims of ours that nobody here knows, and since when beats have told of them
	lastBeat time.Time                 // start of the last beat that succeeded
	peers    int64                     // living workers of this stage, as of the last beat; at least 1
	rank     int64                     // how many of them are older
	waiting  map[int64]struct{}        // jobs that we were told are claimable, since the last look, and not yet that they are claimed
}

func newWorker(db *DB, stage Stage) *worker {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return &worker{
		db: db, stage: stage, log: db.log.With(zap.String("stage", stage.Name)),
		name:     fmt.Sprintf("%s:%d", host, os.Getpid()),
		claimSQL: strings.NewReplacer("{{takes}}", string(stage.Takes), "{{holds}}", string(stage.Holds)).Replace(query("claim")),
		finishes: newBatcher(maxFinish, db.writeFinishes, (*finishing).fail),
		held:     map[pgtype.UUID]*claim{},
		waiting:  map[int64]struct{}{}, peers: 1,
		look: make(chan struct{}, 1), others: make(chan struct{}, 1), freed: make(chan struct{}, 1), beatNow: make(chan struct{}, 1),
	}
}

// claim is a job in our hands.
type claim struct {
	job    *Job
	cancel context.CancelCauseFunc
	ending bool // its handler has returned: what a beat says of it is old
}

// hear runs on the listener's goroutine.
func (w *worker) hear(wake Wake) {
	if wake.Status == StatusCancelled && w.holds(wake.JobID) {
		nudge(w.beatNow)
	}
	switch first := w.tell(wake); {
	case first:
		nudge(w.look)
	case wake.Status == w.stage.Takes:
		nudge(w.others)
	}
}

func (w *worker) holds(jobID int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.held {
		if c.job.ID == jobID {
			return true
		}
	}
	return false
}

// nudge is a level trigger: one that is pending already says it all.
func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// start runs the stage's Do on a job in a goroutine of its own.
func (w *worker) start(life context.Context, job *Job) {
	ctx, cancel := context.WithCancelCause(life)
	c := &claim{job: job, cancel: cancel}
	w.mu.Lock()
	w.held[job.Token] = c
	w.db.metrics.held.WithLabelValues(w.stage.Name).Set(float64(len(w.held)))
	w.mu.Unlock()

	w.jobs.Go(func() {
		defer func() {
			cancel(nil)
			w.mu.Lock()
			delete(w.held, job.Token)
			w.db.metrics.held.WithLabelValues(w.stage.Name).Set(float64(len(w.held)))
			w.mu.Unlock()
			nudge(w.freed)
		}()
		log := w.log.With(zap.Int64("run_id", job.RunID), zap.Int64("job_id", job.ID), zap.Int("attempt", job.Attempt))
		log.Info("claimed", zap.String("repository", job.Repository))
		result, err := w.do(ctx, job)
		w.mu.Lock()
		c.ending = true
		w.mu.Unlock()
		w.end(ctx, life, job, result, err, log)
	})
}

func (w *worker) do(ctx context.Context, job *Job) (result Result, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, job.Timeout, ErrDeadline)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			w.log.Error("handler panicked", zap.Int64("job_id", job.ID), zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
			err = fmt.Errorf("handler panicked: %v", p)
		}
	}()
	return w.stage.Do(ctx, job)
}

// end writes down how a job left the stage. It tries for as long as the claim may still be ours.
func (w *worker) end(ctx, life context.Context, job *Job, result Result, err error, log *zap.Logger) {
	if result.Status == "" {
		result.Status = w.stage.Gives
	}
	cause := context.Cause(ctx)
	var write func(context.Context) error
	var outcome string
	switch {
	case errors.Is(cause, ErrClaimLost):
		w.db.metrics.lost.WithLabelValues(w.stage.Name).Inc()
		log.Warn("claim lost")
		return
	case err == nil:
		outcome = string(result.Status)
		write = func(ctx context.Context) error { return w.finish(ctx, job, result) }
	case errors.Is(cause, ErrCancelled):
		outcome = string(StatusCancelled)
		write = func(ctx context.Context) error {
			return w.finish(ctx, job, Result{Status: StatusCancelled, Reason: "cancelled on request"})
		}
	case errors.Is(cause, ErrStopping):
		outcome = "released"
		write = func(ctx context.Context) error { return w.db.release(ctx, job) }
	default:
		outcome, result.Reason = "failed", err.Error()
		write = func(ctx context.Context) error { return w.db.fail(ctx, job, w.stage.RetryAfter, result.Reason) }
	}
	err = w.persist(life, write)
	var commit *commitError
	if errors.As(err, &commit) {
		outcome, result.Reason = "failed", commit.Error()
		err = w.persist(life, func(ctx context.Context) error { return w.db.fail(ctx, job, w.stage.RetryAfter, result.Reason) })
	}
	switch {
	case errors.Is(err, ErrClaimLost):
		w.db.metrics.lost.WithLabelValues(w.stage.Name).Inc()
		log.Warn("claim lost", zap.String("outcome", outcome))
	case err != nil:
		log.Error("could not end the claim; it will go back", zap.String("outcome", outcome), zap.Error(err))
	default:
		w.db.metrics.ends.WithLabelValues(w.stage.Name, outcome).Inc()
		log.Info("ended", zap.String("outcome", outcome), zap.String("reason", result.Reason))
	}
}

// persist tries a write until it succeeds, the claim is lost, the database refuses it for good, or two leases are over: then
// it is somebody else's.
func (w *worker) persist(life context.Context, write func(context.Context) error) error {
	ctx := context.WithoutCancel(life)
	wait := &Backoff{Next: 50 * time.Millisecond, Most: time.Second}
	for began := time.Now(); ; {
		err := write(ctx)
		var commit *commitError
		switch {
		case err == nil, errors.Is(err, ErrClaimLost), errors.As(err, &commit):
			w.db.outages.worked("end claims")
			return err
		case refused(err):
			return &commitError{err}
		}
		w.db.outages.failed("end claims", "results are kept and written again, for two leases", err)
		if time.Since(began) > 2*w.stage.Lease {
			return err
		}
		wait.Sleep(ctx)
	}
}

// drain waits for the jobs at hand: for Grace, then with ErrStopping until their handlers have returned.
func (w *worker) drain() {
	idle := make(chan struct{})
	go func() { w.jobs.Wait(); close(idle) }()
	grace := time.NewTimer(w.stage.Grace)
	defer grace.Stop()
	select {
	case <-idle:
	case <-grace.C:
		w.cancelAll(ErrStopping)
		<-idle
	}
}

// leave says goodbye, so that the reaper need not wait for the lease. Nobody else uses w any more.
func (w *worker) leave(ctx context.Context) {
	if w.id == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if _, err := w.db.signs.Exec(ctx, query("leave"), pgx.NamedArgs{"worker": w.id}); err != nil {
		w.log.Warn("could not say goodbye; the reaper will notice", zap.Error(err))
	}
}
