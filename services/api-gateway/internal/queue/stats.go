package queue

import (
	"context"
	"encoding/json"
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
	Buckets             histogram
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
			*into, err = pgx.CollectRows(rows, namedFigures)
			return err
		})
	}
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return err
	}

	answer.Stages = stages
	waits, works := map[string]histogram{}, map[string]histogram{}
	for _, t := range all {
		s := holds[t.Name]
		switch {
		case s == nil: // a run, or a stage that there is no more
		case t.Kind == "wait":
			merge(waits, t)
		case t.Kind == "work":
			merge(works, t)
			s.Ended += t.Ended
		}
	}
	for word, s := range holds {
		s.Wait, s.Run = waits[word].percentiles(), works[word].percentiles()
	}
	answer.Runs = runFigures(slices.DeleteFunc(all, func(t tally) bool { return t.Kind != "run" }))
	slices.SortFunc(daily, func(a, b tally) int { return a.BeginsAt.Compare(b.BeginsAt) })
	for len(daily) > 0 {
		first := daily[0].BeginsAt
		behind := slices.IndexFunc(daily, func(t tally) bool { return t.BeginsAt.After(first) })
		if behind < 0 {
			behind = len(daily)
		}
		answer.Days = append(answer.Days, &lockstepv1.DayFigures{BeginsAt: timestamppb.New(first), Runs: runFigures(daily[:behind])})
		daily = daily[behind:]
	}
	return nil
}

func merge(into map[string]histogram, t tally) {
	if into[t.Name] == nil {
		into[t.Name] = histogram{}
	}
	into[t.Name].add(t.Buckets)
}

func runFigures(tallies []tally) *lockstepv1.RunFigures {
	f, durations := &lockstepv1.RunFigures{}, histogram{}
	for _, t := range tallies {
		f.Ended += t.Ended
		switch jobs.Status(t.Outcome) {
		case jobs.StatusSuccess:
			f.Success += t.Ended
			durations.add(t.Buckets)
		case jobs.StatusFailure:
			f.Failure += t.Ended
			durations.add(t.Buckets)
		case jobs.StatusError:
			f.Error += t.Ended
		case jobs.StatusCancelled:
			f.Cancelled += t.Ended
		case jobs.StatusSkipped:
			f.Skipped += t.Ended
		}
	}
	if judged := f.GetSuccess() + f.GetFailure() + f.GetError(); judged > 0 {
		rate := float64(f.GetFailure()+f.GetError()) / float64(judged)
		f.FailureRate = &rate
	}
	f.Duration = durations.percentiles()
	return f
}

func namedFigures(row pgx.CollectableRow) (*lockstepv1.NamedFigures, error) {
	f := &lockstepv1.NamedFigures{}
	var texts []byte
	if err := row.Scan(&f.Job, &f.Step, &f.Ended, &f.Failed, &f.MeanMs, &texts); err != nil {
		return nil, err
	}
	var each []histogram
	if err := json.Unmarshal(texts, &each); err != nil {
		return nil, errors.Join(errors.New("read buckets"), err)
	}
	all := histogram{}
	for _, h := range each {
		all.add(h)
	}
	f.Duration = all.percentiles()
	return f, nil
}
