package run

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/services/runner/internal/executor"
)

//go:embed queries/steps.sql
var stepsSQL string

const (
	writeTry   = 10 * time.Second // one try of one write
	retryFirst = 100 * time.Millisecond
	retryMost  = 5 * time.Second
)

// steps writes how the steps do while they run: always the latest state, tried again while the database is away.
type steps struct {
	pool *pgxpool.Pool
	job  *jobs.Job
	log  *zap.Logger

	changed chan struct{} // size 1
	done    chan struct{} // closed when run has returned
	stop    context.CancelFunc

	mu     sync.Mutex
	latest []executor.Step // nil: all is written
	closed bool
	err    error // of run
}

func newSteps(pool *pgxpool.Pool, job *jobs.Job, log *zap.Logger) *steps {
	ctx, stop := context.WithCancel(context.Background())
	s := &steps{pool: pool, job: job, log: log, changed: make(chan struct{}, 1), done: make(chan struct{}), stop: stop}
	go func() {
		defer close(s.done)
		s.err = s.run(ctx)
	}()
	return s
}

// report takes the state of all steps. It does not block.
func (s *steps) report(all []executor.Step) {
	s.mu.Lock()
	s.latest = all
	s.mu.Unlock()
	s.nudge()
}

// close waits until the last state is written, or ctx ends.
func (s *steps) close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.nudge()
	select {
	case <-s.done:
	case <-ctx.Done():
	}
	s.stop()
	<-s.done
	return s.err
}

func (s *steps) nudge() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

func (s *steps) take() (latest []executor.Step, closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	latest, s.latest = s.latest, nil
	return latest, s.closed
}

func (s *steps) run(ctx context.Context) error {
	for {
		latest, closed := s.take()
		if latest != nil {
			if err := s.persist(ctx, latest); err != nil {
				return err
			}
			continue
		}
		if closed {
			return nil
		}
		select {
		case <-s.changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// persist writes a state, or one that came since, until it is written, the claim is lost, or ctx ends.
func (s *steps) persist(ctx context.Context, state []executor.Step) error {
	wait := &jobs.Backoff{Next: retryFirst, Most: retryMost}
	for {
		err := s.write(ctx, state)
		if err == nil || errors.Is(err, jobs.ErrClaimLost) {
			return err
		}
		if wait.Next == retryFirst {
			s.log.Warn("could not write the steps, trying again", zap.Error(err))
		}
		if !wait.Sleep(ctx) {
			return err
		}
		if latest, _ := s.take(); latest != nil {
			state = latest
		}
	}
}

func (s *steps) write(ctx context.Context, state []executor.Step) error {
	ctx, cancel := context.WithTimeout(ctx, writeTry)
	defer cancel()
	var (
		numbers  []int
		names    []string
		statuses []string
		codes    []*int
		started  []*float64
		finished []*float64
		offsets  []*int64
	)
	now := time.Now()
	for _, step := range state {
		numbers = append(numbers, step.Number)
		names = append(names, step.Name)
		statuses = append(statuses, string(step.Status))
		codes = append(codes, step.ExitCode)
		started = append(started, age(now, step.Started))
		finished = append(finished, age(now, step.Finished))
		offsets = append(offsets, step.LogOffset)
	}
	var held bool
	err := s.pool.QueryRow(ctx, stepsSQL, pgx.NamedArgs{
		"job": s.job.ID, "token": s.job.Token, "attempt": s.job.Attempt,
		"numbers": numbers, "names": names, "statuses": statuses, "exit_codes": codes,
		"started_ago": started, "finished_ago": finished, "log_offsets": offsets,
	}).Scan(&held)
	if err == nil && !held {
		err = jobs.ErrClaimLost
	}
	if err != nil {
		return fmt.Errorf("write steps of job %d attempt %d: %w", s.job.ID, s.job.Attempt, err)
	}
	return nil
}

// age is how long before now t was, in seconds; nil when it has not been.
func age(now, t time.Time) *float64 {
	if t.IsZero() {
		return nil
	}
	seconds := now.Sub(t).Seconds()
	return &seconds
}
