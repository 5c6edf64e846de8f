// Package notifier tells GitHub how jobs went. The database renews a row of ci_reports whenever a job's state changes;
// a notifier claims those that are due, tells GitHub the newest version of each, and writes down that it did.
//
// GitHub gets the last state of each job at least once, and never an older state after a newer one: a context has at most
// one call in flight, since its row is held for much longer than a call may take.
package notifier

import (
	"context"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-github/v60/github"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
)

const (
	held       = time.Minute           // how long a report is held; whoever stands still for longer has lost it
	sendWithin = held / 2              // no call begins later than this after its claim
	drainFor   = 15 * time.Second      // what is in flight at SIGTERM has this long: a call, and writing it down
	lookEvery  = 10 * time.Millisecond // least time between two looks: wakes in between become one look
)

// Config says how a Notifier works.
type Config struct {
	Concurrency int           // reports at once, at least 1
	Poll        time.Duration // longest wait between two looks at the table; a lost wake costs at most this
	PublicURL   string        // of the gateway, for the link to the run; empty: no link
}

// Notifier moves reports: pending → notifying → notified, or skipped.
type Notifier struct {
	Config
	db     *jobs.DB
	github *GitHub
	log    *zap.Logger
	told   *prometheus.CounterVec // by outcome
}

// New makes a notifier. Its metrics are added to those of db, so there is one for each db.
func New(db *jobs.DB, github *GitHub, config Config, log *zap.Logger) *Notifier {
	config.PublicURL = strings.TrimRight(config.PublicURL, "/")
	told := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "lockstep_reports_total", Help: "Reports handled, by how it went."}, []string{"outcome"})
	db.Metrics().MustRegister(told)
	return &Notifier{Config: config, db: db, github: github, log: log, told: told}
}

// Run tells GitHub until ctx ends, then waits for the calls in flight and gives back what it has not begun. It returns nil.
func (n *Notifier) Run(ctx context.Context) error {
	look := make(chan struct{}, 1) // size 1: one that is pending already says it all
	nudge := func() {
		select {
		case look <- struct{}{}:
		default:
		}
	}
	stopListening := n.db.Listen(func(wake jobs.Wake) {
		if renewsReports(wake) {
			nudge()
		}
	})
	defer stopListening()

	// Calls go on after ctx ends, for drainFor.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	var calls sync.WaitGroup
	var busy atomic.Int64
	for ctx.Err() == nil {
		if free := n.Concurrency - int(busy.Load()); free > 0 {
			reports, err := n.claim(life, free)
			n.db.Note("claim reports", "GitHub is told later", err)
			for _, r := range reports {
				busy.Add(1)
				calls.Go(func() {
					defer nudge() // a slot is free
					defer busy.Add(-1)
					n.handle(ctx, life, r)
				})
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(lookEvery):
		}
		select {
		case <-ctx.Done():
		case <-look:
		case <-time.After(n.Poll - rand.N(n.Poll/10+1)): // a fleet does not look in step
		}
	}

	idle := make(chan struct{})
	go func() { calls.Wait(); close(idle) }()
	select {
	case <-idle:
	case <-time.After(drainFor):
		end()
		<-idle
	}
	return nil
}

// renewsReports: a job in a state that somebody holds has nothing new to tell.
func renewsReports(wake jobs.Wake) bool {
	switch wake.Status {
	case jobs.StatusNew, jobs.StatusInitializing, jobs.StatusRunning:
		return false
	default: // also the zero Wake, and states of later stages
		return true
	}
}

// handle tells GitHub of one report and writes down how it went. Once ctx has ended it only gives the report back.
func (n *Notifier) handle(ctx, life context.Context, r report) {
	log := n.log.With(zap.Int64("run_id", r.RunID), zap.Int64("job_id", r.JobID), zap.String("context", r.Context),
		zap.String("state", r.State), zap.Int64("version", r.Version), zap.Int("attempt", r.Attempt))
	v := verdict{outcome: pending}
	if ctx.Err() == nil {
		v = n.tell(life, r)
	}
	ours, err := n.settle(life, r, v)
	switch {
	case err != nil:
		log.Error("could not write down how it went; it will be told again", zap.String("outcome", v.outcome), zap.Error(err))
		return
	case !ours:
		n.told.WithLabelValues("lost").Inc()
		log.Warn("claim lost", zap.String("outcome", v.outcome))
		return
	}
	n.told.WithLabelValues(v.outcome).Inc()
	switch {
	case v.outcome == pending && v.reason == "":
		log.Info("given back")
	case v.echo:
		log.Debug("will be told later", zap.String("reason", v.reason), zap.Duration("wait", v.wait))
	case v.outcome == pending:
		log.Warn("will be told later", zap.String("reason", v.reason), zap.Duration("wait", v.wait))
	default:
		log.Info("reported", zap.String("outcome", v.outcome), zap.String("reason", v.reason))
	}
}

// tell makes the call, unless the claim may no longer be ours: a process that stood still must not send.
func (n *Notifier) tell(life context.Context, r report) verdict {
	ctx, cancel := context.WithDeadline(life, r.claimedAt.Add(sendWithin))
	defer cancel()
	status := &github.RepoStatus{
		State:       github.String(r.State),
		Context:     github.String(r.Context),
		Description: github.String(description(r.Description)),
	}
	if n.PublicURL != "" {
		status.TargetURL = github.String(n.PublicURL + "/run/" + strconv.FormatInt(r.RunID, 10))
	}
	return n.github.create(ctx, r.Repository, r.SHA, status, r.Attempt)
}

// jitter is a random duration between half of d and d.
func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d/2+1)
}
