package lab

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lockstep-ci/lockstep/test/chaos/internal/audit"
)

// Replicas are what Torture wants to be running.
var Replicas = map[string]int{"api-gateway": 2, "initializer": 2, "runner": 3, "github-notifier": 2, "reaper": 2}

const (
	calm    = 6 * time.Second // between the last fault and the rollout, so that that one is graceful for sure
	settled = 2 * time.Minute // within that after the last request every run must have ended; an idle machine takes seconds
)

// Torture lets clients ask for runs and does everything to the system for so long. Then all is mended, every worker is
// replaced as by a rollout, still under load, and what was accepted gets two minutes to end.
func (s *System) Torture(ctx context.Context, d time.Duration) error {
	ctx, s.giveUp = context.WithCancel(ctx)
	defer s.giveUp()
	s.life = ctx
	loading, stopLoad := context.WithCancel(ctx)
	patience, losePatience := context.WithCancel(ctx)
	load := s.load(loading, patience)
	defer load.Wait()
	defer losePatience()
	defer stopLoad()

	tormenting, cancel := context.WithTimeout(ctx, d)
	s.torment(tormenting)
	cancel()
	if err := errors.Join(s.sound(), ctx.Err()); err != nil {
		return err
	}
	s.options.Say("the faults are over")
	if !pause(ctx, calm) {
		return ctx.Err()
	}
	if err := s.allReady(ctx, settled); err != nil {
		return err
	}
	if err := s.rollout(ctx); err != nil {
		return err
	}
	stopLoad()
	limit := time.AfterFunc(settled, losePatience)
	load.Wait()
	limit.Stop()
	s.options.Say("the load is over")
	return s.settle(ctx)
}

// rollout replaces every worker, one replica of a service after the other.
func (s *System) rollout(ctx context.Context) error {
	s.options.Say("a rollout begins")
	replace := func(p *place) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.process.running() {
			s.endProcess(ctx, nil, p)
		}
	}
	var services sync.WaitGroup
	for _, service := range []string{"initializer", "runner", "reaper"} {
		services.Go(func() {
			for _, p := range s.places {
				if p.service == service {
					replace(p)
				}
			}
		})
	}
	services.Wait()

	// Reports that a killed notifier held are another's after a minute, and some wait for long because of what GitHub
	// answered. To wait for that here would be long. While no notifier runs, nobody else holds one.
	notifiers := slices.DeleteFunc(slices.Clone(s.places), func(p *place) bool { return p.service != "github-notifier" })
	var ends sync.WaitGroup
	for _, p := range notifiers {
		ends.Go(func() {
			fault := audit.Fault{Kind: "SIGTERM", Login: p.process.told().Login, Began: time.Now()}
			if err := p.process.end(); err != nil {
				s.broke(err)
			}
			s.harm(fault)
		})
	}
	ends.Wait()
	err := s.server.exec(ctx, "UPDATE ci_reports SET deadline_at = clock_timestamp() WHERE status = 'notifying'",
		"UPDATE ci_reports SET not_before = clock_timestamp() WHERE status = 'pending'")
	if err != nil {
		return fmt.Errorf("hurry the reports: %w", err)
	}
	for _, p := range notifiers {
		s.again(p)
	}
	return nil
}

// settle waits until all has ended, as far as it does, and looks at it as clients do.
func (s *System) settle(ctx context.Context) error {
	began := time.Now()
	// Whoever waits in vain learns why from the auditor.
	if err := s.server.await(ctx, settled, "every run has ended", "SELECT NOT EXISTS (SELECT FROM ci_runs WHERE finished_at IS NULL)"); err != nil {
		s.options.Say("%v", err)
	}
	if err := s.server.await(ctx, settled/2, "GitHub has been told all", "SELECT NOT EXISTS (SELECT FROM ci_reports WHERE status IN ('pending', 'notifying'))"); err != nil {
		s.options.Say("%v", err)
	}
	s.options.Say("quiet after %s", time.Since(began).Round(time.Millisecond))
	random := rand.New(rand.NewPCG(s.options.Seed, 5))
	asking, cancel := context.WithTimeout(ctx, settled)
	defer cancel()
	for _, request := range s.requests { // the same key once more must name the same run
		if len(request.Answers) > 0 {
			s.submit(asking, random, request, s.commitOf(asking, request))
		}
	}
	return s.readLogs(ctx)
}

// commitOf is the commit that a request was for.
func (s *System) commitOf(ctx context.Context, request *audit.Request) (commit string) {
	conn, err := s.server.connect(ctx)
	if err != nil {
		return ""
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	_ = conn.QueryRow(ctx, "SELECT head_sha FROM ci_runs WHERE idempotency_key = $1", request.Key).Scan(&commit) // a lost run has none
	return commit
}

// Zombie is the one story that a fence is for, told so that luck has no part in it: a runner stands still for longer than
// its lease while its step ends, another takes the job over and holds it, and then the first goes on, before its beat can
// tell it that it is dead.
func (s *System) Zombie(ctx context.Context) error {
	at := filepath.Join(s.dir, "shared")
	r := repository{name: "octo/zombie", plan: audit.Plan{Status: "success", Jobs: map[string]audit.PlannedJob{"ci / work": {Status: "success"}}}}
	workflow := header + `  work:
    runs-on: ubuntu-latest
    steps:
      - run: |
          if mkdir "$AT/first" 2>/dev/null; then n=1; else n=2; fi
          until [ -e "$AT/go$n" ]; do sleep 0.02; done
          echo "attempt $n is done"
    env:
      AT: ` + at + "\n"
	if err := s.makeRepository(ctx, &r, map[string][]byte{".ci/workflows/ci.yml": []byte(workflow)}, 1); err != nil {
		return err
	}
	s.repositories = []repository{r}
	if err := s.Start(ctx, map[string]int{"api-gateway": 1, "initializer": 1, "github-notifier": 1, "reaper": 1}); err != nil {
		return err
	}
	first, err := s.add(ctx, "runner")
	if err != nil {
		return err
	}
	request := &audit.Request{Key: "zombie", Principal: "admin", Repository: r.url()}
	s.requests = append(s.requests, request)
	s.submit(ctx, rand.New(rand.NewPCG(1, 1)), request, r.commits[0])
	if err := until(ctx, 30*time.Second, "the first attempt works", func() bool { return exists(at, "first") }); err != nil {
		return fmt.Errorf("%w: %s", err, first.process.said())
	}

	fault := audit.Fault{Kind: "SIGSTOP", Login: first.process.told().Login, Began: time.Now()}
	if err := first.process.freeze(ctx); err != nil {
		return err
	}
	if err := create(at, "go1"); err != nil {
		return err
	}
	if _, err := s.add(ctx, "runner"); err != nil {
		return err
	}
	// For so long that not even a statement that was on its way could be meant.
	if err := s.server.await(ctx, 30*time.Second, "another holds the job",
		"SELECT EXISTS (SELECT FROM ci_jobs WHERE status = 'running' AND attempt = 3 AND claimed_at < clock_timestamp() - interval '2.5 s')"); err != nil {
		return err
	}
	conn, err := s.server.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if _, err := conn.Exec(ctx, "BEGIN; LOCK TABLE ci_workers IN SHARE MODE"); err != nil { // beats wait; whatever else there is does not
		return fmt.Errorf("hold the beats back: %w", err)
	}
	first.process.thaw()
	s.harm(fault)
	err = until(ctx, 30*time.Second, "the first runner has said what it has to say", func() bool {
		var over bool
		err := conn.QueryRow(ctx, "SELECT status <> 'running' FROM ci_jobs").Scan(&over)
		return err == nil && over || strings.Contains(first.process.logged(), "claim lost")
	})
	if err != nil {
		return fmt.Errorf("%w: %s", err, first.process.said())
	}
	if _, err := conn.Exec(ctx, "COMMIT"); err != nil {
		return fmt.Errorf("let the beats go: %w", err)
	}
	if err := create(at, "go2"); err != nil {
		return err
	}
	return s.settle(ctx)
}

func (p *process) logged() string {
	content, _ := os.ReadFile(p.log)
	return string(content)
}

func exists(dir, name string) bool {
	_, err := os.Stat(filepath.Join(dir, name))
	return err == nil
}

func create(dir, name string) error {
	if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
		return fmt.Errorf("let a step go on: %w", err)
	}
	return nil
}

// until asks every 10 ms until the answer is yes.
func until(ctx context.Context, limit time.Duration, what string, done func() bool) error {
	for deadline := time.Now().Add(limit); !done(); {
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %s: %s", limit, what)
		}
		if !pause(ctx, 10*time.Millisecond) {
			return ctx.Err()
		}
	}
	return nil
}
