package lab

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/lockstep-ci/lockstep/test/chaos/internal/audit"
)

// torment does things to the system until ctx ends, in three lanes side by side: to processes, to the database and the
// network, and to GitHub. Each lane deals from a deck of its faults that it shuffles by the seed, so that even a short run
// meets most of them. When it returns, all is mended.
func (s *System) torment(ctx context.Context) {
	var lanes, mends sync.WaitGroup
	lane := func(n uint64, least, most time.Duration, deck []func(context.Context, *rand.Rand)) {
		lanes.Go(func() {
			random := rand.New(rand.NewPCG(s.options.Seed, n))
			for {
				random.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
				for _, fault := range deck {
					if !pause(ctx, between(random.Float64(), least, most)) {
						return
					}
					fault(ctx, random)
				}
			}
		})
	}
	process := func(do func(context.Context, *rand.Rand, *place)) func(context.Context, *rand.Rand) {
		return func(ctx context.Context, random *rand.Rand) {
			if p := s.victim(random); p != nil {
				mends.Go(func() { // others fall meanwhile
					defer p.mu.Unlock()
					do(ctx, random, p)
				})
			}
		}
	}
	kill, freeze, zombie, end := process(s.killProcess), process(s.freezeProcess), process(s.wakeZombie), process(s.endProcess)
	lane(2, 300*time.Millisecond, 1500*time.Millisecond, []func(context.Context, *rand.Rand){kill, kill, kill, freeze, zombie, zombie, end, end})
	lane(3, 200*time.Millisecond, 800*time.Millisecond, []func(context.Context, *rand.Rand){
		s.killServer, s.restartServer, s.cut, s.reset, s.blackhole, s.late, s.slow, s.loseReplies,
		s.deafen, s.terminateAll, s.longTransaction, s.readOnly, s.lockTables,
	})
	var sulks []func(context.Context, *rand.Rand)
	for _, mood := range moods {
		sulks = append(sulks, func(ctx context.Context, random *rand.Rand) { s.sulk(ctx, random, mood) })
	}
	lane(4, 500*time.Millisecond, 2*time.Second, sulks)
	lanes.Wait()
	mends.Wait()
	s.background.Wait()
}

// victim is a place to which nothing is being done, locked; nil: there is none. Those who hold jobs are hit more often.
func (s *System) victim(random *rand.Rand) *place {
	var candidates []*place
	for _, p := range s.places {
		candidates = append(candidates, p)
		if p.service == "runner" || p.service == "initializer" {
			candidates = append(candidates, p, p)
		}
	}
	random.Shuffle(len(candidates), func(i, j int) { candidates[i], candidates[j] = candidates[j], candidates[i] })
	for _, p := range candidates {
		if p.mu.TryLock() {
			return p
		}
	}
	return nil
}

// again starts a place's next process, also when the faults are over: all is mended in the end.
func (s *System) again(p *place) {
	ctx, cancel := context.WithTimeout(s.life, time.Minute)
	defer cancel()
	if err := s.start(ctx, p); err != nil {
		s.broke(err)
	}
}

func (s *System) killProcess(_ context.Context, _ *rand.Rand, p *place) {
	fault := audit.Fault{Kind: "SIGKILL", Login: p.process.told().Login, Began: time.Now()}
	p.process.kill()
	s.again(p)
	s.harm(fault)
}

// freezeProcess stands a process still for longer than its lease.
func (s *System) freezeProcess(ctx context.Context, _ *rand.Rand, p *place) {
	fault := audit.Fault{Kind: "SIGSTOP", Login: p.process.told().Login, Began: time.Now()}
	s.standStill(ctx, p)
	p.process.thaw()
	s.harm(fault)
}

// wakeZombie is a SIGSTOP whose victim goes on before its beat can tell it that it is dead: only the fence is left.
func (s *System) wakeZombie(ctx context.Context, _ *rand.Rand, p *place) {
	fault := audit.Fault{Kind: "SIGSTOP, and then no beat", Login: p.process.told().Login, Began: time.Now()}
	s.standStill(ctx, p)
	var held sync.WaitGroup
	held.Go(func() { // its error is of no interest, as that of statement
		_ = s.server.execOnce(ctx, "BEGIN; LOCK TABLE ci_workers IN SHARE MODE; SELECT pg_sleep(1); COMMIT")
	})
	pause(ctx, 300*time.Millisecond)
	p.process.thaw()
	held.Wait()
	s.harm(fault)
}

func (s *System) standStill(ctx context.Context, p *place) {
	if err := p.process.freeze(ctx); err != nil && p.process.running() && ctx.Err() == nil {
		s.broke(err)
	}
	pause(ctx, lease+1500*time.Millisecond)
}

func (s *System) endProcess(_ context.Context, _ *rand.Rand, p *place) {
	fault := audit.Fault{Kind: "SIGTERM", Login: p.process.told().Login, Began: time.Now()}
	if err := p.process.end(); err != nil {
		s.broke(err)
	}
	s.again(p)
	s.harm(fault)
}

// killServer is kill -9 of PostgreSQL, and a start from what is on the disk.
func (s *System) killServer(ctx context.Context, _ *rand.Rand) {
	s.withoutServer(ctx, "PostgreSQL killed with -9", s.server.kill)
}

func (s *System) restartServer(ctx context.Context, _ *rand.Rand) {
	s.withoutServer(ctx, "PostgreSQL restarted", func() error { s.server.stop(); return nil })
}

func (s *System) withoutServer(ctx context.Context, kind string, end func() error) {
	fault := audit.Fault{Kind: kind, Began: time.Now(), Database: true}
	if err := end(); err != nil {
		s.broke(err)
	}
	if err := s.server.start(ctx); err != nil {
		s.broke(err)
		return
	}
	if err := s.network.forward(s.server.address()); err != nil {
		s.broke(err)
	}
	s.harm(fault)
}

// somebody is one service's way to the database: that of all its replicas, or of one.
func (s *System) somebody(random *rand.Rand) (name string, proxies []*proxy) {
	p := s.places[random.IntN(len(s.places))]
	if random.IntN(2) == 0 {
		return p.name, []*proxy{p.proxy}
	}
	for _, other := range s.places {
		if other.service == p.service {
			proxies = append(proxies, other.proxy)
		}
	}
	return "every " + p.service, proxies
}

// disturb does something to a service's way to the database for a while.
func (s *System) disturb(ctx context.Context, random *rand.Rand, kind string, low, high time.Duration, begin, end func(*proxy) error) {
	name, proxies := s.somebody(random)
	fault := audit.Fault{Kind: kind, Began: time.Now(), Database: true}
	for _, p := range proxies {
		if err := begin(p); err != nil {
			s.broke(err)
		}
	}
	pause(ctx, between(random.Float64(), low, high))
	for _, p := range proxies {
		if err := end(p); err != nil {
			s.broke(err)
		}
	}
	s.harm(fault)
	s.options.Say("  that was %s", name)
}

func (s *System) cut(ctx context.Context, random *rand.Rand) {
	s.disturb(ctx, random, "connections cut and refused", 100*time.Millisecond, 2*time.Second,
		func(p *proxy) error { p.close(); return nil }, func(p *proxy) error { return p.restart("") })
}

func (s *System) reset(ctx context.Context, random *rand.Rand) {
	s.disturb(ctx, random, "connections reset", 100*time.Millisecond, time.Second,
		func(p *proxy) error { return p.poison("reset_peer", "downstream", map[string]int{"timeout": 0}) }, (*proxy).cure)
}

// blackhole swallows all there is, both ways, and tells nobody.
func (s *System) blackhole(ctx context.Context, random *rand.Rand) {
	s.disturb(ctx, random, "connections stalled", time.Second, lease+2*time.Second, func(p *proxy) error {
		if err := p.poison("timeout", "upstream", map[string]int{"timeout": 0}); err != nil {
			return err
		}
		return p.poison("timeout", "downstream", map[string]int{"timeout": 0})
	}, (*proxy).cure)
}

// late holds statements back until others may have taken over, and delivers them then.
func (s *System) late(ctx context.Context, random *rand.Rand) {
	s.disturb(ctx, random, "statements delivered late", lease+time.Second, lease+2*time.Second,
		func(p *proxy) error {
			return p.poison("latency", "upstream", map[string]int{"latency": int(time.Minute / time.Millisecond)})
		}, (*proxy).cure)
}

func (s *System) slow(ctx context.Context, random *rand.Rand) {
	s.disturb(ctx, random, "connections slowed", time.Second, 3*time.Second,
		func(p *proxy) error {
			return p.poison("latency", "downstream", map[string]int{"latency": 100, "jitter": 80})
		}, (*proxy).cure)
}

// loseReplies lets statements through and swallows the answers, those to COMMIT too; then it closes the connections.
func (s *System) loseReplies(ctx context.Context, random *rand.Rand) {
	s.disturb(ctx, random, "replies lost", 200*time.Millisecond, 1500*time.Millisecond,
		func(p *proxy) error { return p.poison("timeout", "downstream", map[string]int{"timeout": 0}) }, (*proxy).cure)
}

// statement does something to the database from within. Its error is of no interest: the lanes run side by side, and the
// server may just be dead.
func (s *System) statement(ctx context.Context, kind, sql string) {
	fault := audit.Fault{Kind: kind, Began: time.Now(), Database: true}
	_ = s.server.execOnce(ctx, sql)
	s.harm(fault)
}

// deafen ends the connections that listen, and none else.
func (s *System) deafen(ctx context.Context, _ *rand.Rand) {
	s.statement(ctx, "listeners' connections ended", `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE '%\_listens'`)
}

func (s *System) terminateAll(ctx context.Context, _ *rand.Rand) {
	s.statement(ctx, "all connections ended", `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename IN (SELECT login FROM chaos.logins)`)
}

// longTransaction is somebody's report that takes its time. It hinders nobody, so that the lane goes on.
func (s *System) longTransaction(ctx context.Context, random *rand.Rand) {
	d := between(random.Float64(), 5*time.Second, 15*time.Second)
	began := time.Now()
	s.background.Go(func() {
		conn, err := s.server.connect(ctx)
		if err != nil {
			return
		}
		defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
		tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
		if err != nil {
			return
		}
		if _, err := tx.Exec(ctx, "SELECT count(*) FROM ci_jobs"); err != nil {
			return
		}
		pause(ctx, d)
		s.harm(audit.Fault{Kind: "long REPEATABLE READ transaction", Began: began})
	})
}

// readOnly is what a service meets while a standby is not promoted yet.
func (s *System) readOnly(ctx context.Context, random *rand.Rand) {
	fault := audit.Fault{Kind: "database read-only", Began: time.Now(), Database: true}
	mending, cancel := context.WithTimeout(s.life, time.Minute)
	defer cancel()
	if err := s.server.exec(mending, "ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()"); err != nil {
		s.broke(err)
	}
	pause(ctx, between(random.Float64(), time.Second, 3*time.Second))
	if err := s.server.exec(mending, "ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()"); err != nil {
		s.broke(err)
	}
	s.harm(fault)
}

// lockTables lets everybody queue up before a lock, as a careless migration does.
func (s *System) lockTables(ctx context.Context, random *rand.Rand) {
	table := []string{"ci_jobs", "ci_runs", "ci_workers", "ci_logs", "ci_reports"}[random.IntN(5)]
	s.statement(ctx, "table locked for a second: "+strings.TrimPrefix(table, "ci_"),
		fmt.Sprintf("BEGIN; LOCK TABLE %s IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(1); COMMIT", table))
}

func (s *System) sulk(ctx context.Context, random *rand.Rand, mood string) {
	fault := audit.Fault{Kind: mood, Began: time.Now()}
	s.github.feel(mood)
	pause(ctx, between(random.Float64(), 500*time.Millisecond, 3*time.Second))
	s.github.feel("")
	s.harm(fault)
}
