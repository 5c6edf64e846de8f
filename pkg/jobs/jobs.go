package jobs

import (
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// Status is a state of a job or a run: a label of the SQL type ci_job_status. A stage of yours adds two labels by a
// migration (docs/add-a-stage.md); they need no constant here.
type Status string

// The states, in the order of a job's life; the package comment draws the transitions. A run is StatusNew,
// StatusRunning or final.
const (
	StatusNew          Status = "new"          // accepted; nobody has read the commit yet
	StatusInitializing Status = "initializing" // held by an initializer
	StatusBlocked      Status = "blocked"      // waits for its needs, a limit or the end of a backoff
	StatusInitialized  Status = "initialized"  // planned; a runner may claim it
	StatusRunning      Status = "running"      // held by a runner
	StatusSuccess      Status = "success"      // final: the user's steps passed
	StatusFailure      Status = "failure"      // final: the user's steps, workflow or repository failed
	StatusError        Status = "error"        // final: we failed
	StatusCancelled    Status = "cancelled"    // final: somebody asked for it
	StatusSkipped      Status = "skipped"      // final: nothing to do, or a need did not succeed
)

// Final reports whether a job or run in this state has ended. Final states have no exit: what is to be done once more
// is a run of its own, by [DB.Rerun]. No state that a later stage adds is final.
func (s Status) Final() bool {
	switch s {
	case StatusSuccess, StatusFailure, StatusError, StatusCancelled, StatusSkipped:
		return true
	}
	return false
}

// Job is one claim of one job, with the facts of its run, as Stage.Do gets it. It is a copy made at the claim; the row
// moves on. Texts of the run (Ref, Author, Title …) come from outside and may hold anything but NUL.
type Job struct {
	ID         int64         // in ci_jobs
	RunID      int64         // in ci_runs
	Repository string        // canonical: https://host/owner/name, or a file URL
	Name       string        // unique in its run: `workflow / job (matrix)`
	Attempt    int           // which claim of this job this is, over all stages: 1, 2, 3 …
	Token      pgtype.UUID   // the fence: name ID and Token in each write of yours, and stop when it changes no row
	Failures   int           // infrastructure failures of this stage before this claim
	Timeout    time.Duration // what this claim may take; its context ends with ErrDeadline after it
	DeadlineAt time.Time     // when the reaper ends the claim, by the database's clock

	Event       string    // push, pull_request, workflow_dispatch or manual
	Ref         string    // refs/heads/…, or what was asked for; empty: the default branch
	HeadSHA     string    // 40 hex digits; empty until the initializer knows it
	BaseRef     string    // of a pull request: the branch it wants to go to, refs/heads/…
	BaseSHA     string    // what path filters compare with; empty: nothing
	PullRequest int       // 0: none
	Author      string    // of the commit or pull request, for people
	Title       string    // of the commit or pull request, for people
	Trusted     bool      // false: the code is hostile to the repository's secrets, as that of a fork
	LogDay      time.Time // midnight UTC of the run's day: part of the key of its log
}
