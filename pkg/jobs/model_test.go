package jobs_test

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"go.uber.org/zap"
	"pgregory.net/rapid"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/joblog"
	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
)

// modelBudget is how long TestTheQueueDoesAsItsModelDoes goes on, however slow the machine is. -rapid.checks lifts it.
const modelBudget = 12 * time.Second

// TestTheQueueDoesAsItsModelDoes gives random orders to the queue and to a model of it, and compares all that can be seen
// after each. A failure prints what rapid made of it: the shortest story found, and how to see it again.
func TestTheQueueDoesAsItsModelDoes(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	db.Exec(t, "INSERT INTO ci_repositories (repository, max_running, weight) VALUES ($1, 2, 2)", limitedRepository)
	services := openSide(t, db, nil)

	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || strings.HasPrefix(f.Name, "rapid.") })
	end, stories, failed := time.Now().Add(modelBudget), 0, false
	rapid.Check(t, func(rt *rapid.T) {
		if !asked && !failed && time.Now().After(end) {
			return
		}
		through := false
		defer func() { failed = failed || !through }()
		q := newQueue(t, db, services)
		q.begin(rt)
		rt.Repeat(map[string]func(*rapid.T){
			"":                  q.compare,
			"enqueue":           q.enqueue,
			"enqueue and die":   q.enqueueAndDie,
			"rerun":             q.rerun,
			"claim":             q.claim,
			"claim, reply lost": q.claimReplyLost,
			"answer":            q.answer,
			"beat":              q.beat,
			"log":               q.log,
			"step":              q.step,
			"finish":            q.finish,
			"finish with":       q.finishWith,
			"finish and die":    q.finishAndDie,
			"fail":              q.fail,
			"release":           q.release,
			"cancel":            q.cancel,
			"mark":              q.mark,
			"reap":              q.reap,
			"sweep":             q.sweep,
			"deadline":          q.deadline,
			"backoff":           q.backoff,
		})
		through = true
		stories++
	})
	t.Logf("%d stories", stories)
}

const limitedRepository = "https://github.com/acme/limited"

// The model. It knows no SQL, no locks and no triggers.

type modelRun struct {
	id         int64
	repository string
	key, hash  string
	cancelled  bool
	jobs       []*modelJob
}

type modelJob struct {
	run      *modelRun
	id       int64
	key      string
	index    int
	needs    []string
	failFast bool

	status            jobs.Status
	admitTo           jobs.Status
	attempt           int
	failures, crashes int
	cancelled         bool
	overdue           bool
	waits             string // for the end of its backoff: "", "future", "past"
	turn              float64
	claim             *modelClaim // who holds it
}

// modelClaim is a claim that was made, and what its holder remembers of it for ever.
type modelClaim struct {
	job     *modelJob
	copy    *jobs.Job
	hand    *modelHand
	outcome jobs.Status // empty while it holds the job
	worker  int64       // the row that it was made for
	suspect bool        // a beat has told of it, and its holder does not know of it
	logged  bool
	steps   []string
}

type modelHand struct {
	*jobs.Hand
	stage jobs.Stage
	dead  bool
	held  []*modelClaim // that it works on, as far as it knows
}

// What rapid tells of a draw.

func (r *modelRun) GoString() string { return fmt.Sprintf("run %d", r.id) }

func (c *modelClaim) GoString() string {
	return fmt.Sprintf("job %d attempt %d", c.job.id, c.copy.Attempt)
}

func (h *modelHand) GoString() string { return fmt.Sprintf("%s, worker %d", h.stage.Name, h.ID()) }

func (c *modelClaim) alive() bool { return c.outcome == "" }

func held(status jobs.Status) bool {
	return status == jobs.StatusInitializing || status == jobs.StatusRunning
}

func (r *modelRun) status() jobs.Status {
	some := func(is func(*modelJob) bool) bool { return slices.ContainsFunc(r.jobs, is) }
	if some(func(j *modelJob) bool { return !j.status.Final() }) {
		if some(func(j *modelJob) bool { return j.key != "" }) {
			return jobs.StatusRunning
		}
		return jobs.StatusNew
	}
	for _, status := range []jobs.Status{jobs.StatusError, jobs.StatusFailure, jobs.StatusCancelled, jobs.StatusSuccess} {
		if some(func(j *modelJob) bool { return j.status == status }) {
			return status
		}
	}
	return jobs.StatusSkipped
}

// queue is the real one and its model.
type queue struct {
	t        *testing.T
	db       *jobstest.Database
	services *side
	hands    []*modelHand

	runs   []*modelRun
	claims []*modelClaim
	turns  map[[2]string]float64 // the last one of a repository in a state
}

func (q *queue) all() (all []*modelJob) {
	for _, r := range q.runs {
		all = append(all, r.jobs...)
	}
	return all
}

func newQueue(t *testing.T, db *jobstest.Database, services *side) *queue {
	db.Exec(t, `TRUNCATE ci_runs, ci_jobs, ci_job_specs, ci_attempts, ci_steps, ci_logs, ci_reports, ci_turns, ci_workers RESTART IDENTITY CASCADE`)
	q := &queue{t: t, db: db, services: services, turns: map[[2]string]float64{}}
	for _, stage := range []jobs.Stage{initializer, runner, runner} {
		stage.Beat = time.Nanosecond // a claim that two beats tell of is given back
		stage.RetryAfter = 5 * time.Minute
		service := services.runner
		if stage.Name == initializer.Name {
			service = services.initializer
		}
		h := &modelHand{Hand: jobs.NewHand(service, stage), stage: stage}
		must(t, h.Beat(t.Context()))
		q.hands = append(q.hands, h)
	}
	return q
}

// What the model does.

// take gives n turns of a state to a repository and returns the first.
func (q *queue) take(repository string, status jobs.Status, n int) (first, step float64) {
	step = 1
	if repository == limitedRepository {
		step = 0.5
	}
	lowest, some := 0.0, false
	for _, j := range q.all() {
		if j.status == status && (!some || j.turn < lowest) {
			lowest, some = j.turn, true
		}
	}
	if !some {
		for at, turn := range q.turns {
			if at[1] == string(status) && (!some || turn > lowest) {
				lowest, some = turn, true
			}
		}
	}
	at := [2]string{repository, string(status)}
	first = lowest
	if last, served := q.turns[at]; served {
		first = max(lowest, last+step)
	}
	q.turns[at] = first + float64(n-1)*step
	return first, step
}

// put moves a job; a claim on it ends so.
func (q *queue) put(j *modelJob, status jobs.Status) {
	if j.claim != nil {
		j.claim.outcome = status
		j.claim, j.overdue = nil, false
	}
	j.status = status
}

// follow does what follows from the end of some claims or jobs.
func (q *queue) follow(changed ...*modelJob) {
	runs := map[*modelRun]bool{}
	for _, c := range changed {
		runs[c.run] = true
		if !c.failFast || c.status != jobs.StatusFailure && c.status != jobs.StatusError {
			continue
		}
		for _, s := range c.run.jobs {
			if s == c || s.key != c.key || s.status.Final() || s.cancelled {
				continue
			}
			s.cancelled = true
			if !held(s.status) {
				q.put(s, jobs.StatusCancelled)
			}
		}
	}
	for run := range runs {
		for again := true; again; {
			again = false
			for _, b := range run.jobs {
				if b.status == jobs.StatusBlocked && slices.ContainsFunc(b.needed(), func(need *modelJob) bool {
					return need.status.Final() && need.status != jobs.StatusSuccess
				}) {
					q.put(b, jobs.StatusSkipped)
					again = true
				}
			}
		}
	}
	q.admit(runs)
}

func (j *modelJob) needed() (needed []*modelJob) {
	for _, other := range j.run.jobs {
		if slices.Contains(j.needs, other.key) {
			needed = append(needed, other)
		}
	}
	return needed
}

// free is how many places a repository's limit leaves; many without one.
func (q *queue) free(repository string) int {
	if repository != limitedRepository {
		return 1000
	}
	free := 2
	for _, j := range q.all() {
		if j.run.repository == repository && (j.status == jobs.StatusInitialized || j.status == jobs.StatusRunning) {
			free--
		}
	}
	return free
}

// admit makes blocked jobs of these runs claimable, and those that the limit of the same repositories held back.
func (q *queue) admit(runs map[*modelRun]bool) {
	repositories := map[string]bool{}
	for run := range runs {
		repositories[run.repository] = true
	}
	groups := map[[2]string][]*modelJob{} // by repository and state
	free := map[string]int{}
	for _, j := range slices.SortedFunc(slices.Values(q.all()), func(a, b *modelJob) int { return cmp.Compare(a.id, b.id) }) {
		repository := j.run.repository
		if j.status != jobs.StatusBlocked || j.waits == "future" || !runs[j.run] && (repository != limitedRepository || !repositories[repository]) {
			continue
		}
		if slices.ContainsFunc(j.needed(), func(need *modelJob) bool { return need.status != jobs.StatusSuccess }) {
			continue
		}
		if _, known := free[repository]; !known {
			free[repository] = q.free(repository)
		}
		if j.admitTo != jobs.StatusNew { // reading a commit is not running it
			if free[repository] <= 0 {
				continue
			}
			free[repository]--
		}
		at := [2]string{repository, string(j.admitTo)}
		groups[at] = append(groups[at], j)
	}
	for at, group := range groups {
		turn, step := q.take(at[0], jobs.Status(at[1]), len(group))
		for i, j := range group {
			j.turn, j.waits = turn+float64(i)*step, ""
			q.put(j, j.admitTo)
		}
	}
}

// What is done to both.

func (q *queue) begin(rt *rapid.T) {
	q.enqueue(rt)
	q.claimBy(rt, q.hands[0], 1)
	q.answer(rt)
}

func (q *queue) enqueue(rt *rapid.T) {
	repository := rapid.SampledFrom([]string{repository, limitedRepository}).Draw(rt, "repository")
	run := jobs.NewRun{Repository: repository, Event: "push"}
	if key := rapid.SampledFrom([]string{"", "k1", "k2"}).Draw(rt, "key"); key != "" {
		run.Principal, run.IdempotencyKey = "p", key
		run.RequestHash = []byte(rapid.SampledFrom([]string{"one", "other"}).Draw(rt, "request"))
	}
	got, err := q.services.gateway.Enqueue(q.t.Context(), run)
	q.accepted(rt, repository, run.IdempotencyKey, string(run.RequestHash), got, err)
}

func (q *queue) rerun(rt *rapid.T) {
	old := rapid.SampledFrom(q.runs).Draw(rt, "run")
	key := rapid.SampledFrom([]string{"k1", "k3"}).Draw(rt, "key")
	got, err := q.services.gateway.Rerun(q.t.Context(), old.id, "p", key, []byte("rerun"), 0)
	q.accepted(rt, old.repository, key, "rerun", got, err)
}

// accepted notes the answer to a request.
func (q *queue) accepted(rt *rapid.T, repository, key, hash string, got jobs.Enqueued, err error) {
	for _, r := range q.runs {
		if key == "" || r.key != key {
			continue
		}
		if r.hash != hash {
			if !errors.Is(err, jobs.ErrKeyReused) {
				rt.Fatalf("the key of another request: %+v, %v", got, err)
			}
			return
		}
		if err != nil || got.RunID != r.id || !got.Existing {
			rt.Fatalf("the same request again: %+v, %v", got, err)
		}
		return
	}
	if err != nil || got.Existing {
		rt.Fatalf("a new request: %+v, %v", got, err)
	}
	run := &modelRun{id: got.RunID, repository: repository, key: key, hash: hash}
	turn, _ := q.take(repository, jobs.StatusNew, 1)
	id := jobstest.Value[int64](q.t, q.db, "SELECT id FROM ci_jobs WHERE run_id = $1", run.id)
	run.jobs = []*modelJob{{run: run, id: id, status: jobs.StatusNew, admitTo: jobs.StatusInitialized, turn: turn}}
	q.runs = append(q.runs, run)
}

// enqueueAndDie loses the connection before the commit: nothing was accepted.
func (q *queue) enqueueAndDie(rt *rapid.T) {
	err := pgx.BeginFunc(q.t.Context(), q.services.gateway.Pool(), func(tx pgx.Tx) error {
		if _, err := jobs.EnqueueTx(q.t.Context(), tx, jobs.NewRun{Repository: limitedRepository, Event: "push"}); err != nil {
			return err
		}
		q.kill(tx)
		return nil
	})
	if err == nil {
		rt.Fatal("accepted on a dead connection")
	}
}

// kill ends the server's side of a connection between two statements.
func (q *queue) kill(tx pgx.Tx) {
	q.db.Exec(q.t, "SELECT pg_terminate_backend($1, 5000)", tx.Conn().PgConn().PID())
}

func (q *queue) hand(rt *rapid.T) *modelHand {
	return rapid.SampledFrom(q.hands).Draw(rt, "hand")
}

func (q *queue) claim(rt *rapid.T) {
	q.claimBy(rt, q.hand(rt), rapid.IntRange(1, 3).Draw(rt, "n"))
}

func (q *queue) claimBy(rt *rapid.T, h *modelHand, n int) (made []*modelClaim) {
	got, err := h.Claim(q.t.Context(), n)
	if err != nil {
		rt.Fatal(err)
	}
	var want []*modelJob
	if !h.dead {
		for _, j := range q.all() {
			if j.status == h.stage.Takes {
				want = append(want, j)
			}
		}
		slices.SortFunc(want, func(a, b *modelJob) int { return cmp.Or(cmp.Compare(a.turn, b.turn), cmp.Compare(a.id, b.id)) })
		want = want[:min(n, len(want))]
	}
	if len(got) != len(want) {
		rt.Fatalf("claimed %d jobs, want %d", len(got), len(want))
	}
	for _, j := range want {
		at := slices.IndexFunc(got, func(g *jobs.Job) bool { return g.ID == j.id })
		if at < 0 {
			rt.Fatalf("job %d was not claimed in its turn", j.id)
		}
		if got[at].Failures != j.failures {
			rt.Fatalf("job %d: told of %d failures, want %d", j.id, got[at].Failures, j.failures)
		}
		j.attempt++
		j.status, j.admitTo = h.stage.Holds, h.stage.Takes
		j.claim = &modelClaim{job: j, copy: got[at], hand: h, worker: h.ID()}
		q.claims = append(q.claims, j.claim)
		h.held = append(h.held, j.claim)
		made = append(made, j.claim)
	}
	return made
}

// claimReplyLost makes a claim of which the worker never hears.
func (q *queue) claimReplyLost(rt *rapid.T) {
	for _, c := range q.claimBy(rt, q.hand(rt), 1) {
		c.hand.forget(c)
	}
}

func (h *modelHand) forget(c *modelClaim) {
	h.Forget(c.copy.Token)
	h.held = slices.DeleteFunc(h.held, func(one *modelClaim) bool { return one == c })
}

// some picks a claim of a stage, likely one that still holds its job: but any that ever was may write.
func (q *queue) some(rt *rapid.T, stages ...string) *modelClaim {
	var alive, made []*modelClaim
	for _, c := range q.claims {
		if len(stages) == 0 || slices.Contains(stages, c.hand.stage.Name) {
			made = append(made, c)
			if c.alive() {
				alive = append(alive, c)
			}
		}
	}
	if len(made) == 0 {
		rt.Skip("no claim")
	}
	if len(alive) > 0 && rapid.IntRange(0, 3).Draw(rt, "stale") > 0 {
		return rapid.SampledFrom(alive).Draw(rt, "claim")
	}
	return rapid.SampledFrom(made).Draw(rt, "any claim")
}

// answer plans a run: its row becomes the first job, and others are added.
func (q *queue) answer(rt *rapid.T) {
	c := q.some(rt, initializer.Name)
	limited := c.job.run.repository == limitedRepository
	var planned []*modelJob
	var rows []map[string]any
	keys := []string{"a", "b", "c"}[:rapid.IntRange(1, 3).Draw(rt, "keys")]
	for i, key := range keys {
		var needs []string
		for _, earlier := range keys[:i] {
			if rapid.Bool().Draw(rt, key+" needs "+earlier) {
				needs = append(needs, earlier)
			}
		}
		failFast := rapid.Bool().Draw(rt, "fail fast")
		for index := range rapid.IntRange(1, 2).Draw(rt, "matrix") {
			status := jobs.StatusInitialized
			if limited || len(needs) > 0 {
				status = jobs.StatusBlocked
			}
			planned = append(planned, &modelJob{run: c.job.run, key: key, index: index, needs: needs, failFast: failFast, status: status, admitTo: jobs.StatusInitialized})
			rows = append(rows, map[string]any{"status": status, "workflow": "ci.yml", "job_key": key, "matrix_index": index, "name": fmt.Sprintf("ci / %s %d", key, index),
				"needs": append([]string{}, needs...), "fail_fast": failFast, "timeout_seconds": 900, "spec": map[string]any{}, "reason": ""})
		}
	}
	ran := false
	err := c.hand.FinishWith(q.t.Context(), c.copy, jobs.Result{Status: planned[0].status, Commit: func(ctx context.Context, tx pgx.Tx) error {
		ran = true
		return planRun(ctx, tx, c.copy, rows)
	}})
	was := c.alive() && !c.job.cancelled
	if ran != was {
		rt.Fatalf("Commit ran: %v, want %v", ran, was)
	}
	q.ended(rt, c, planned[0].status, err)
	if !was {
		return
	}
	first := c.job
	first.key, first.needs, first.failFast, first.admitTo = planned[0].key, planned[0].needs, planned[0].failFast, jobs.StatusInitialized
	if planned[0].status == jobs.StatusInitialized {
		first.status = jobs.StatusInitializing // it stands in no queue while its turn is taken
		first.turn, _ = q.take(first.run.repository, jobs.StatusInitialized, 1)
	}
	ids := jobstest.Value[[]int64](q.t, q.db, "SELECT array_agg(id ORDER BY job_key, matrix_index) FROM ci_jobs WHERE run_id = $1", first.run.id)
	for i, j := range planned[1:] {
		j.id = ids[i+1]
		if j.status == jobs.StatusInitialized {
			j.turn, _ = q.take(first.run.repository, jobs.StatusInitialized, 1)
		}
		first.run.jobs = append(first.run.jobs, j)
	}
	first.status = planned[0].status
	q.follow(first)
}

// ended notes the end of a claim by its holder, and holds the answer against the model. Nothing follows yet.
func (q *queue) ended(rt *rapid.T, c *modelClaim, status jobs.Status, err error) (ended bool) {
	c.hand.forget(c)
	if !c.alive() {
		again := c.outcome == status || c.outcome == jobs.StatusCancelled && !status.Final()
		if again != (err == nil) || err != nil && !errors.Is(err, jobs.ErrClaimLost) {
			rt.Fatalf("a claim that had ended as %s was finished with %s: %v", c.outcome, status, err)
		}
		return false
	}
	if err != nil {
		rt.Fatalf("finish job %d with %s: %v", c.job.id, status, err)
	}
	if c.job.cancelled && !status.Final() {
		status = jobs.StatusCancelled
	}
	c.job.failures, c.job.crashes = 0, 0
	q.put(c.job, status)
	return true
}

// finish ends one or two claims in a batch, perhaps twice: the first reply was lost.
func (q *queue) finish(rt *rapid.T) {
	batch := map[*modelClaim]jobs.Status{}
	stage := rapid.SampledFrom([]string{"initializer", "runner", "runner"}).Draw(rt, "stage")
	results := map[string][]jobs.Status{
		"initializer": {jobs.StatusFailure, jobs.StatusError, jobs.StatusSkipped},
		"runner":      {jobs.StatusSuccess, jobs.StatusSuccess, jobs.StatusFailure, jobs.StatusError, jobs.StatusCancelled},
	}[stage]
	for range rapid.IntRange(1, 2).Draw(rt, "claims") {
		batch[q.some(rt, stage)] = rapid.SampledFrom(results).Draw(rt, "status")
	}
	for c := range batch { // two claims of one job would meet in one batch; the library has one worker for each
		for other := range batch {
			if other != c && other.job == c.job {
				rt.Skip("the same job")
			}
		}
	}
	for range rapid.SampledFrom([]int{1, 1, 2}).Draw(rt, "times") {
		var copies []*jobs.Job
		var given []jobs.Result
		var hand *modelHand
		for c, status := range batch {
			hand = c.hand
			copies, given = append(copies, c.copy), append(given, jobs.Result{Status: status, Reason: "done"})
		}
		lost, err := hand.Finish(q.t.Context(), copies, given)
		if err != nil {
			rt.Fatal(err)
		}
		var changed []*modelJob
		for c, status := range batch {
			var answer error
			if lost[c.copy.Token] {
				answer = jobs.ErrClaimLost
			}
			if q.ended(rt, c, status, answer) {
				changed = append(changed, c.job)
			}
		}
		if len(changed) > 0 {
			q.follow(changed...)
		}
	}
}

// finishWith ends a runner's claim together with an output.
func (q *queue) finishWith(rt *rapid.T) {
	c := q.some(rt, runner.Name)
	status := rapid.SampledFrom([]jobs.Status{jobs.StatusSuccess, jobs.StatusFailure}).Draw(rt, "status")
	ran := false
	err := c.hand.FinishWith(q.t.Context(), c.copy, jobs.Result{Status: status, Commit: func(ctx context.Context, tx pgx.Tx) error {
		ran = true
		return output(ctx, tx, c.copy)
	}})
	was := c.alive()
	if ran != (was && !c.job.cancelled) {
		rt.Fatalf("Commit ran: %v", ran)
	}
	if ran {
		c.steps = append(c.steps, "output")
	} else if was {
		status = jobs.StatusCancelled
	}
	if q.ended(rt, c, status, err) {
		q.follow(c.job)
	}
}

func output(ctx context.Context, tx pgx.Tx, job *jobs.Job) error {
	_, err := tx.Exec(ctx, "INSERT INTO ci_steps (job_id, attempt, number, name) VALUES ($1, $2, 2, 'output')", job.ID, job.Attempt)
	return err
}

// finishAndDie loses the connection before the commit: nothing has happened, and the claim is as it was.
func (q *queue) finishAndDie(rt *rapid.T) {
	c := q.some(rt, runner.Name)
	if !c.alive() || c.job.cancelled {
		rt.Skip("Commit would not run")
	}
	err := c.hand.FinishWith(q.t.Context(), c.copy, jobs.Result{Status: jobs.StatusSuccess, Commit: func(ctx context.Context, tx pgx.Tx) error {
		err := output(ctx, tx, c.copy)
		q.kill(tx)
		return err
	}})
	if err == nil || errors.Is(err, jobs.ErrClaimLost) {
		rt.Fatalf("finished on a dead connection: %v", err)
	}
}

func (q *queue) fail(rt *rapid.T) {
	c := q.some(rt)
	q.givenUp(rt, c, c.hand.Fail(q.t.Context(), c.copy, "no disk"), func(j *modelJob) {
		j.failures++
		j.waits = "future"
		q.put(j, jobs.StatusBlocked)
	})
}

func (q *queue) release(rt *rapid.T) {
	c := q.some(rt)
	q.givenUp(rt, c, c.hand.Release(q.t.Context(), c.copy), func(j *modelJob) { q.put(j, j.admitTo) })
}

func (q *queue) givenUp(rt *rapid.T, c *modelClaim, err error, do func(*modelJob)) {
	c.hand.forget(c)
	if c.alive() != (err == nil) || err != nil && !errors.Is(err, jobs.ErrClaimLost) {
		rt.Fatalf("the claim ended as %q; giving it up: %v", c.outcome, err)
	}
	if c.alive() {
		do(c.job)
		if c.job.cancelled {
			c.job.status, c.outcome = jobs.StatusCancelled, jobs.StatusCancelled
		}
		q.follow(c.job)
	}
}

func (q *queue) log(rt *rapid.T) {
	c := q.some(rt, runner.Name)
	w, err := joblog.NewWriter(q.services.runner.Pool(), c.copy, joblog.Options{Dir: q.t.TempDir(), Limit: joblog.DefaultLimit, Log: zap.NewNop()})
	if err == nil {
		_, err = w.Write([]byte("hello"))
	}
	if err != nil {
		rt.Fatal(err)
	}
	err = w.Close(q.t.Context())
	if c.alive() != (err == nil) || err != nil && !errors.Is(err, jobs.ErrClaimLost) {
		rt.Fatalf("the claim ended as %q; its log: %v", c.outcome, err)
	}
	c.logged = c.logged || c.alive()
}

func (q *queue) step(rt *rapid.T) {
	c := q.some(rt, runner.Name)
	held, err := writeStep(q.t.Context(), q.services.runner, c.copy)
	if err != nil || held != c.alive() {
		rt.Fatalf("the claim ended as %q; its step: held %v, %v", c.outcome, held, err)
	}
	if held && !slices.Contains(c.steps, "step") {
		c.steps = append(c.steps, "step")
	}
}

func (q *queue) beat(rt *rapid.T) {
	h := q.hand(rt)
	err := h.Beat(q.t.Context())
	if h.dead {
		if !errors.Is(err, jobs.ErrMarked) {
			rt.Fatalf("the beat of a marked worker: %v", err)
		}
		// It registers anew, and knows nothing of what others did in its name.
		h.Adopt(0)
		h.dead = false
		for _, c := range q.claims {
			if c.hand == h {
				c.suspect = false
			}
		}
		if err := h.Beat(q.t.Context()); err != nil {
			rt.Fatal(err)
		}
		return
	}
	if err != nil {
		rt.Fatal(err)
	}
	for _, c := range h.held {
		told := h.Told[c.copy.Token]
		switch {
		case !c.alive():
			if told == nil {
				rt.Fatalf("job %d attempt %d is lost, and its holder was not told", c.job.id, c.copy.Attempt)
			}
		case c.job.cancelled && c.worker == h.ID():
			if !errors.Is(told, jobs.ErrCancelled) {
				rt.Fatalf("job %d is to be cancelled; its holder was told %v", c.job.id, told)
			}
		case c.worker == h.ID() && told != nil:
			rt.Fatalf("job %d is held; its holder was told %v", c.job.id, told)
		}
	}
	for _, c := range q.claims {
		switch {
		case c.hand != h || !c.alive() || c.worker != h.ID() || slices.Contains(h.held, c):
		case c.suspect: // two beats have told of it
			q.put(c.job, c.job.admitTo)
			if c.job.cancelled {
				c.job.status, c.outcome = jobs.StatusCancelled, jobs.StatusCancelled
			}
			q.follow(c.job)
		default:
			c.suspect = true
		}
	}
}

func (q *queue) cancel(rt *rapid.T) {
	run := rapid.SampledFrom(q.runs).Draw(rt, "run")
	err := q.services.gateway.Cancel(q.t.Context(), run.id, "")
	if run.status().Final() {
		if !errors.Is(err, jobs.ErrEnded) {
			rt.Fatalf("cancel of a run that has ended: %v", err)
		}
		return
	}
	if err != nil {
		rt.Fatal(err)
	}
	run.cancelled = true
	var changed []*modelJob
	for _, j := range run.jobs {
		if j.status.Final() {
			continue
		}
		j.cancelled = true
		if !held(j.status) {
			q.put(j, jobs.StatusCancelled)
			changed = append(changed, j)
		}
	}
	if len(changed) > 0 {
		q.follow(changed...)
	}
}

func (q *queue) watch() *jobs.Watch {
	return jobs.NewWatch(q.services.reaper, jobs.Reaping{UnownedAfter: time.Hour, MaxFailures: 2, MaxCrashes: 2})
}

// mark has a reaper see a worker's silence, which may end before it acts.
func (q *queue) mark(rt *rapid.T) {
	h, watch := q.hand(rt), q.watch()
	seen, err := watch.Beat(q.t.Context(), h.ID())
	if err != nil || (seen == "") != h.dead {
		rt.Fatalf("seen %q, dead %v: %v", seen, h.dead, err)
	}
	if h.dead {
		rt.Skip("dead already")
	}
	late := rapid.Bool().Draw(rt, "beats just before")
	if late {
		q.db.Exec(q.t, "UPDATE ci_workers SET beat_at = clock_timestamp() WHERE id = $1", h.ID())
	}
	if err := watch.Mark(q.t.Context(), h.ID(), seen); err != nil {
		rt.Fatal(err)
	}
	h.dead = !late
}

func (q *queue) reap(rt *rapid.T) {
	if err := q.watch().Reap(q.t.Context()); err != nil {
		rt.Fatal(err)
	}
	var changed []*modelJob
	for _, j := range q.all() {
		if j.claim == nil {
			continue
		}
		dead := j.claim.worker != j.claim.hand.ID() || j.claim.hand.dead
		if !dead && !j.overdue {
			continue
		}
		to := j.admitTo
		if dead {
			j.crashes++
		}
		switch {
		case j.cancelled:
			to = jobs.StatusCancelled
		case !dead || j.crashes >= 2:
			to = jobs.StatusError
		}
		q.put(j, to)
		changed = append(changed, j)
	}
	if len(changed) > 0 {
		q.follow(changed...)
	}
}

func (q *queue) sweep(rt *rapid.T) {
	if err := q.watch().Sweep(q.t.Context()); err != nil {
		rt.Fatal(err)
	}
	runs := map[*modelRun]bool{}
	var exhausted []*modelJob
	for _, j := range q.all() {
		if j.status != jobs.StatusBlocked {
			continue
		}
		ready := j.waits == "past" || j.waits == "" && !slices.ContainsFunc(j.needed(), func(need *modelJob) bool { return !need.status.Final() })
		switch {
		case j.failures >= 2:
			exhausted = append(exhausted, j)
		case ready && (j.admitTo == jobs.StatusNew || q.free(j.run.repository) > 0):
			runs[j.run] = true
		}
	}
	for _, j := range exhausted {
		q.put(j, jobs.StatusError)
	}
	if len(exhausted) > 0 {
		q.follow(exhausted...)
	}
	q.admit(runs)
}

// deadline lets a claim's time be over.
func (q *queue) deadline(rt *rapid.T) {
	c := q.some(rt)
	if !c.alive() {
		rt.Skip("it has ended")
	}
	q.db.Exec(q.t, "UPDATE ci_jobs SET deadline_at = clock_timestamp() WHERE id = $1", c.job.id)
	c.job.overdue = true
}

// backoff lets a job's backoff be over.
func (q *queue) backoff(rt *rapid.T) {
	for _, j := range q.all() {
		if j.status == jobs.StatusBlocked && j.waits == "future" {
			q.db.Exec(q.t, "UPDATE ci_jobs SET not_before = clock_timestamp() WHERE id = $1", j.id)
			j.waits = "past"
			return
		}
	}
	rt.Skip("nothing waits")
}

// compare holds all that can be seen against the model.
func (q *queue) compare(rt *rapid.T) {
	got := strings.Split(jobstest.Value[string](q.t, q.db, visible), "\n")
	var want []string
	for _, r := range q.runs {
		want = append(want, fmt.Sprintf("run %d: %s, cancelled %v", r.id, r.status(), r.cancelled))
	}
	for _, j := range q.all() {
		turn, waits, token := "-", "-", "-"
		switch {
		case j.status == jobs.StatusNew || j.status == jobs.StatusInitialized:
			turn = strconv.FormatFloat(j.turn, 'g', -1, 64)
		case j.status == jobs.StatusBlocked:
			waits = j.waits
		case j.claim != nil:
			token = tokenText(j.claim.copy.Token)
		}
		want = append(want, fmt.Sprintf("job %d: run %d %s[%d] %s, attempt %d, failures %d, crashes %d, cancelled %v, turn %s, waits %s, token %s",
			j.id, j.run.id, j.key, j.index, j.status, j.attempt, j.failures, j.crashes, j.cancelled, turn, waits, token))
	}
	for _, c := range q.claims {
		if !c.alive() {
			want = append(want, fmt.Sprintf("claim %s: ended as %s", tokenText(c.copy.Token), c.outcome))
		}
		if c.logged {
			want = append(want, fmt.Sprintf("log of job %d attempt %d: 5 bytes", c.job.id, c.copy.Attempt))
		}
		for _, step := range c.steps {
			want = append(want, fmt.Sprintf("step of job %d attempt %d: %s", c.job.id, c.copy.Attempt, step))
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := gocmp.Diff(want, got); diff != "" {
		rt.Fatalf("the queue is not as the model (-) says:\n%s", diff)
	}
	for _, r := range broken(q.t, q.db, rules) {
		rt.Error(r)
	}
}

func tokenText(token pgtype.UUID) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", token.Bytes[:4], token.Bytes[4:6], token.Bytes[6:8], token.Bytes[8:10], token.Bytes[10:])
}

// visible is all that can be seen, a line for each row.
const visible = `
	SELECT coalesce(string_agg(line, E'\n'), '') FROM (
	SELECT format('run %s: %s, cancelled %s', id, status, (cancel_requested_at IS NOT NULL)::text) AS line FROM ci_runs
	UNION ALL
	SELECT format('job %s: run %s %s[%s] %s, attempt %s, failures %s, crashes %s, cancelled %s, turn %s, waits %s, token %s',
	              id, run_id, job_key, matrix_index, status, attempt, failures, crashes, (cancel_requested_at IS NOT NULL)::text,
	              CASE WHEN status IN ('new', 'initialized') THEN turn::text ELSE '-' END,
	              CASE WHEN status <> 'blocked' THEN '-' WHEN not_before IS NULL THEN '' WHEN not_before > clock_timestamp() THEN 'future' ELSE 'past' END,
	              coalesce(claim_token::text, '-'))
	FROM ci_jobs
	UNION ALL
	SELECT format('claim %s: ended as %s', claim_token, outcome) FROM ci_attempts
	UNION ALL
	SELECT format('log of job %s attempt %s: %s bytes', job_id, attempt, sum(byte_count)) FROM ci_logs GROUP BY job_id, attempt
	UNION ALL
	SELECT format('step of job %s attempt %s: %s', job_id, attempt, name) FROM ci_steps) AS lines`
