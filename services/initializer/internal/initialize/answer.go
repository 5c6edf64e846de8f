package initialize

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/spec"
	"github.com/lockstep-ci/lockstep/services/initializer/internal/plan"
)

//go:embed queries/*.sql
var queries embed.FS

func query(name string) string {
	sql, err := queries.ReadFile("queries/" + name + ".sql")
	if err != nil {
		panic(err) // a file of this package
	}
	return string(sql)
}

// beyondTheSteps is what a runner's claim may take besides the job's own timeout: unpacking, ending the steps, the last
// of the log. The job's timeout ends the steps; this ends a runner that hangs.
const beyondTheSteps = 10 * time.Minute

// answer is what the run turned out to be.
type answer struct {
	job *jobs.Job
	ref string // full, or empty
	sha string // empty until known

	// Either nothing runs:
	status jobs.Status
	reason string
	// or these do, of which the claimed row becomes the first:
	rows []row
}

// row is a job as the queries read it.
type row struct {
	Status         jobs.Status     `json:"status"`
	Workflow       string          `json:"workflow"`
	Key            string          `json:"job_key"`
	MatrixIndex    int             `json:"matrix_index"`
	Name           string          `json:"name"`
	Needs          []string        `json:"needs"`
	FailFast       bool            `json:"fail_fast"`
	TimeoutSeconds float64         `json:"timeout_seconds"`
	Spec           json.RawMessage `json:"spec,omitempty"`
	Reason         string          `json:"reason"`
}

// refuse answers that nothing runs.
func (a *answer) refuse(status jobs.Status, reason string) {
	a.status, a.reason, a.rows = status, reason, nil
}

// take answers with a plan: its jobs, and a failed job for each file with mistakes.
func (a *answer) take(planned plan.Plan, sourceID int64, limited bool) error {
	for _, j := range planned.Jobs {
		j.Spec.SourceID = sourceID
		encoded, err := spec.Encode(j.Spec)
		if err != nil {
			return fmt.Errorf("job %q: %w", j.Name, err)
		}
		status := jobs.StatusInitialized
		if len(j.Needs) > 0 || limited {
			status = jobs.StatusBlocked
		}
		timeout := time.Duration(j.Spec.TimeoutMinutes*float64(time.Minute)) + beyondTheSteps
		a.rows = append(a.rows, row{
			Status: status, Workflow: j.Workflow, Key: j.Key, MatrixIndex: j.MatrixIndex, Name: j.Name, Needs: append([]string{}, j.Needs...),
			FailFast: j.FailFast, TimeoutSeconds: timeout.Seconds(), Spec: encoded,
		})
	}
	for _, b := range planned.Bad {
		a.rows = append(a.rows, row{
			Status: jobs.StatusFailure, Workflow: b.Path, Name: b.Path, Needs: []string{},
			TimeoutSeconds: beyondTheSteps.Seconds(), Reason: b.Reason(),
		})
	}
	return nil
}

// result ends the claim. All of the answer is in its one transaction.
func (a *answer) result() jobs.Result {
	r := jobs.Result{Status: a.status, Reason: a.reason, Commit: a.commit}
	if len(a.rows) > 0 {
		r.Status, r.Reason = a.rows[0].Status, a.rows[0].Reason
	}
	return r
}

func (a *answer) commit(ctx context.Context, tx pgx.Tx) error {
	// First the commit: what GitHub is told of the jobs goes there.
	if a.sha != "" {
		if _, err := tx.Exec(ctx, query("run"), pgx.NamedArgs{"run": a.job.RunID, "ref": a.ref, "head_sha": a.sha}); err != nil {
			return fmt.Errorf("write the commit of run %d: %w", a.job.RunID, err)
		}
	}
	if len(a.rows) == 0 {
		return nil
	}
	if _, err := tx.Exec(ctx, query("take"), pgx.NamedArgs{"job": a.job.ID, "token": a.job.Token, "answer": a.rows[0]}); err != nil {
		return fmt.Errorf("write job %q: %w", a.rows[0].Name, err)
	}
	if _, err := tx.Exec(ctx, query("add"), pgx.NamedArgs{"job": a.job.ID, "answers": a.rows[1:]}); err != nil {
		return fmt.Errorf("add %d jobs: %w", len(a.rows)-1, err)
	}
	return nil
}
