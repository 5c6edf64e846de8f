package notifier

import (
	"context"
	_ "embed"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

var (
	//go:embed queries/claim.sql
	claimSQL string
	//go:embed queries/settle.sql
	settleSQL string
)

// report is one claim of one row of ci_reports, as it was then.
type report struct {
	ID, RunID, JobID int64
	Repository       string // canonical: https://host/owner/name, or a file URL
	SHA              string
	Context          string // `lockstep/workflow / job (matrix)`
	State            string // pending, success, failure or error
	Description      string // of any length
	Version          int64
	Attempt          int         // tries since the version changed: 1, 2, 3 …
	Token            pgtype.UUID // the fence

	claimedAt time.Time // by our clock, not later than the claim
}

// claim takes up to free reports that are due. The statements share a transaction and a round trip.
func (n *Notifier) claim(ctx context.Context, free int) ([]report, error) {
	// Its context does not end with a SIGTERM: a claim cut off may have been made, and would be held for nothing.
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	began := time.Now()
	rows, err := n.db.Pool().Query(ctx, claimSQL, pgx.NamedArgs{"slots": free, "held": held})
	if err != nil {
		return nil, fmt.Errorf("claim %d reports: %w", free, err)
	}
	reports, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (report, error) {
		r := report{claimedAt: began}
		err := row.Scan(&r.ID, &r.RunID, &r.JobID, &r.Repository, &r.SHA, &r.Context, &r.State, &r.Description, &r.Version, &r.Attempt, &r.Token)
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("claim %d reports: %w", free, err)
	}
	return reports, nil
}

// settle ends a claim. ours is false when it was somebody else's by then: nothing was changed. While the database is away
// it tries for as long as the claim may be ours.
func (n *Notifier) settle(life context.Context, r report, v verdict) (ours bool, err error) {
	ctx, cancel := context.WithDeadline(life, r.claimedAt.Add(held))
	defer cancel()
	args := pgx.NamedArgs{
		"id": r.ID, "token": r.Token, "version": r.Version, "outcome": v.outcome, "reason": clean(v.reason),
		"wait": v.wait + rand.N(v.wait/5+1), // never less: a limit is obeyed
	}
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		tag, err := n.db.Pool().Exec(ctx, settleSQL, args)
		if err == nil {
			n.db.Note("settle reports", "", nil)
			return tag.RowsAffected() == 1, nil
		}
		err = fmt.Errorf("settle report %d version %d: %w", r.ID, r.Version, err)
		if ctx.Err() != nil {
			return false, err
		}
		n.db.Note("settle reports", "what GitHub was told is kept and written again, for a minute", err)
		select {
		case <-ctx.Done():
		case <-time.After(jitter(wait)):
		}
	}
}

// maxReason bounds a reason, in bytes.
const maxReason = 1000

// clean makes a reason storable, whatever an answer held: valid UTF-8, no NUL, at most maxReason bytes.
func clean(text string) string {
	text = text[:min(len(text), maxReason)]
	return strings.ReplaceAll(strings.ToValidUTF8(text, ""), "\x00", "")
}
