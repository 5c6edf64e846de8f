// Package run is the runner's stage: it takes a job that is initialized, runs its steps, and says how they ended.
package run

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/joblog"
	"github.com/lockstep-ci/lockstep/pkg/jobs/source"
	"github.com/lockstep-ci/lockstep/pkg/jobs/spec"
	"github.com/lockstep-ci/lockstep/services/runner/internal/executor"
	"github.com/lockstep-ci/lockstep/services/runner/internal/process"
)

//go:embed queries/spec.sql
var specSQL string

// parting is how long what a job said may still take to be stored after the job was cancelled, ran into its deadline
// or is given back. A job that ends by itself waits for as long as it holds its claim.
const parting = 5 * time.Second

// Config of the stage.
type Config struct {
	Inherited   map[string]string // see executor.Inherited
	CancelGrace time.Duration
	LogLimit    int64 // bytes of log of one attempt; see joblog.Options
}

// Runner runs jobs.
type Runner struct {
	db     *jobs.DB
	places *process.Executor
	config Config
	log    *zap.Logger
	host   string
}

// New returns a runner whose jobs have their places with an executor.
func New(db *jobs.DB, places *process.Executor, config Config, log *zap.Logger) *Runner {
	host, err := os.Hostname()
	if err != nil {
		host = "a machine without a name"
	}
	return &Runner{db: db, places: places, config: config, log: log, host: host}
}

// Run is the stage's Do.
func (r *Runner) Run(ctx context.Context, job *jobs.Job) (jobs.Result, error) {
	log := r.log.With(zap.Int64("run_id", job.RunID), zap.Int64("job_id", job.ID), zap.Int("attempt", job.Attempt))
	plan, err := r.spec(ctx, job)
	if err != nil {
		return jobs.Result{}, err
	}
	box, err := r.places.Open()
	if err != nil {
		return jobs.Result{}, fmt.Errorf("open a place for job %d: %w", job.ID, err)
	}
	out, err := joblog.NewWriter(r.db.Pool(), job, joblog.Options{Dir: box.Own, Limit: r.config.LogLimit, Log: log})
	if err != nil {
		return jobs.Result{}, errors.Join(err, box.Close())
	}
	written := newSteps(r.db.Pool(), job, log)

	result, err := r.perform(ctx, job, plan, box, out, written)

	// What background processes say while they are ended belongs to the log, so it is closed after them; its spool lies
	// in the box, so that is emptied last. What cannot be cleaned up is no fault of the job.
	if err := box.End(); err != nil {
		log.Error("could not end a job's processes", zap.Error(err))
	}
	last, cancel := lastWrites(ctx)
	defer cancel()
	err = errors.Join(err, out.Close(last), written.close(last))
	if err := box.Close(); err != nil {
		log.Error("could not free a job's slot", zap.Error(err))
	}
	if err != nil {
		return jobs.Result{}, fmt.Errorf("run job %d: %w", job.ID, err)
	}
	return jobs.Result{Status: result.Status, Reason: result.Reason}, nil
}

func (r *Runner) spec(ctx context.Context, job *jobs.Job) (spec.Spec, error) {
	var text []byte
	if err := r.db.Pool().QueryRow(ctx, specSQL, pgx.NamedArgs{"job": job.ID}).Scan(&text); err != nil {
		return spec.Spec{}, fmt.Errorf("read spec of job %d: %w", job.ID, err)
	}
	plan, err := spec.Decode(text)
	if err != nil {
		return spec.Spec{}, fmt.Errorf("read spec of job %d: %w", job.ID, err)
	}
	return plan, nil
}

// perform fills the box and runs the steps in it.
func (r *Runner) perform(ctx context.Context, job *jobs.Job, plan spec.Spec, box *process.Box, out *joblog.Writer, written *steps) (executor.Result, error) {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	console := executor.NewConsole(out, fail)
	if err := box.Supervise(console.Output); err != nil {
		return executor.Result{}, err
	}
	console.Note("job %d of run %d, attempt %d, on %s: %s", job.ID, job.RunID, job.Attempt, r.host, box.Level())
	if err := source.Unpack(ctx, r.db.Pool(), plan.SourceID, box.Work); err != nil {
		return executor.Result{}, err
	}
	if err := box.HandOver(); err != nil {
		return executor.Result{}, err
	}
	return executor.Run(ctx, executor.Job{
		Job: job, Spec: plan, Box: box, Console: console,
		Inherited: r.config.Inherited, CancelGrace: r.config.CancelGrace, Report: written.report,
	})
}

// lastWrites is the context in which the end of log and steps is stored: a lost claim ends it at once, any other end of
// ctx a little later.
func lastWrites(ctx context.Context) (context.Context, context.CancelFunc) {
	last, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		cause := context.Cause(ctx)
		if !errors.Is(cause, jobs.ErrClaimLost) {
			select {
			case <-time.After(parting):
			case <-last.Done():
			}
		}
		cancel(cause)
	})
	return last, func() { stop(); cancel(nil) }
}
