package main

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/joblog"
)

// watcherCounts is how many watch, and how: the one page that everybody looks at by WebSocket, by server-sent events and
// by Connect, and other pages by WebSocket. One in ten of the first two also follows a log of that page.
type watcherCounts struct{ sockets, streams, calls, other int }

func (c watcherCounts) all() int { return c.sockets + c.streams + c.calls + c.other }

// watchers is part (k): how long until the last of many watchers has seen a change?
func watchers(ctx context.Context, b *bench, t *table) error {
	c := b.size.watchers
	took := t.latencies(fmt.Sprintf("ours: %s watchers (%s of one page: %s by WebSocket, %d by SSE, %d by Connect; the others of %d pages), %d changes a second, "+
		"from the change to the last watcher", number(float64(c.all())), number(float64(c.all()-c.other)), number(float64(c.sockets)), c.streams, c.calls, b.size.pages, b.size.changes),
		nil, atMost(300), nil)
	made := t.row("changes/s", nil, "… changes that were made")
	told := t.row("messages/s", nil, "… messages that watchers took: changes that come faster are told as one")
	lost := t.row("watchers", atMost(0), "… without the newest version, or without a byte of the log they follow")
	memory := t.row("MiB", atMost(512), "… memory of the gateway, most")
	listening := t.row("connections", atMost(1), "… on which the gateway listens")
	gatewayCPU := t.row("% of a core", nil, "… CPU of the gateway")
	clientCPU := t.row("% of a core", nil, "… CPU of the clients")
	serverCPU := t.row("% of a core", nil, "… CPU of PostgreSQL")
	return b.rounds(func() error {
		return withGateways(ctx, b, 1, func(d *database, f *fleet) (err error) {
			p := &pages{b: b, d: d, began: time.Now()}
			if err := p.make(ctx); err != nil {
				return err
			}
			crowd, err := p.gather(ctx, f.processes[0].ops)
			if err != nil {
				return errors.Join(err, crowd.leave())
			}
			watch, used, ours, before := b.server.start(), f.cpu(), ownCPU(), crowd.told()
			changes, err := p.change(ctx)
			passed := time.Since(watch.at)
			share := func(cpu time.Duration) float64 { return 100 * cpu.Seconds() / passed.Seconds() }
			gatewayCPU.add(share(f.cpu() - used))
			clientCPU.add(share(ownCPU() - ours))
			serverCPU.add(share(b.server.cpu() - watch.cpu))
			made.add(float64(len(changes)) / passed.Seconds())
			told.add(float64(crowd.told()-before) / passed.Seconds())
			if err != nil {
				return errors.Join(err, crowd.leave())
			}
			n, err := value[int](ctx, d, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'api-gateway' AND query LIKE 'SELECT pg_notify%'")
			if err == nil && n == 0 {
				err = errors.New("the gateway listens on no connection")
			}
			listening.add(float64(n))
			if err := errors.Join(err, p.end(ctx)); err != nil {
				return errors.Join(err, crowd.leave())
			}
			// Who has not seen the end by then has lost something.
			_ = until(ctx, 20*time.Second, 50*time.Millisecond, func() bool { return p.lack(crowd) == 0 })
			lost.add(float64(p.lack(crowd)))
			peak, err := peakMemory(f.processes[0].cmd.Process.Pid)
			memory.add(peak)
			if err := errors.Join(err, crowd.leave()); err != nil {
				return err
			}
			took.addAll(crowd.last(changes))
			b.say("    %d watchers: p99 %s ms, max %s ms, %s/s told, %s MiB, %s lost; gateway %s%%, clients %s%%, server %s%%", len(crowd),
				number(took.p99.last()), number(took.most.last()), number(told.last()), number(peak), number(lost.last()),
				number(gatewayCPU.last()), number(clientCPU.last()), number(serverCPU.last()))
			return nil
		})
	})
}

// pages are the runs that are watched; everybody looks at the first one.
type pages struct {
	b        *bench
	d        *database
	began    time.Time
	runs     []int64
	restless []int64  // of each run, the job that changes
	followed jobs.Job // of the first run, the job with a log
	last     []int64  // of each run, its last version
	log      logSum   // all that was logged
	writer   *joblog.Writer
	dir      string
}

// logSum is what a log held so far.
type logSum struct {
	size  int64
	sum   uint32
	ended bool
}

func (l *logSum) add(text []byte) {
	l.size, l.sum = l.size+int64(len(text)), crc32.Update(l.sum, crc32.IEEETable, text)
}

// make puts the runs into the table, all their jobs claimed, and begins the log.
func (p *pages) make(ctx context.Context) error {
	err := p.d.load(ctx, func(exec func(string, ...any) error) error { return exec(query("watched_runs"), 1+p.b.size.pages) })
	if err != nil {
		return err
	}
	if err := p.d.exec(ctx, "UPDATE ci_jobs SET status = 'running'"); err != nil {
		return err
	}
	if p.runs, err = column(ctx, p.d, "SELECT id FROM ci_runs ORDER BY id"); err != nil {
		return err
	}
	if p.restless, err = column(ctx, p.d, "SELECT min(id) FROM ci_jobs GROUP BY run_id ORDER BY run_id"); err != nil {
		return err
	}
	j := &p.followed
	err = p.d.pool.QueryRow(ctx, "SELECT j.id, j.attempt, j.claim_token, r.log_day FROM ci_jobs j JOIN ci_runs r ON r.id = j.run_id WHERE j.run_id = $1 ORDER BY j.id DESC LIMIT 1", p.runs[0]).
		Scan(&j.ID, &j.Attempt, &j.Token, &j.LogDay)
	if err != nil {
		return fmt.Errorf("find a job to follow: %w", err)
	}
	if p.dir, err = os.MkdirTemp("", "lockstep-bench-log-"); err != nil {
		return fmt.Errorf("make a folder for a log: %w", err)
	}
	p.writer, err = joblog.NewWriter(p.d.pool, j, joblog.Options{Dir: p.dir, Limit: joblog.DefaultLimit, Log: zap.NewNop()})
	return err
}

func column(ctx context.Context, d *database, sql string) ([]int64, error) {
	rows, err := d.pool.Query(ctx, sql)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", firstLine(sql), err)
	}
	values, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", firstLine(sql), err)
	}
	return values, nil
}

// change is a change of a run, and when it was about to be committed.
type change struct {
	run, version int64
	at           time.Duration
}

// change makes changes at a steady rate, nine of ten in the run that everybody watches, and logs a line as often.
func (p *pages) change(ctx context.Context) ([]change, error) {
	var (
		all      sync.WaitGroup
		mu       sync.Mutex
		made     []change
		problems error
		n        = int(float64(p.b.size.changes) * p.b.size.changeFor.Seconds())
		pace     = time.Second / time.Duration(p.b.size.changes)
		begun    = time.Now()
	)
	one := func(turns int, due func(turn int) time.Duration, page func(turn int) int) {
		all.Go(func() {
			err := p.d.pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
				for turn := range turns {
					if wait := time.Until(begun.Add(due(turn))); wait > 0 && !pause(ctx, wait) {
						return ctx.Err()
					}
					at := page(turn)
					c := change{run: p.runs[at], at: time.Since(p.began)}
					if err := flip(ctx, conn, p.restless[at], c.run, &c.version); err != nil {
						return err
					}
					mu.Lock()
					made = append(made, c)
					mu.Unlock()
				}
				return nil
			})
			mu.Lock()
			defer mu.Unlock()
			problems = errors.Join(problems, err)
		})
	}
	// The n-th change of all is of another page when n ends with a nine.
	one(n-n/10, func(turn int) time.Duration { return time.Duration(turn+turn/9) * pace }, func(int) int { return 0 })
	one(n/10, func(turn int) time.Duration { return time.Duration(10*turn+9) * pace }, func(turn int) int { return 1 + turn%p.b.size.pages })
	all.Go(func() {
		for turn := range n {
			if wait := time.Until(begun.Add(time.Duration(turn) * pace)); wait > 0 && !pause(ctx, wait) {
				return
			}
			line := fmt.Appendf(nil, "%8d ok  \texample.com/widgets/round\t0.%03ds\n", turn, turn%1000)
			p.log.add(line)
			if _, err := p.writer.Write(line); err != nil {
				mu.Lock()
				defer mu.Unlock()
				problems = errors.Join(problems, fmt.Errorf("log: %w", err))
				return
			}
		}
	})
	all.Wait()
	return made, problems
}

// flip claims a job that waits, or gives back one that is held, and learns the run's version of that change: nobody else
// changes the run.
func flip(ctx context.Context, conn *pgxpool.Conn, job, run int64, version *int64) error {
	var b pgx.Batch // one transaction
	b.Queue("UPDATE ci_jobs SET status = CASE status WHEN 'running' THEN 'initialized'::ci_job_status ELSE 'running' END WHERE id = $1", job)
	b.Queue(query("version"), run).QueryRow(func(row pgx.Row) error { return row.Scan(version) })
	if err := conn.SendBatch(ctx, &b).Close(); err != nil {
		return fmt.Errorf("change job %d: %w", job, err)
	}
	return nil
}

// end ends the log, then all jobs, and with them all runs.
func (p *pages) end(ctx context.Context) error {
	p.log.ended = true
	err := errors.Join(p.writer.Close(ctx), os.RemoveAll(p.dir),
		p.d.exec(ctx, "UPDATE ci_jobs SET status = 'running' WHERE status = 'initialized'"),
		p.d.exec(ctx, "UPDATE ci_jobs SET status = 'success' WHERE status = 'running'"))
	for _, run := range p.runs {
		version, failed := value[int64](ctx, p.d, query("version"), run)
		p.last, err = append(p.last, version), errors.Join(err, failed)
	}
	return err
}

// lack is how many have not seen the last version, or not all of the log.
func (p *pages) lack(c crowd) (n int) {
	for _, w := range c {
		log, page := w.log.Load(), w.page
		if w.version.Load() != p.last[page] || (w.follows != 0 && (log == nil || *log != p.log)) {
			n++
		}
	}
	return n
}

// gather lets everybody come.
func (p *pages) gather(ctx context.Context, addr string) (crowd, error) {
	var c crowd
	add := func(n int, kind string, page func(i int) int) {
		for i := range n {
			w := &watcher{kind: kind, addr: addr, page: page(i), run: p.runs[page(i)], began: p.began, done: make(chan struct{})}
			if w.page == 0 && i%10 == 0 && kind != "call" {
				w.follows, w.attempt = p.followed.ID, p.followed.Attempt
			}
			c = append(c, w)
		}
	}
	first := func(int) int { return 0 }
	add(p.b.size.watchers.sockets, "socket", first)
	add(p.b.size.watchers.streams, "stream", first)
	add(p.b.size.watchers.calls, "call", first)
	add(p.b.size.watchers.other, "socket", func(i int) int { return 1 + i%p.b.size.pages })
	if _, err := closedLoop(ctx, 32, upTo(len(c)), func(ctx context.Context, i int64) error { return c[i-1].come(ctx) }); err != nil {
		return c, err
	}
	err := until(ctx, time.Minute, 20*time.Millisecond, func() bool { return c.told() >= int64(len(c)) })
	p.b.say("    %d watchers have come", len(c))
	return c, err
}

// peakMemory is the most that a process has held, in MiB; 0 where that cannot be known.
func peakMemory(pid int) (float64, error) {
	text := strings.TrimSuffix(grep(fmt.Sprintf("/proc/%d/status", pid), "VmHWM"), " kB")
	if text == "unknown" {
		return 0, nil
	}
	kB, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0, fmt.Errorf("memory of process %d: %w", pid, err)
	}
	return kB / 1024, nil
}
