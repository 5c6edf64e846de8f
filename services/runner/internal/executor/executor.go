// Package executor runs the steps of one job, one after the other, in a box.
package executor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/spec"
	"github.com/lockstep-ci/lockstep/services/runner/internal/process"
	"github.com/lockstep-ci/lockstep/services/runner/internal/supervise"
)

// Job is what to run, and where.
type Job struct {
	Job         *jobs.Job
	Spec        spec.Spec
	Box         *process.Box // the source is in its work tree, and is the job's own
	Console     *Console
	Inherited   map[string]string // see Inherited
	CancelGrace time.Duration     // between SIGTERM and SIGKILL, when the job is cancelled or its time is over
	Report      func([]Step)      // takes the state of all steps after each change; must not block
}

// Step is how a step does: a row of ci_steps.
type Step struct {
	Number    int
	Name      string
	Status    StepStatus
	ExitCode  *int // of its process; nil when it had none
	Started   time.Time
	Finished  time.Time
	LogOffset *int64 // of its first line in the log
}

// StepStatus is a word of ci_steps.status.
type StepStatus string

// The states of a step.
const (
	StepPending   StepStatus = "pending"
	StepRunning   StepStatus = "running"
	StepSuccess   StepStatus = "success"
	StepFailure   StepStatus = "failure"   // it failed, or took too long
	StepCancelled StepStatus = "cancelled" // it was running when the job was cancelled or taken away
	StepSkipped   StepStatus = "skipped"   // the job ended before it
	StepError     StepStatus = "error"     // we failed
)

// Result is how a job ended.
type Result struct {
	Status jobs.Status // success, failure or cancelled
	Reason string      // empty for success
}

// timeoutError is the cause that ends a step, or all of them, when it has taken too long.
type timeoutError struct {
	limit time.Duration
}

func (e timeoutError) Error() string { return fmt.Sprintf("timed out after %s", e.limit) }

// killBound is how much longer than its grace a kill may take before the supervisor is given up.
const killBound = 30 * time.Second

// run is a job on its way.
type run struct {
	Job
	base  map[string]string // environment of all steps
	steps []Step
}

// Run runs the job until its last step, the first that does not succeed, its timeout, or the end of ctx. Its processes
// in the background may live on until the box is closed. An error means that nobody can know how the job would have
// ended. The causes of ctx's end are among them, but for jobs.ErrCancelled, which is a result.
func Run(ctx context.Context, job Job) (Result, error) {
	r := &run{Job: job}
	r.base = environment(job.Job, job.Spec.SHA, job.Box, job.Inherited)
	for _, s := range job.Spec.Steps {
		r.steps = append(r.steps, Step{Number: s.Number, Name: s.Name, Status: StepPending})
	}
	r.report()
	limit := minutes(job.Spec.TimeoutMinutes)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, timeoutError{limit})
	defer cancel()

	var ended error // why there are no further steps
	for i := range job.Spec.Steps {
		if ended == nil {
			ended = context.Cause(ctx)
		}
		if ended != nil {
			r.steps[i].Status = StepSkipped
			continue
		}
		ended = r.step(ctx, &job.Spec.Steps[i], &r.steps[i])
	}
	r.report()
	return r.result(ended)
}

// result says what the end of the steps means for the job.
func (r *run) result(ended error) (Result, error) {
	var failure *stepFailure
	var timeout timeoutError
	switch {
	case ended == nil:
		return Result{Status: jobs.StatusSuccess}, nil
	case errors.As(ended, &failure):
		return Result{Status: jobs.StatusFailure, Reason: failure.Error()}, nil
	case errors.As(ended, &timeout):
		r.Console.Note("the job %s", timeout)
		return Result{Status: jobs.StatusFailure, Reason: "the job " + timeout.Error()}, nil
	case errors.Is(ended, jobs.ErrCancelled):
		r.Console.Note("the job was cancelled")
		return Result{Status: jobs.StatusCancelled, Reason: "cancelled on request"}, nil
	default:
		return Result{}, ended
	}
}

// stepFailure is a step that did not succeed, by the user's doing.
type stepFailure struct {
	step *spec.Step
	text string
	err  error
}

func failed(s *spec.Step, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return &stepFailure{step: s, text: err.Error(), err: err}
}

func (f *stepFailure) Error() string {
	return fmt.Sprintf("step %d (%s): %s", f.step.Number, f.step.Name, f.text)
}

func (f *stepFailure) Unwrap() error { return f.err }

// step runs one step. Its error is why the job ends.
func (r *run) step(ctx context.Context, s *spec.Step, state *Step) error {
	state.Started = time.Now()
	state.Status = StepRunning
	offset := r.Console.Note("step %d: %s", s.Number, s.Name)
	state.LogOffset = &offset
	r.report()

	ended := r.perform(ctx, s, state)

	state.Finished = time.Now()
	took := state.Finished.Sub(state.Started).Round(time.Millisecond)
	var failure *stepFailure
	switch {
	case ended == nil:
		state.Status = StepSuccess
	case errors.As(ended, &failure):
		state.Status = StepFailure
		r.Console.Note("step %d failed after %s: %s", s.Number, took, failure.text)
	case errors.As(ended, new(timeoutError)):
		state.Status = StepFailure
	case errors.Is(ended, jobs.ErrCancelled), errors.Is(ended, jobs.ErrStopping), errors.Is(ended, jobs.ErrClaimLost):
		state.Status = StepCancelled
	default:
		state.Status = StepError
		r.Console.Note("step %d could not be run: %s", s.Number, ended)
	}
	r.report()
	return ended
}

// perform does what the step says.
func (r *run) perform(ctx context.Context, s *spec.Step, state *Step) error {
	if s.TimeoutMinutes > 0 {
		limit := minutes(s.TimeoutMinutes)
		inner, cancel := context.WithTimeoutCause(ctx, limit, failed(s, "%s", timeoutError{limit}))
		defer cancel()
		ctx = inner
	}
	switch s.Uses {
	case "":
		return r.script(ctx, s, state)
	case spec.Checkout:
		r.Console.Note("the source of %s is in %s", r.Spec.SHA, r.Box.Work)
		return nil
	case spec.SetupGo:
		return r.setupGo(ctx, s)
	default: // the initializer plans no other
		return fmt.Errorf("step %d uses %s, which this runner does not know", s.Number, s.Uses)
	}
}

// script runs the shell.
func (r *run) script(ctx context.Context, s *spec.Step, state *Step) error {
	dir, err := r.workingDirectory(s)
	if err != nil {
		return err
	}
	path, err := r.Box.Script(s.Number, s.Run)
	if err != nil {
		return err
	}
	command := supervise.Command{Dir: dir, Env: list(r.base, r.Spec.Env, s.Env)}
	// As GitHub documents jobs.<job_id>.steps[*].shell.
	switch s.Shell {
	case "bash":
		command.Args = []string{"bash", "--noprofile", "--norc", "-eo", "pipefail", path}
	case "sh":
		command.Args = []string{"sh", "-e", path}
	default:
		command.Args = []string{"bash", "-e", path}
	}
	exit, err := r.exec(ctx, s, command)
	if s.Shell == "" && errors.Is(err, syscall.ENOENT) {
		r.Console.Note("there is no bash on the PATH: this step runs with sh -e")
		command.Args = []string{"sh", "-e", path}
		exit, err = r.exec(ctx, s, command)
	}
	if exit != nil {
		state.ExitCode = &exit.Code
	}
	switch {
	case err != nil:
		return err
	case exit.Signal != 0:
		return failed(s, "ended by signal %d (%s)", int(exit.Signal), exit.Signal)
	case exit.Code != 0:
		return failed(s, "exit code %d", exit.Code)
	}
	return nil
}

// exec runs a process. When ctx ends first, every process of the job is killed, and the error is why. The exit is nil
// when there was none, or nobody knows it.
func (r *run) exec(ctx context.Context, s *spec.Step, c supervise.Command) (*supervise.Exit, error) {
	p := r.Box.Start(c)
	var killed error
	select {
	case <-p.Done():
	case <-ctx.Done():
		killed = context.Cause(ctx)
		if err := r.kill(ctx, s, killed); err != nil {
			return nil, err
		}
	}
	exit, err := p.Wait()
	switch {
	case err == nil:
		return &exit, killed
	case !errors.As(err, new(*supervise.StartError)):
		return nil, err
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOMEM), errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return nil, err // the machine is full
	default:
		return nil, failed(s, "%w", err)
	}
}

// kill ends every process of the job. Whoever cancels gives time to clean up.
func (r *run) kill(ctx context.Context, s *spec.Step, cause error) error {
	grace := r.CancelGrace
	if errors.Is(cause, jobs.ErrClaimLost) || errors.Is(cause, jobs.ErrStopping) || errors.Is(cause, jobs.ErrDeadline) {
		grace = 0
	} else {
		r.Console.Note("ending step %d: %s", s.Number, why(cause))
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace+killBound)
	defer cancel()
	return r.Box.Kill(ctx, grace)
}

// why says in the log why a step is ended.
func why(cause error) string {
	var failure *stepFailure
	switch {
	case errors.As(cause, &failure):
		return failure.text
	case errors.As(cause, new(timeoutError)):
		return "the job " + cause.Error()
	case errors.Is(cause, jobs.ErrCancelled):
		return "the job was cancelled"
	default:
		return cause.Error()
	}
}

// workingDirectory finds the step's, which must lie in the work tree, also behind symbolic links.
func (r *run) workingDirectory(s *spec.Step) (string, error) {
	name := filepath.Clean("./" + s.WorkingDirectory)
	tree, err := os.OpenRoot(r.Box.Work)
	if err != nil {
		return "", failed(s, "open the work tree: %w", err) // an earlier step has removed it
	}
	defer tree.Close()
	var path *fs.PathError
	switch info, err := tree.Stat(name); {
	case errors.As(err, &path):
		return "", failed(s, "working-directory %s: %w", name, path.Err)
	case err != nil:
		return "", failed(s, "working-directory: %w", err)
	case !info.IsDir():
		return "", failed(s, "working-directory: %s is not a folder", s.WorkingDirectory)
	}
	return filepath.Join(r.Box.Work, name), nil
}

// setupGo checks that the Go on the step's PATH is one that the workflow asked for.
func (r *run) setupGo(ctx context.Context, s *spec.Step) error {
	asked, source := s.With["go-version"], "go-version"
	if file := s.With["go-version-file"]; file != "" {
		var err error
		if asked, err = goVersionFile(r.Box.Work, file); err != nil {
			return failed(s, "%w", err)
		}
		source = file
	}
	var said bytes.Buffer
	exit, err := r.exec(ctx, s, supervise.Command{
		Args: []string{"go", "version"}, Dir: "/",
		Env: list(r.base, r.Spec.Env, s.Env, map[string]string{"GOTOOLCHAIN": "local"}), // what is there, not what could be fetched
		Output: func(p []byte) {
			if said.Len() < 1<<10 {
				said.Write(p)
			}
		},
	})
	switch {
	case errors.Is(err, syscall.ENOENT):
		return failed(s, "there is no Go on the PATH; %s asks for %s", source, asked)
	case err != nil:
		return err
	case exit.Code != 0:
		return failed(s, "`go version` ended with code %d: %s", exit.Code, said.String())
	}
	there, err := parseGoReport(said.String())
	if err != nil {
		return failed(s, "%w", err)
	}
	if asked == "" {
		r.Console.Note("Go %s is there, and no version is asked for", there)
		return nil
	}
	fits, err := parseGoRange(asked)
	if err != nil {
		return failed(s, "%w", err)
	}
	if !fits(there) {
		return failed(s, "Go %s is there; %s asks for %s", there, source, asked)
	}
	r.Console.Note("Go %s is there; %s asks for %s", there, source, asked)
	return nil
}

// report hands out a copy of the steps' states.
func (r *run) report() { r.Report(append([]Step(nil), r.steps...)) }

func minutes(m float64) time.Duration { return time.Duration(m * float64(time.Minute)) }
