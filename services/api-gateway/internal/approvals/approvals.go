// Package approvals holds back the pull requests of forks until somebody has looked at their commits.
package approvals

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/statements"
)

// The states of an approval. What is approved or rejected stays so.
const (
	Waiting   = "waiting"
	Approved  = "approved"
	Rejected  = "rejected"
	Stale     = "stale"     // the pull request has a newer commit
	Withdrawn = "withdrawn" // it was closed
)

// States lists them.
var States = []string{Waiting, Approved, Rejected, Stale, Withdrawn}

// Approval is one commit of a fork's pull request.
type Approval struct {
	ID          int64      `db:"id"`
	Repository  string     `db:"repository"`
	PullRequest int32      `db:"pull_request"`
	HeadSHA     string     `db:"head_sha"`
	SenderID    int64      `db:"sender_id"` // GitHub's number of the account that asked
	Author      *string    `db:"author"`    // its name
	Title       *string    `db:"title"`
	Status      string     `db:"status"`
	RunID       *int64     `db:"run_id"` // what the approval made
	DecidedBy   *string    `db:"decided_by"`
	DecidedAt   *time.Time `db:"decided_at"`
	CreatedAt   time.Time  `db:"created_at"`
}

// URL is where the pull request can be read.
func (a *Approval) URL() string { return a.Repository + "/pull/" + strconv.Itoa(int(a.PullRequest)) }

// kept is what an approval keeps of the run beside its columns.
type kept struct {
	Event   string `json:"event"`
	Ref     string `json:"ref"`
	BaseRef string `json:"base_ref"`
	BaseSHA string `json:"base_sha"`
}

//go:embed queries/*.sql
var queryFiles embed.FS

var query = statements.In(queryFiles)

// Service keeps approvals.
type Service struct{ db *jobs.DB }

// New keeps them in db.
func New(db *jobs.DB) *Service { return &Service{db} }

// Fork is a fork's pull request as a delivery told of it.
type Fork struct {
	Run jobs.NewRun // with the delivery as its idempotency key
	At  time.Time   // when the pull request was so, by GitHub's clock
}

func (f *Fork) args(more pgx.NamedArgs) pgx.NamedArgs {
	args := pgx.NamedArgs{
		"repository": f.Run.Repository, "pull_request": f.Run.PullRequest, "head_sha": f.Run.HeadSHA, "asked_at": f.At,
		"delivery_id": f.Run.IdempotencyKey, "sender_id": f.Run.SenderID, "author": f.Run.Author, "title": f.Run.Title,
	}
	for name, value := range more {
		args[name] = value
	}
	return args
}

// Supersede makes stale what waits for an older commit of the same pull request.
func (s *Service) Supersede(ctx context.Context, fork Fork) error {
	if _, err := s.db.Pool().Exec(ctx, query("supersede"), fork.args(nil)); err != nil {
		return fmt.Errorf("supersede approvals of %s: %w", fork.Run.Ref, err)
	}
	return nil
}

// Ask returns the approval that the run waits for. The same commit asks once, whatever the delivery; one that was decided is
// not asked for again. Deliveries may come late: for an older commit than one that asked already the answer is stale.
func (s *Service) Ask(ctx context.Context, fork Fork) (approval Approval, err error) {
	run, err := json.Marshal(kept{fork.Run.Event, fork.Run.Ref, fork.Run.BaseRef, fork.Run.BaseSHA})
	if err != nil {
		return Approval{}, fmt.Errorf("keep run of %s: %w", fork.Run.Ref, err)
	}
	args := fork.args(pgx.NamedArgs{"run": run})
	err = pgx.BeginFunc(ctx, s.db.Pool(), func(tx pgx.Tx) error {
		// One delivery of a pull request at a time: two would not see each other's commit.
		for _, step := range []string{"lock", "supersede", "ask"} {
			if _, err := tx.Exec(ctx, query(step), args); err != nil {
				return err
			}
		}
		approval, err = one(ctx, tx, "asked", args)
		return err
	})
	if err != nil {
		return Approval{}, fmt.Errorf("ask for approval of %s: %w", fork.Run.Ref, err)
	}
	return approval, nil
}

// Withdraw takes back what waits for a pull request that was closed at a time by GitHub's clock.
func (s *Service) Withdraw(ctx context.Context, repository string, pullRequest int32, at time.Time) (withdrawn bool, err error) {
	done, err := s.db.Pool().Exec(ctx, query("withdraw"), pgx.NamedArgs{"repository": repository, "pull_request": pullRequest, "asked_at": at})
	if err != nil {
		return false, fmt.Errorf("withdraw approvals of pull request %d: %w", pullRequest, err)
	}
	return done.RowsAffected() > 0, nil
}

// Approve makes the run, untrusted, in the transaction of the decision: once, whoever else decides at the same time. To approve
// what is approved is to be told so. allowed is asked before anything is done: what it returns ends it.
func (s *Service) Approve(ctx context.Context, id int64, by string, allowed func(*Approval) error) (Approval, error) {
	return s.decide(ctx, id, by, Approved, allowed)
}

// Reject decides that there will be no run of this commit. As for Approve.
func (s *Service) Reject(ctx context.Context, id int64, by string, allowed func(*Approval) error) (Approval, error) {
	return s.decide(ctx, id, by, Rejected, allowed)
}

func (s *Service) decide(ctx context.Context, id int64, by, decision string, allowed func(*Approval) error) (approval Approval, err error) {
	err = pgx.BeginFunc(ctx, s.db.Pool(), func(tx pgx.Tx) error {
		var keptRun []byte
		var delivery string
		err := tx.QueryRow(ctx, query("hold"), pgx.NamedArgs{"id": id}).Scan(&keptRun, &delivery)
		if errors.Is(err, pgx.ErrNoRows) {
			return notFound()
		}
		if err != nil {
			return err
		}
		if approval, err = one(ctx, tx, "get", pgx.NamedArgs{"id": id}); err != nil {
			return err
		}
		if err := allowed(&approval); err != nil {
			return err
		}
		switch approval.Status {
		case Waiting:
		case decision:
			return nil
		default:
			return problem.New(http.StatusConflict, "approval_decided", fmt.Sprintf("the approval is %s: %s", approval.Status, because[approval.Status]))
		}
		var run *int64
		if decision == Approved {
			enqueued, err := jobs.EnqueueTx(ctx, tx, approval.run(keptRun, delivery))
			if err != nil {
				return err
			}
			run = &enqueued.RunID
		}
		approval, err = one(ctx, tx, "decide", pgx.NamedArgs{"id": id, "status": decision, "decided_by": by, "run_id": run})
		return err
	})
	if err != nil {
		return Approval{}, fmt.Errorf("decide approval %d: %w", id, err)
	}
	return approval, nil
}

// because says what a state that is no longer open means.
var because = map[string]string{
	Approved:  "its run was made",
	Rejected:  "somebody decided that this commit is not run",
	Stale:     "the pull request has a newer commit, which needs an approval of its own",
	Withdrawn: "the pull request was closed",
}

// run is what an approval makes. It is never trusted: that somebody has looked at it does not make it the repository's own.
func (a *Approval) run(text []byte, delivery string) jobs.NewRun {
	var k kept
	_ = json.Unmarshal(text, &k) // it is jsonb of our own; an empty run is refused by the table
	run := jobs.NewRun{
		Repository: a.Repository, Event: k.Event, Ref: k.Ref, HeadSHA: a.HeadSHA, BaseRef: k.BaseRef, BaseSHA: k.BaseSHA,
		PullRequest: int(a.PullRequest), SenderID: a.SenderID, Trusted: false, Principal: "github", IdempotencyKey: delivery,
	}
	if a.Author != nil {
		run.Author = *a.Author
	}
	if a.Title != nil {
		run.Title = *a.Title
	}
	return run
}

// Get returns one approval, or a problem when there is none.
func (s *Service) Get(ctx context.Context, id int64) (Approval, error) {
	found, err := one(ctx, s.db.Pool(), "get", pgx.NamedArgs{"id": id})
	if errors.Is(err, pgx.ErrNoRows) {
		return Approval{}, notFound()
	}
	if err != nil {
		return Approval{}, fmt.Errorf("read approval %d: %w", id, err)
	}
	return found, nil
}

func notFound() error {
	return problem.New(http.StatusNotFound, "not_found", "there is no such approval")
}

// List returns at most limit approvals of a state with ids below before, the newest first; of one repository, unless it is empty.
func (s *Service) List(ctx context.Context, status, repository string, before int64, limit int) ([]Approval, error) {
	rows, err := s.db.Pool().Query(ctx, query("list"), pgx.NamedArgs{"status": status, "repository": repository, "before": before, "limit": limit})
	if err != nil {
		return nil, fmt.Errorf("list approvals: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[Approval])
	if err != nil {
		return nil, fmt.Errorf("list approvals: %w", err)
	}
	return found, nil
}

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func one(ctx context.Context, db querier, name string, args pgx.NamedArgs) (Approval, error) {
	rows, err := db.Query(ctx, query(name), args)
	if err != nil {
		return Approval{}, err
	}
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Approval])
}

// Told is the state in words, for whoever sent the delivery.
func (a *Approval) Told() string {
	return fmt.Sprintf("commit %s of pull request %d is %s: %s", a.HeadSHA, a.PullRequest, a.Status, because[a.Status])
}
