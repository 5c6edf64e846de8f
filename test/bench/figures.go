package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// figures is part (l): the queue and a repository's statistics beside a long history and a long queue.
func figures(ctx context.Context, b *bench, t *table) error {
	ended, waiting := number(float64(b.size.ended)), number(float64(b.size.waiting))
	counting := t.row("attempts/s", nil, "ours: %s finished jobs, a tenth of them of the last 24 h and nine tenths of one repository, counted for the statistics", ended)
	const big, small = "/api/v1/repositories/github.com%2Facme%2Fwidgets-0/stats", "/api/v1/repositories/github.com%2Facme%2Fwidgets-59/stats"
	// A token of one repository: its jobs have to be looked for in the queue.
	const oneRepository = "lst_one-repository"
	asked := []struct {
		what, path, token string
		took              latencies
	}{
		{what: "/api/v1/queue", path: "/api/v1/queue", token: fleetToken},
		{what: "/api/v1/queue?limit=100", path: "/api/v1/queue?limit=100", token: fleetToken},
		{what: "/api/v1/queue?limit=100 by a token of one repository", path: "/api/v1/queue?limit=100", token: oneRepository},
		{what: "the big repository's stats, 24 h", path: big + "?window=24h", token: fleetToken},
		{what: "the big repository's stats, 7 d", path: big + "?window=7d", token: fleetToken},
		{what: "the big repository's stats, 30 d", path: big + "?window=30d", token: fleetToken},
		{what: "a small repository's stats, 30 d", path: small + "?window=30d", token: fleetToken},
	}
	for i := range asked {
		asked[i].took = t.latencies(fmt.Sprintf("… and %s jobs that wait; GET %s", waiting, asked[i].what), atMost(50), atMost(50), nil)
	}
	return withGateways(ctx, b, 1, func(d *database, f *fleet) error {
		b.say("  filling in %s finished jobs", ended)
		if err := d.fillEnded(ctx, b.size.ended/jobsPerRun); err != nil {
			return err
		}
		sum := sha256.Sum256([]byte(oneRepository))
		if _, err := d.pool.Exec(ctx, "INSERT INTO ci_tokens (name, hash, hint, scope, repository) VALUES ('bench', $1, '', 'read', 'https://github.com/acme/widgets-7')", sum[:]); err != nil {
			return fmt.Errorf("make a token: %w", err)
		}
		began, attempts := time.Now(), 0
		for done := false; !done; {
			n, err := value[int](ctx, d, "SELECT ci_tally(10000)")
			if err != nil {
				return err
			}
			attempts += n
			if done = n == 0; done { // or a transaction elsewhere on the server holds it back
				if done, err = value[bool](ctx, d, query("all_tallied")); err != nil || !done && !pause(ctx, 10*time.Millisecond) {
					return errors.Join(err, ctx.Err())
				}
			}
		}
		counting.add(float64(attempts) / time.Since(began).Seconds())
		b.say("    %s attempts/s counted", number(counting.last()))
		if err := d.fillWaiting(ctx, b.size.waiting); err != nil {
			return err
		}
		client := &http.Client{Timeout: 10 * time.Second}
		defer client.CloseIdleConnections()
		return b.rounds(func() error {
			for _, a := range asked {
				var took []float64
				for i := range b.size.asks + b.size.asks/10 + 1 {
					began := time.Now()
					if err := get(ctx, client, "http://"+f.processes[0].ops+a.path, a.token); err != nil {
						return fmt.Errorf("%s: %w", a.what, err)
					}
					if i > b.size.asks/10 { // connections are open, plans made
						took = append(took, inMs(time.Since(began)))
					}
				}
				a.took.addAll(took)
				b.say("    %s: p50 %s ms, p99 %s ms", a.what, number(a.took.p50.last()), number(a.took.p99.last()))
			}
			return nil
		})
	})
}

// fillEnded adds finished runs with all that a run leaves behind, in transactions of a thousand runs.
func (d *database) fillEnded(ctx context.Context, runs int) error {
	err := d.load(ctx, func(exec func(string, ...any) error) error {
		err := errors.Join(exec("SET synchronous_commit = off"), exec(query("ended_runs"), runs),
			exec("INSERT INTO ci_turns (repository, status, turn) SELECT DISTINCT repository, 'new'::ci_job_status, 0 FROM ci_runs"))
		for from := 1; err == nil && from <= runs; from += 1_000 {
			err = exec(query("ended_jobs"), from, from+999)
		}
		return errors.Join(err, exec("RESET synchronous_commit"))
	})
	return errors.Join(err, d.settle(ctx))
}

// fillWaiting adds workers and a queue.
func (d *database) fillWaiting(ctx context.Context, jobs int) error {
	err := d.load(ctx, func(exec func(string, ...any) error) error {
		return errors.Join(
			exec("INSERT INTO ci_workers (stage, name, slots, lease) SELECT s, 'bench:' || i, $1, '1 day' FROM unnest('{initializer,runner}'::text[]) AS s, generate_series(1, 4) AS i", max(1, jobs/20)),
			exec(query("waiting_jobs"), jobs))
	})
	return errors.Join(err, d.settle(ctx))
}

// get asks a gateway, and reads what it says to the end.
func get(ctx context.Context, client *http.Client, url, token string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("make a request: %w", err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if response.StatusCode != http.StatusOK || len(body) < 100 {
		return fmt.Errorf("%s: %.200s", response.Status, body)
	}
	return nil
}
