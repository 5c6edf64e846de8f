package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
)

// TestEveryInterleavingOfTwoTransitionsKeepsTheRules lets each pair of transitions meet at the same job, or run: over two
// connections, statement by statement as the library sends them, in every order that the locks allow.
func TestEveryInterleavingOfTwoTransitionsKeepsTheRules(t *testing.T) {
	t.Parallel()
	scenes := map[string]struct {
		build       func(*testing.T, *stageSet) scene
		transitions []transition
	}{
		"planned": {plannedRun, plannedTransitions},
		"limited": {limitedRun, limitedTransitions},
		"asked":   {askedRun, askedTransitions},
	}
	for name, s := range scenes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			set := newStageSet(t)
			sc := s.build(t, set)
			var err error
			sc.beat, err = set.direct.watch().Beat(t.Context(), sc.worker)
			must(t, err)
			set.save(t)
			total := 0
			for i, a := range s.transitions {
				for _, b := range s.transitions[i:] {
					total += set.meet(t, sc, a, b)
					if t.Failed() {
						return
					}
				}
			}
			t.Logf("%d interleavings of %d pairs in %s", total, len(s.transitions)*(len(s.transitions)+1)/2, time.Since(began).Round(time.Millisecond))
		})
	}
}

// scene is where two transitions meet. All ids are the same after each restore.
type scene struct {
	run     int64
	job     *jobs.Job // the claim that the transitions are about
	other   *jobs.Job // of the same run, held by another worker
	worker  int64     // who holds job
	beat    string    // its last one
	holder  jobs.Stage
	waiting int64 // a job in its backoff
}

// transition is one thing that the library does to a scene.
type transition struct {
	name    string
	prepare string // SQL: what must be so before; $job, $run, $waiting
	do      func(context.Context, *side, scene) error
	ends    []jobs.Status // what the scene's claim may have become when do returns nil; nil: do ends no claim
	allowed error         // an error that is a true answer, beside ErrClaimLost of what ends
}

var (
	runner = jobs.Stage{Name: "runner", Takes: jobs.StatusInitialized, Holds: jobs.StatusRunning, Gives: jobs.StatusSuccess, Slots: 10, Lease: time.Hour, Beat: time.Minute, RetryAfter: time.Hour}
	// Without a backoff what has failed is admitted by the same transaction: more locks to meet at.
	initializer = jobs.Stage{Name: "initializer", Takes: jobs.StatusNew, Holds: jobs.StatusInitializing, Gives: jobs.StatusInitialized, Slots: 10, Lease: time.Hour, Beat: time.Minute}
)

var errNothing = errors.New("nothing to claim")

var (
	tEnqueue = transition{name: "enqueue", do: func(ctx context.Context, s *side, _ scene) error {
		_, err := s.gateway.Enqueue(ctx, jobs.NewRun{Repository: repository, Event: "push", Principal: "p", IdempotencyKey: "k", RequestHash: []byte("h")})
		return err
	}}
	tRerun = transition{name: "rerun", do: func(ctx context.Context, s *side, sc scene) error {
		_, err := s.gateway.Rerun(ctx, sc.run, "p", "k", []byte("h"), 0)
		return err
	}, allowed: jobs.ErrKeyReused}
	tCancel = transition{name: "cancel", do: func(ctx context.Context, s *side, sc scene) error {
		return s.gateway.Cancel(ctx, sc.run, "")
	}, allowed: jobs.ErrEnded}
	tClaim = transition{name: "claim", do: func(ctx context.Context, s *side, sc scene) error {
		claimed, err := s.hand(sc).Claim(ctx, 10)
		if err == nil && len(claimed) == 0 {
			err = errNothing
		}
		return err
	}, allowed: errNothing}
	tBeat = transition{name: "beat", do: func(ctx context.Context, s *side, sc scene) error {
		return s.hand(sc).Beat(ctx)
	}, allowed: jobs.ErrMarked}
	tFail = transition{name: "fail", do: func(ctx context.Context, s *side, sc scene) error {
		return s.hand(sc).Fail(ctx, sc.job, "no disk")
	}, ends: []jobs.Status{jobs.StatusBlocked, jobs.StatusCancelled}}
	tRelease = transition{name: "release", do: func(ctx context.Context, s *side, sc scene) error {
		return s.hand(sc).Release(ctx, sc.job)
	}, ends: []jobs.Status{jobs.StatusNew, jobs.StatusInitialized, jobs.StatusCancelled}}
	tFailure = transition{name: "finish as failure", do: func(ctx context.Context, s *side, sc scene) error {
		return s.finish(ctx, sc, sc.job, jobs.StatusFailure)
	}, ends: []jobs.Status{jobs.StatusFailure}}
	tMark = transition{name: "mark dead", do: func(ctx context.Context, s *side, sc scene) error {
		return s.mark(ctx, sc)
	}}
	tMarkAndReap = transition{name: "mark dead and reap", do: func(ctx context.Context, s *side, sc scene) error {
		s.wire.quiet.Store(true) // what it sees between its two writes is what the next look would see
		return errors.Join(s.mark(ctx, sc), s.watch().Reap(ctx))
	}}
	tOverdue = transition{name: "reap overdue", prepare: "UPDATE ci_jobs SET deadline_at = clock_timestamp() WHERE id = $job", do: func(ctx context.Context, s *side, _ scene) error {
		return s.watch().Reap(ctx)
	}}
	tSuccess = transition{name: "finish", do: func(ctx context.Context, s *side, sc scene) error {
		return s.finish(ctx, sc, sc.job, jobs.StatusSuccess)
	}, ends: []jobs.Status{jobs.StatusSuccess}}
	tCommit = transition{name: "finish with commit", do: func(ctx context.Context, s *side, sc scene) error {
		return s.hand(sc).FinishWith(ctx, sc.job, jobs.Result{Status: jobs.StatusSuccess, Commit: func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "-- output: what the job gives\nINSERT INTO ci_steps (job_id, attempt, number, name) VALUES ($1, $2, 1, 'output')", sc.job.ID, sc.job.Attempt)
			return err
		}})
	}, ends: []jobs.Status{jobs.StatusSuccess, jobs.StatusCancelled}}
	tOther = transition{name: "finish the other parent", do: func(ctx context.Context, s *side, sc scene) error {
		return s.finish(ctx, sc, sc.other, jobs.StatusSuccess)
	}}
	tExhaust = transition{name: "exhaust", prepare: "UPDATE ci_jobs SET failures = 3 WHERE id = $waiting", do: func(ctx context.Context, s *side, _ scene) error {
		return s.watch().Sweep(ctx)
	}}
	tAdmit = transition{name: "admit", prepare: "UPDATE ci_jobs SET not_before = clock_timestamp() WHERE id = $waiting", do: func(ctx context.Context, s *side, _ scene) error {
		return s.watch().Sweep(ctx)
	}}
	tRoom = transition{name: "admit into a raised limit", prepare: "UPDATE ci_repositories SET max_running = 4", do: func(ctx context.Context, s *side, _ scene) error {
		return s.watch().Sweep(ctx)
	}}
	tAnswer = transition{name: "the initializer's answer", do: func(ctx context.Context, s *side, sc scene) error {
		return s.hand(sc).FinishWith(ctx, sc.job, answer(sc.job))
	}, ends: []jobs.Status{jobs.StatusInitialized, jobs.StatusCancelled}}
)

var (
	plannedTransitions = []transition{tEnqueue, tRerun, tCancel, tClaim, tBeat, tSuccess, tCommit, tFailure, tOther, tFail, tRelease, tMark, tMarkAndReap, tOverdue, tExhaust, tAdmit}
	limitedTransitions = []transition{tCancel, tClaim, tSuccess, tFailure, tOther, tFail, tRelease, tMarkAndReap, tOverdue, tExhaust, tAdmit, tRoom}
	askedTransitions   = []transition{tEnqueue, tRerun, tCancel, tClaim, tBeat, tFailure, tFail, tRelease, tMark, tMarkAndReap, tOverdue, tAnswer}
)

// plannedRun is a run of eight jobs: a matrix of two with fail-fast, of which one is held and one can be claimed; b, held
// by another worker; c, which needs both; d, which needs c; e in its backoff; and two of f, which need b.
func plannedRun(t *testing.T, set *stageSet) scene {
	ctx := t.Context()
	enqueued, err := set.direct.gateway.Enqueue(ctx, jobs.NewRun{Repository: repository, Event: "push", HeadSHA: strings.Repeat("a", 40)})
	must(t, err)
	sc := scene{run: enqueued.RunID, holder: runner}
	asker := jobs.NewHand(set.direct.initializer, initializer)
	must(t, asker.Beat(ctx))
	asked, err := asker.Claim(ctx, 1)
	must(t, err)
	must(t, asker.FinishWith(ctx, asked[0], answer(asked[0])))
	claim := func(key string) (*jobs.Hand, *jobs.Job) {
		hand := jobs.NewHand(set.direct.runner, runner)
		must(t, hand.Beat(ctx))
		set.db.Exec(t, "UPDATE ci_jobs SET priority = 1 WHERE run_id = $1 AND job_key = $2 AND matrix_index = 0", sc.run, key)
		claimed, err := hand.Claim(ctx, 1)
		must(t, err)
		return hand, claimed[0]
	}
	failing, e := claim("e")
	must(t, failing.Fail(ctx, e, "no disk"))
	set.db.Exec(t, "UPDATE ci_jobs SET not_before = clock_timestamp() + interval '1 hour', priority = 0 WHERE id = $1", e.ID)
	sc.waiting = e.ID
	_, sc.other = claim("b")
	holder, job := claim("a")
	sc.job, sc.worker = job, holder.ID()
	return sc
}

// limitedRun is that run in a repository of which three jobs may be claimable or held at once: so many are. Another run's
// three wait for a place.
func limitedRun(t *testing.T, set *stageSet) scene {
	sc := plannedRun(t, set)
	set.db.Exec(t, "INSERT INTO ci_repositories (repository, max_running) VALUES ($1, 3)", repository)
	next := jobstest.Value[int64](t, set.db, "INSERT INTO ci_runs (repository, event, status) VALUES ($1, 'push', 'running') RETURNING id", repository)
	for index := range 3 {
		place(t, set.db, next, "blocked", "next", index, nil)
	}
	return sc
}

// askedRun is a run of which nobody has read the commit yet: an initializer holds its one job. Another run's is new.
func askedRun(t *testing.T, set *stageSet) scene {
	ctx := t.Context()
	enqueued, err := set.direct.gateway.Enqueue(ctx, jobs.NewRun{Repository: repository, Event: "push", HeadSHA: strings.Repeat("a", 40)})
	must(t, err)
	hand := jobs.NewHand(set.direct.initializer, initializer)
	must(t, hand.Beat(ctx))
	claimed, err := hand.Claim(ctx, 1)
	must(t, err)
	_, err = set.direct.gateway.Enqueue(ctx, jobs.NewRun{Repository: repository, Event: "push"})
	must(t, err)
	return scene{run: enqueued.RunID, job: claimed[0], worker: hand.ID(), holder: initializer}
}

// answer is what the initializer writes of that plan.
func answer(job *jobs.Job) jobs.Result {
	type row = map[string]any
	one := func(key string, index int, status string, needs ...string) row {
		return row{"status": status, "workflow": "ci.yml", "job_key": key, "matrix_index": index, "name": fmt.Sprintf("ci / %s %d", key, index),
			"needs": append([]string{}, needs...), "fail_fast": key == "a", "timeout_seconds": 900, "spec": row{}, "reason": ""}
	}
	rows := []row{one("a", 0, "initialized"), one("a", 1, "initialized"), one("b", 0, "initialized"),
		one("c", 0, "blocked", "a", "b"), one("d", 0, "blocked", "c"), one("e", 0, "initialized"),
		one("f", 0, "blocked", "b"), one("f", 1, "blocked", "b")}
	return jobs.Result{Status: jobs.StatusInitialized, Commit: func(ctx context.Context, tx pgx.Tx) error {
		return planRun(ctx, tx, job, rows)
	}}
}

// planRun writes a plan by the initializer's own statements: the row that asked becomes the first job, the others are added.
func planRun(ctx context.Context, tx pgx.Tx, job *jobs.Job, rows []map[string]any) error {
	const folder = "initializer/internal/initialize"
	if _, err := tx.Exec(ctx, serviceQuery(folder, "take"), pgx.NamedArgs{"job": job.ID, "token": job.Token, "answer": rows[0]}); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, serviceQuery(folder, "add"), pgx.NamedArgs{"job": job.ID, "answers": rows[1:]})
	return err
}

// serviceQuery reads a statement of a service, which is there when a test is.
func serviceQuery(folder, name string) string {
	text, err := os.ReadFile(filepath.Join("..", "..", "services", folder, "queries", name+".sql"))
	if err != nil {
		panic(err)
	}
	return string(text)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// stageSet is a database, and the services on it three times: directly, and by two wires.
type stageSet struct {
	db     *jobstest.Database
	direct *side
	sides  [2]*side
	tables []string // that a scene changes, parents first

	restored int // how often
}

// side is one of the two that meet.
type side struct {
	wire                                 *wire
	gateway, initializer, runner, reaper *jobs.DB
}

func newStageSet(t *testing.T) *stageSet {
	db := jobstest.New(t)
	// A deadlock is a fault here: let it be found fast.
	db.Exec(t, fmt.Sprintf("ALTER DATABASE %s SET deadlock_timeout = '50ms'", jobstest.Value[string](t, db, "SELECT current_database()")))
	set := &stageSet{db: db, direct: openSide(t, db, nil), tables: []string{
		"ci_repositories", "ci_turns", "ci_workers", "ci_runs", "ci_jobs", "ci_job_specs", "ci_attempts", "ci_steps", "ci_reports"}}
	for i := range set.sides {
		set.sides[i] = openSide(t, db, newWire(t, db.URL))
	}
	return set
}

func openSide(t *testing.T, db *jobstest.Database, w *wire) *side {
	open := func(service string) *jobs.DB {
		url := db.As(service)
		if w != nil {
			url = w.through(t, url)
		}
		opened, err := jobs.Open(t.Context(), url, jobs.Options{App: service, ListenURL: db.As(service)})
		must(t, err)
		t.Cleanup(opened.Close)
		return opened
	}
	return &side{wire: w, gateway: open("api-gateway"), initializer: open("initializer"), runner: open("runner"), reaper: open("reaper")}
}

// hand speaks for the worker that holds the scene's claim.
func (s *side) hand(sc scene) *jobs.Hand {
	db := s.runner
	if sc.holder.Name == initializer.Name {
		db = s.initializer
	}
	hand := jobs.NewHand(db, sc.holder)
	hand.Adopt(sc.worker)
	return hand
}

func (s *side) finish(ctx context.Context, sc scene, job *jobs.Job, status jobs.Status) error {
	lost, err := s.hand(sc).Finish(ctx, []*jobs.Job{job}, []jobs.Result{{Status: status, Reason: "done"}})
	if err == nil && lost[job.Token] {
		err = jobs.ErrClaimLost
	}
	return err
}

func (s *side) watch() *jobs.Watch {
	return jobs.NewWatch(s.reaper, jobs.Reaping{UnownedAfter: time.Hour, MaxFailures: 3, MaxCrashes: 3})
}

// mark marks the scene's worker, which has been silent for its lease.
func (s *side) mark(ctx context.Context, sc scene) error {
	return s.watch().Mark(ctx, sc.worker, sc.beat)
}

// save keeps the database as it is now, for restore.
func (set *stageSet) save(t *testing.T) {
	set.db.Exec(t, "CREATE SCHEMA saved")
	for _, table := range set.tables {
		set.db.Exec(t, fmt.Sprintf("CREATE TABLE saved.%s AS TABLE %s", table, table))
	}
}

// restore puts the saved rows back, without triggers, and makes what a transition wants to be so.
func (set *stageSet) restore(t *testing.T, sc scene, prepare ...string) {
	t.Helper()
	sql := []string{"SET session_replication_role = replica"}
	for _, table := range set.tables {
		sql = append(sql, "DELETE FROM "+table, fmt.Sprintf("INSERT INTO %s OVERRIDING SYSTEM VALUE TABLE saved.%s", table, table))
	}
	names := strings.NewReplacer("$job", fmt.Sprint(sc.job.ID), "$run", fmt.Sprint(sc.run), "$waiting", fmt.Sprint(sc.waiting))
	for _, p := range prepare {
		if p != "" {
			sql = append(sql, names.Replace(p))
		}
	}
	sql = append(sql, "SET session_replication_role = origin")
	conn, err := set.db.Pool.Acquire(t.Context())
	must(t, err)
	defer conn.Release()
	_, err = conn.Conn().PgConn().Exec(t.Context(), strings.Join(sql, ";")).ReadAll()
	must(t, err)
	if set.restored++; set.restored%50 == 0 {
		set.db.Exec(t, "VACUUM "+strings.Join(set.tables, ", "))
	}
}

// meet runs all interleavings of two transitions and returns how many there were.
func (set *stageSet) meet(t *testing.T, sc scene, a, b transition) (n int) {
	var path []choice
	for {
		set.restore(t, sc, a.prepare, b.prepare)
		m := &meeting{t: t, db: set.db, path: path}
		m.run(set.sides, [2]func(context.Context, *side) error{
			func(ctx context.Context, s *side) error { return a.do(ctx, s, sc) },
			func(ctx context.Context, s *side) error { return b.do(ctx, s, sc) },
		})
		n++
		set.judge(t, sc, [2]transition{a, b}, m)
		if t.Failed() {
			t.Logf("%s (A) and %s (B), interleaved so: %s\nA returned %v\nB returned %v", a.name, b.name, strings.Join(m.story, ", "), m.actors[0].err, m.actors[1].err)
			return n
		}
		// The next path: the last choice that has another side to it, the other way.
		path = m.path
		for len(path) > 0 && path[len(path)-1].second {
			path = path[:len(path)-1]
		}
		if len(path) == 0 {
			return n
		}
		path = append(slices.Clone(path[:len(path)-1]), choice{second: true})
	}
}

// choice is which of two moved when both could.
type choice struct{ second bool }

// meeting is one interleaving.
type meeting struct {
	t      *testing.T
	db     *jobstest.Database
	path   []choice // to follow; where it ends the first side moves
	taken  int
	story  []string
	actors [2]*actor
	first  *actor // who ended first
}

// actor is one side of a meeting.
type actor struct {
	name    string
	wire    *wire
	done    chan error
	at      gate // where it waits to be let through
	ended   bool
	blocked bool // it waits for a lock of the other
	err     error
}

func (m *meeting) run(sides [2]*side, do [2]func(context.Context, *side) error) {
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	for i := range m.actors {
		a := &actor{name: string(rune('A' + i)), wire: sides[i].wire, done: make(chan error, 1)}
		m.actors[i] = a
		a.wire.armed.Store(true)
		a.wire.quiet.Store(false)
		go func() { a.done <- do[i](ctx, sides[i]) }()
		m.settle(a)
	}
	for {
		var able []*actor
		for _, a := range m.actors {
			if !a.ended && !a.blocked {
				able = append(able, a)
			}
		}
		if len(able) == 0 {
			break
		}
		a := able[0]
		if len(able) == 2 {
			if m.taken == len(m.path) {
				m.path = append(m.path, choice{})
			}
			if m.path[m.taken].second {
				a = able[1]
			}
			m.taken++
		}
		m.story = append(m.story, a.name+" "+a.at.what)
		a.wire.open <- struct{}{}
		m.settle(a)
		if other := m.actors[0]; other.blocked && other != a {
			m.settle(other)
		}
		if other := m.actors[1]; other.blocked && other != a {
			m.settle(other)
		}
	}
	for _, a := range m.actors {
		a.wire.armed.Store(false)
	}
}

// settle waits until an actor stands at its next gate, waits for a lock, or has ended.
func (m *meeting) settle(a *actor) {
	was := a.blocked
	pause := time.Millisecond
	look := time.NewTimer(pause)
	defer look.Stop()
	for limit := time.Now().Add(soon); ; look.Reset(pause) {
		select {
		case a.at = <-a.wire.gates:
			a.blocked = false
			if was {
				m.story = append(m.story, a.name+" goes on")
			}
			return
		case a.err = <-a.done:
			a.ended, a.blocked = true, false
			if m.first == nil {
				m.first = a
			}
			return
		case <-look.C:
			pause += pause / 2 // a busy machine needs no more questions
		}
		// Two that wait for each other are a deadlock: PostgreSQL will end one of them.
		other := m.actors[0]
		if other == a {
			other = m.actors[1]
		}
		if other == nil || other.ended || a.at.pid == 0 {
			continue
		}
		if jobstest.Value[bool](m.t, m.db, "SELECT $2::int = ANY (pg_blocking_pids($1::int))", a.at.pid, other.at.pid) {
			if !other.blocked {
				if !was {
					m.story = append(m.story, a.name+" waits")
				}
				a.blocked = true
				return
			}
		}
		if time.Now().After(limit) {
			m.t.Fatalf("neither ended nor blocked: %s at %+v, after %v", a.name, a.at, m.story)
		}
	}
}

// judge holds the outcome against the rules.
func (set *stageSet) judge(t *testing.T, sc scene, transitions [2]transition, m *meeting) {
	t.Helper()
	for i, tr := range transitions {
		err := m.actors[i].err
		var refused *pgconn.PgError
		ended := jobstest.Value[*string](t, set.db, "SELECT (SELECT outcome::text FROM ci_attempts WHERE claim_token = $1)", sc.job.Token)
		switch {
		case err == nil && tr.ends != nil:
			if ended == nil || !slices.Contains(tr.ends, jobs.Status(*ended)) {
				t.Errorf("%s says that it has ended the claim; it ended as %v", tr.name, ended)
			}
		case errors.Is(err, jobs.ErrClaimLost) && tr.ends != nil:
			if ended == nil {
				t.Errorf("%s says that the claim is lost; it is not", tr.name)
			}
		case errors.Is(err, jobs.ErrClaimLost) && tr.name == tOther.name: // cancelled by nobody here
			t.Errorf("%s: %v", tr.name, err)
		case errors.As(err, &refused) && refused.Code == "55P03": // the reaper did not wait longer for a lock; it comes again
		case err != nil && (tr.allowed == nil || !errors.Is(err, tr.allowed)):
			t.Errorf("%s: %v", tr.name, err)
		}
	}
	for i, mark := range transitions {
		claim, other := transitions[1-i], m.actors[1-i]
		if mark.name == tMark.name && claim.name == tClaim.name && m.first == m.actors[i] && other.err == nil {
			t.Error("a worker that was marked dead has claimed")
		}
	}
	told := broken(t, set.db, rules)
	must(t, set.direct.watch().Pass(t.Context()))
	for _, what := range slices.Concat(told, broken(t, set.db, rulesAtRest)) {
		t.Error(what)
	}
}

// broken tells of each rule that has rows against it.
func broken(t testing.TB, db *jobstest.Database, rules []rule) (told []string) {
	t.Helper()
	sql := make([]string, len(rules))
	for i, r := range rules {
		sql[i] = fmt.Sprintf("SELECT %d, v::text FROM (%s) AS v", i, r.against)
	}
	rows, err := db.Pool.Query(context.Background(), strings.Join(sql, " UNION ALL "))
	must(t, err)
	var i int
	var row string
	_, err = pgx.ForEachRow(rows, []any{&i, &row}, func() error {
		told = append(told, fmt.Sprintf("broken: %s: %s", rules[i].name, row))
		return nil
	})
	must(t, err)
	return told
}

// rule is what must be so, and the query for what is not so.
type rule struct{ name, against string }

// rules hold after every transaction.
var rules = []rule{
	{"a job is held exactly if it has a token", `
		SELECT id, status FROM ci_jobs WHERE ci_is_held(status) <> (claim_token IS NOT NULL)`},
	{"each claim ends at most once", `
		SELECT claim_token, count(*) FROM ci_attempts GROUP BY claim_token HAVING count(*) > 1`},
	{"each claim that has ended is written down", `
		SELECT j.id, j.attempt FROM ci_jobs j
		WHERE  j.attempt <> (SELECT count(*) FROM ci_attempts a WHERE a.job_id = j.id) + (j.claim_token IS NOT NULL)::int`},
	{"a run's status is that of its jobs", `
		SELECT r.id, r.status, array_agg(j.status) FROM ci_runs r JOIN ci_jobs j ON j.run_id = r.id GROUP BY r.id
		HAVING r.status::text <> CASE
		           WHEN bool_or(NOT ci_is_final(j.status)) AND bool_and(j.job_key = '') THEN 'new'
		           WHEN bool_or(NOT ci_is_final(j.status)) THEN 'running'
		           WHEN bool_or(j.status = 'error')     THEN 'error'
		           WHEN bool_or(j.status = 'failure')   THEN 'failure'
		           WHEN bool_or(j.status = 'cancelled') THEN 'cancelled'
		           WHEN bool_or(j.status = 'success')   THEN 'success'
		           ELSE 'skipped' END`},
	{"a job whose need did not succeed is skipped", `
		SELECT b.id FROM ci_jobs b JOIN ci_jobs need ON need.run_id = b.run_id AND need.workflow = b.workflow AND need.job_key = ANY (b.needs)
		WHERE  b.status = 'blocked' AND ci_is_final(need.status) AND need.status <> 'success'`},
	{"no job starts before its needs have succeeded", `
		SELECT b.id, b.status FROM ci_jobs b JOIN ci_jobs need ON need.run_id = b.run_id AND need.workflow = b.workflow AND need.job_key = ANY (b.needs)
		WHERE  b.status IN ('initialized', 'running', 'success', 'failure') AND need.status <> 'success'`},
	{"a repository's limit holds", `
		SELECT p.repository, count(*) FROM ci_repositories p JOIN ci_jobs j USING (repository)
		WHERE  j.status IN ('initialized', 'running') GROUP BY p.repository HAVING count(*) > p.max_running`},
	{"what is cancelled starts nothing new", `
		SELECT j.id, j.status FROM ci_jobs j JOIN ci_runs r ON r.id = j.run_id
		WHERE  (r.cancel_requested_at IS NOT NULL OR j.cancel_requested_at IS NOT NULL)
		AND    NOT ci_is_final(j.status) AND NOT (j.claim_token IS NOT NULL AND j.cancel_requested_at IS NOT NULL)`},
	{"GitHub is told what became of a job", `
		SELECT j.id, j.status, p.state FROM ci_jobs j JOIN ci_reports p ON p.job_id = j.id
		WHERE  p.state <> CASE j.status WHEN 'success' THEN 'success' WHEN 'failure' THEN 'failure' WHEN 'error' THEN 'error'
		                  WHEN 'cancelled' THEN 'error' WHEN 'skipped' THEN CASE WHEN j.job_key = '' THEN 'success' ELSE 'failure' END
		                  ELSE 'pending' END`},
	{"one key makes one run", `
		SELECT idempotency_key, count(*) FROM ci_runs WHERE idempotency_key IS NOT NULL GROUP BY principal, idempotency_key HAVING count(*) > 1`},
	{"a run has at least one job", `
		SELECT r.id FROM ci_runs r WHERE NOT EXISTS (SELECT FROM ci_jobs j WHERE j.run_id = r.id)`},
}

// rulesAtRest hold when nobody is at work and a reaper has come by.
var rulesAtRest = []rule{
	{"no job is held by a dead worker", `
		SELECT j.id FROM ci_jobs j JOIN ci_workers w ON w.id = j.worker_id WHERE j.claim_token IS NOT NULL AND w.dead_at IS NOT NULL`},
	{"no job waits for nothing", `
		SELECT b.id, b.reason FROM ci_jobs b LEFT JOIN ci_repositories p USING (repository)
		WHERE  b.status = 'blocked' AND (b.not_before IS NULL OR b.not_before <= clock_timestamp())
		AND    NOT EXISTS (SELECT FROM ci_jobs need WHERE need.run_id = b.run_id AND need.workflow = b.workflow
		                   AND need.job_key = ANY (b.needs) AND need.status <> 'success')
		AND    (p.max_running IS NULL OR p.max_running > (SELECT count(*) FROM ci_jobs x WHERE x.repository = b.repository AND x.status IN ('initialized', 'running')))`},
	{"a dependent starts once", `
		SELECT id, status, attempt, transitions FROM ci_jobs WHERE cardinality(needs) > 0 AND (attempt > 1 OR transitions > 2 + attempt)`},
}
