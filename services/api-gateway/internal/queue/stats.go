package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	lockstepv1 "github.com/lockstep-ci/lockstep/services/api-gateway/gen/lockstep/v1"
)

// Window is a time that statistics may be about.
type Window struct {
	Name  string
	long  time.Duration
	grain time.Duration // of the tallies that it is a sum of
}

// Windows are those that there are. The first is meant when none is named.
var Windows = []Window{{"7d", 7 * day, day}, {"24h", day, time.Hour}, {"30d", 30 * day, day}}

const day = 24 * time.Hour

// tally is what ended of one kind within one grain of time.
type tally struct {
	Kind, Name, Outcome string
	BeginsAt            time.Time
	Ended               int64
	Buckets             string
}

// Stats returns what became of a repository's runs, or jobs.ErrNotFound for one that nobody knows.
func Stats(ctx context.Context, pool *pgxpool.Pool, repository string, window Window) (*lockstepv1.GetRepositoryStatsResponse, error) {
	answer := &lockstepv1.GetRepositoryStatsResponse{Repository: repository, Window: window.Name}
	err := pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		return readStats(ctx, tx, window, answer)
	})
	if err != nil {
		return nil, fmt.Errorf("read statistics of %s: %w", repository, err)
	}
	return answer, nil
}

func readStats(ctx context.Context, tx pgx.Tx, window Window, answer *lockstepv1.GetRepositoryStatsResponse) error {
	var known bool
	var now time.Time
	err := tx.QueryRow(ctx, query("repository_known"), pgx.NamedArgs{"repository": answer.GetRepository()}).Scan(&known, &now)
	if err != nil {
		return err
	}
	if !known {
		return jobs.ErrNotFound
	}
	since := now.Add(-window.long).Truncate(window.grain) // at midnight UTC, or the full hour
	answer.Since = timestamppb.New(since)

	var stages []*lockstepv1.RepositoryStage
	holds := map[string]*lockstepv1.RepositoryStage{}
	var all, daily []tally
	batch := &pgx.Batch{}
	batch.Queue(query("stages")).Query(func(rows pgx.Rows) error {
		var s stage
		_, err := pgx.ForEachRow(rows, []any{&s.Name, &s.Takes, &s.Holds, &s.Workers, &s.Slots, &s.Now}, func() error {
			holds[s.Holds] = &lockstepv1.RepositoryStage{Name: s.Name}
			stages = append(stages, holds[s.Holds])
			return nil
		})
		return err
	})
	tallies := func(into *[]tally, grain time.Duration, since time.Time, kinds ...string) {
		args := pgx.NamedArgs{"repository": answer.GetRepository(), "minutes": int(grain.Minutes()), "since": since, "kinds": kinds}
		batch.Queue(query("repository_tallies"), args).Query(func(rows pgx.Rows) (err error) {
			*into, err = pgx.CollectRows(rows, pgx.RowToStructByPos[tally])
			return err
		})
	}
	tallies(&all, window.grain, since, "run", "wait", "work")
	tallies(&daily, day, since.Truncate(day), "run")
	for kind, into := range map[string]*[]*lockstepv1.NamedFigures{"job": &answer.SlowestJobs, "step": &answer.SlowestSteps} {
		args := pgx.NamedArgs{"repository": answer.GetRepository(), "kind": kind, "minutes": int(window.grain.Minutes()), "since": since}
		batch.Queue(query("slowest"), args).Query(func(rows pgx.Rows) (err error) {
			*into, err = namedFigures(rows)
			return err
		})
	}
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return err
	}

	answer.Stages = stages
	waits, works := map[string]*histogram{}, map[string]*histogram{}
	for word := range holds {
		waits[word], works[word] = &histogram{}, &histogram{}
	}
	for _, t := range all {
		s := holds[t.Name]
		switch {
		case s == nil: // a run, or a stage that there is no more
		case t.Kind == "wait":
			err = errors.Join(err, waits[t.Name].add(t.Buckets))
		case t.Kind == "work":
			err = errors.Join(err, works[t.Name].add(t.Buckets))
			s.Ended += t.Ended
		}
	}
	if err != nil {
		return err
	}
	for word, s := range holds {
		s.Wait, s.Run = waits[word].percentiles(), works[word].percentiles()
	}
	if answer.Runs, err = runFigures(slices.DeleteFunc(all, func(t tally) bool { return t.Kind != "run" })); err != nil {
		return err
	}
	slices.SortFunc(daily, func(a, b tally) int { return a.BeginsAt.Compare(b.BeginsAt) })
	for len(daily) > 0 {
		first := daily[0].BeginsAt
		behind := slices.IndexFunc(daily, func(t tally) bool { return t.BeginsAt.After(first) })
		if behind < 0 {
			behind = len(daily)
		}
		figures, err := runFigures(daily[:behind])
		if err != nil {
			return err
		}
		answer.Days = append(answer.Days, &lockstepv1.DayFigures{BeginsAt: timestamppb.New(first), Runs: figures})
		daily = daily[behind:]
	}
	return nil
}

func runFigures(tallies []tally) (*lockstepv1.RunFigures, error) {
	f, durations := &lockstepv1.RunFigures{}, histogram{}
	for _, t := range tallies {
		f.Ended += t.Ended
		var of *int64
		switch jobs.Status(t.Outcome) {
		case jobs.StatusSuccess:
			of = &f.Success
		case jobs.StatusFailure:
			of = &f.Failure
		case jobs.StatusError:
			of = &f.Error
		case jobs.StatusCancelled:
			of = &f.Cancelled
		case jobs.StatusSkipped:
			of = &f.Skipped
		default:
			return nil, fmt.Errorf("a run cannot end as %s", t.Outcome)
		}
		*of += t.Ended
		if of == &f.Success || of == &f.Failure {
			if err := durations.add(t.Buckets); err != nil {
				return nil, err
			}
		}
	}
	if judged := f.GetSuccess() + f.GetFailure() + f.GetError(); judged > 0 {
		rate := float64(f.GetFailure()+f.GetError()) / float64(judged)
		f.FailureRate = &rate
	}
	f.Duration = durations.percentiles()
	return f, nil
}

// namedFigures are rows of slowest: some of one name after the other.
func namedFigures(rows pgx.Rows) ([]*lockstepv1.NamedFigures, error) {
	var all []*lockstepv1.NamedFigures
	var durations []histogram
	var row lockstepv1.NamedFigures
	var buckets string
	_, err := pgx.ForEachRow(rows, []any{&row.Job, &row.Step, &row.Ended, &row.Failed, &row.MeanMs, &buckets}, func() error {
		if n := len(all); n == 0 || all[n-1].GetJob() != row.GetJob() || all[n-1].GetStep() != row.GetStep() {
			all = append(all, &lockstepv1.NamedFigures{Job: row.GetJob(), Step: row.GetStep(), Ended: row.GetEnded(), Failed: row.GetFailed(), MeanMs: row.GetMeanMs()})
			durations = append(durations, histogram{})
		}
		return durations[len(all)-1].add(buckets)
	})
	for i := range all {
		all[i].Duration = durations[i].percentiles()
	}
	return all, err
}
