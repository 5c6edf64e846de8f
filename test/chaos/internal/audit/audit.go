// Package audit judges a run of chaos. It rests on three records alone: what triggers of its own wrote into the database
// (trail.sql), what GitHub was told, and what the clients asked and were answered. It knows the services only by what
// they promise, and imports nothing of them: a mistake that both made would be seen by neither.
package audit

import (
	"cmp"
	"context"
	_ "embed"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

//go:embed trail.sql
var trailSQL string

// Install begins the record in a migrated database. conn is the superuser's.
func Install(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, trailSQL); err != nil {
		return fmt.Errorf("install the trail: %w", err)
	}
	return nil
}

// History is what the harness saw from outside. All times are of this machine's clock, which is the database's too.
type History struct {
	Plans     map[string]Plan // what each repository's workflow comes to
	Requests  []Request
	Calls     []Call
	Logs      map[int64][]byte // by job: the log of its last attempt as the API served it in the end
	Reads     []Read
	Ready     []Ready
	Processes []Process
	Faults    []Fault
}

// Plan is what a run of a repository must come to when nothing of ours fails.
type Plan struct {
	Status string
	Jobs   map[string]PlannedJob // by name
}

// PlannedJob is one job of a plan.
type PlannedJob struct {
	Status string
	Prints []byte // what its log must hold, once; nil: nothing in particular
}

// Request asks for one run, as often as it takes to get an answer.
type Request struct {
	Key         string // of idempotency: the API's, or a webhook's delivery
	Principal   string // whose key it is: api or github
	Repository  string
	Answers     []Answer
	Cancelled   bool      // the client asked for that, whatever it was told
	CancelledAt time.Time // when it was told that it is so
}

// Answer is one answer to a request. No answer at all is none: the outcome is unknown then.
type Answer struct {
	At   time.Time
	Code int
	Run  int64 // 0: refused
	Text string
}

// Read is a log as a client saw it on the way, and as the API served the same attempt's in the end.
type Read struct {
	At          time.Time
	Job         int64
	Attempt     int
	Seen, Final []byte
}

// Ready is one moment at which a gateway said that it is ready.
type Ready struct {
	At    time.Time
	Place string // where it runs: its processes' logins begin with that
}

// Call is one status that GitHub took, in the order in which it took them; what it refused is not here.
type Call struct {
	At                  time.Time
	SHA, Context, State string
	Run                 int64 // by the status's link
}

// Process is one process of a service.
type Process struct {
	Login, Service string
	Told           time.Time // when it was sent SIGTERM; zero: never
	Ended          time.Time // zero: it was running in the end
	Killed         bool      // by us, with SIGKILL
	Code           int       // how it ended otherwise
	Said           string    // its last lines, for people
}

// Fault is something that was done to the system.
type Fault struct {
	Kind         string
	Login        string // of the process it was done to; empty: the database, the network or GitHub
	Began, Ended time.Time
	Database     bool // the database could not be reached, or not as usual, by somebody
}

// Kind is a promise that was broken.
type Kind string

// The findings.
const (
	RunLost        Kind = "an accepted run is lost"
	RunDoubled     Kind = "one request made several runs"
	RunInvented    Kind = "a run that nobody asked for"
	RunRefused     Kind = "a good request was refused"
	RunUnanswered  Kind = "a request was never answered"
	RunStuck       Kind = "a run did not end"
	RunWrong       Kind = "a run ended otherwise than its workflow says"
	IllegalMove    Kind = "an illegal transition"
	HeldTwice      Kind = "a job was held twice"
	MovedTwice     Kind = "a transition was applied more than once"
	StaleWrite     Kind = "a stale write was accepted"
	LivingReaped   Kind = "a living worker's job was taken from it"
	EarlyStart     Kind = "a job started before what it needs"
	CancelIgnored  Kind = "a cancelled run went on"
	LogLost        Kind = "bytes of a log are missing or altered"
	StopCosts      Kind = "a graceful stop used up an attempt"
	ProcessEnded   Kind = "a service ended by itself"
	GitHubWrong    Kind = "GitHub was left with another state than ours"
	GitHubBackward Kind = "GitHub was told an older state after a newer one"
)

// Finding is one promise broken once.
type Finding struct {
	Kind Kind
	Job  int64 // 0: none in particular
	Run  int64 // likewise
	Text string
	at   time.Time
}

// Report is the judgement.
type Report struct {
	Findings []Finding
	Counts   []Count
	Recovery []Recovery

	trail   *trail
	history History
}

// Count is one figure of what was looked at.
type Count struct {
	What string
	N    int
}

// Recovery is how long it took after faults of one kind.
type Recovery struct {
	What  string
	Times []time.Duration // sorted
}

// Audit judges what happened in the database of conn and in history. An error means that it could not look, not that it
// found something.
func Audit(ctx context.Context, conn *pgx.Conn, history History) (*Report, error) {
	trail, err := read(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("read the trail: %w", err)
	}
	r := &Report{trail: trail, history: history}
	r.auditRuns()
	r.auditMoves()
	r.auditNeeds()
	r.auditWrites()
	r.auditLogs()
	r.auditProcesses()
	r.auditGitHub()
	r.measure()
	slices.SortStableFunc(r.Findings, func(a, b Finding) int { return a.at.Compare(b.at) })
	return r, nil
}

func (r *Report) found(kind Kind, at time.Time, run, job int64, format string, args ...any) {
	r.Findings = append(r.Findings, Finding{Kind: kind, Job: job, Run: run, Text: fmt.Sprintf(format, args...), at: at})
}

func (r *Report) count(what string, n int) { r.Counts = append(r.Counts, Count{what, n}) }

// Print writes the report for people, with the history of the job of the first finding.
func (r *Report) Print(w io.Writer) {
	for _, c := range r.Counts {
		fmt.Fprintf(w, "%8d %s\n", c.N, c.What)
	}
	for _, one := range r.Recovery {
		fmt.Fprintf(w, "recovery: %s: %d times, p50 %s, p99 %s, max %s\n", one.What, len(one.Times),
			one.percentile(50), one.percentile(99), one.percentile(100))
	}
	if len(r.Findings) == 0 {
		fmt.Fprintln(w, "nothing found: every promise held")
		return
	}
	kinds := map[Kind]int{}
	for _, f := range r.Findings {
		kinds[f.Kind]++
	}
	for _, kind := range slices.Sorted(keys(kinds)) {
		fmt.Fprintf(w, "FOUND: %s: %d\n", kind, kinds[kind])
	}
	const most = 20
	for i, f := range r.Findings {
		if i == most {
			fmt.Fprintf(w, "… and %d more\n", len(r.Findings)-most)
			break
		}
		fmt.Fprintf(w, "  %s: run %d job %d: %s: %s\n", clock(f.at), f.Run, f.Job, f.Kind, f.Text)
	}
	first := r.Findings[0]
	fmt.Fprintf(w, "\nthe first counterexample: %s: %s\n", first.Kind, first.Text)
	r.story(w, first)
}

func (r Recovery) percentile(p int) time.Duration {
	if len(r.Times) == 0 {
		return 0
	}
	return r.Times[min(len(r.Times)*p/100, len(r.Times)-1)].Round(time.Millisecond)
}

// story tells all that was recorded of a finding's job, or of its run's jobs, in order of time.
func (r *Report) story(w io.Writer, f Finding) {
	type line struct {
		at   time.Time
		text string
	}
	var lines []line
	about := func(job int64) bool {
		if f.Job != 0 {
			return job == f.Job
		}
		return f.Run != 0 && r.trail.runOf[job] == f.Run
	}
	var from, to time.Time
	add := func(at time.Time, format string, args ...any) {
		lines = append(lines, line{at, fmt.Sprintf(format, args...)})
		if from.IsZero() || at.Before(from) {
			from = at
		}
		if at.After(to) {
			to = at
		}
	}
	for _, m := range r.trail.moves {
		if about(m.After.ID) {
			add(m.At, "job %d: %s → %s by %s, attempt %d, token %.8s → %.8s, worker %d, failures %d, crashes %d %s", m.After.ID,
				cmp.Or(m.from(), "nothing"), m.After.Status, m.Login, m.After.Attempt, m.Before.Token, m.After.Token, m.After.Worker,
				m.After.Failures, m.After.Crashes, m.After.Reason)
		}
	}
	for _, one := range r.trail.writes {
		if about(one.Job) {
			late := ""
			if one.Late != nil {
				late = fmt.Sprintf(", %.3f s after its claim had ended", *one.Late)
			}
			add(one.At, "job %d: %s %d of attempt %d by %s: %s%s", one.Job, one.What, one.Number, one.Attempt, one.Login, one.Digest, late)
		}
	}
	for _, request := range r.history.Requests {
		for _, a := range request.Answers {
			if f.Run != 0 && a.Run == f.Run {
				add(a.At, "request %s for %s was answered with %d, run %d", request.Key, request.Repository, a.Code, a.Run)
			}
		}
	}
	for _, call := range r.history.Calls {
		if f.Run != 0 && call.Run == f.Run {
			add(call.At, "GitHub was told %q is %s", call.Context, call.State)
		}
	}
	if len(lines) > 0 {
		for _, fault := range r.history.Faults {
			if fault.Ended.After(from.Add(-time.Second)) && fault.Began.Before(to.Add(time.Second)) {
				lines = append(lines, line{fault.Began, fmt.Sprintf("FAULT %s %s until %s", fault.Kind, fault.Login, clock(fault.Ended))})
			}
		}
	}
	slices.SortStableFunc(lines, func(a, b line) int { return a.at.Compare(b.at) })
	for _, one := range lines {
		fmt.Fprintf(w, "  %s %s\n", clock(one.at), strings.TrimSpace(one.text))
	}
}

func clock(t time.Time) string { return t.UTC().Format("15:04:05.000") }
