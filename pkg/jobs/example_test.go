package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
)

// Somebody asks for a run; a stage, declared by three states and a function, takes its job and says what becomes of it.
func Example() {
	url, drop := newDatabase() // yours is DATABASE_URL, brought up to date by `migrate up`
	defer drop()
	ctx, stop := context.WithCancel(context.Background())
	db, err := jobs.Open(ctx, url, jobs.Options{App: "initializer"})
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	run, err := db.Enqueue(ctx, jobs.NewRun{Repository: "https://github.com/acme/widgets", Event: "push", Ref: "refs/heads/main"})
	if err != nil {
		log.Fatal(err)
	}
	err = db.Work(ctx, jobs.Stage{
		Name:  "initializer",
		Takes: jobs.StatusNew, Holds: jobs.StatusInitializing, Gives: jobs.StatusInitialized,
		Slots: 4, Lease: 20 * time.Second, Beat: 5 * time.Second, Poll: time.Second, Grace: 30 * time.Second,
		Do: func(_ context.Context, job *jobs.Job) (jobs.Result, error) {
			defer stop() // one job is enough for an example
			fmt.Printf("attempt %d: %s of %s\n", job.Attempt, job.Event, job.Repository)
			return jobs.Result{Status: jobs.StatusSkipped, Reason: "no workflow wants to run on it"}, nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}

	var status, reason string
	err = db.Pool().QueryRow(context.Background(), "SELECT status, reason FROM ci_jobs WHERE run_id = $1", run.RunID).Scan(&status, &reason)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s: %s\n", status, reason)
	// Output:
	// attempt 1: push of https://github.com/acme/widgets
	// skipped: no workflow wants to run on it
}

// A handler ends when its context ends, and returns what it likes then: Work knows why. What the user did wrong is a Result;
// an error is ours, and the job is tried again.
func ExampleDB_Work() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	db, err := jobs.Open(ctx, os.Getenv("DATABASE_URL"), jobs.Options{App: "linter"})
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	lint := func(_ context.Context, _ *jobs.Job) (complaints int, err error) { return 0, nil }
	err = db.Work(ctx, jobs.Stage{
		Name:  "linter",
		Takes: "initialized", Holds: "linting", Gives: "linted", // states of a migration of yours: docs/add-a-stage.md
		Slots: 2, Lease: 20 * time.Second, Beat: 5 * time.Second, Poll: time.Second, Grace: time.Minute,
		Do: func(ctx context.Context, job *jobs.Job) (jobs.Result, error) {
			complaints, err := lint(ctx, job)
			switch {
			case errors.Is(context.Cause(ctx), jobs.ErrClaimLost):
				return jobs.Result{}, nil // somebody else has the job: whatever is returned is thrown away
			case err != nil:
				return jobs.Result{}, fmt.Errorf("lint job %d: %w", job.ID, err)
			case complaints > 0:
				return jobs.Result{Status: jobs.StatusFailure, Reason: fmt.Sprintf("%d complaints", complaints)}, nil
			}
			return jobs.Result{}, nil // linted
		},
	})
	if err != nil {
		log.Fatal(err) // the stage cannot be: nothing was claimed
	}
}

// The same request twice is one run: a client that heard no answer asks again.
func ExampleDB_Enqueue() {
	url, drop := newDatabase()
	defer drop()
	ctx := context.Background()
	db, err := jobs.Open(ctx, url, jobs.Options{App: "api-gateway"})
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	push := jobs.NewRun{
		Repository: "https://github.com/acme/widgets.git", Event: "push", Ref: "refs/heads/main",
		HeadSHA: "0123456789012345678901234567890123456789", Trusted: true,
		Principal: "github", IdempotencyKey: "72d3162e-cc78-11e3-81ab-4c9367dc0958", RequestHash: []byte("first"),
	}
	first, err := db.Enqueue(ctx, push)
	if err != nil {
		log.Fatal(err)
	}
	again, err := db.Enqueue(ctx, push)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("the same run:", again.RunID == first.RunID && again.Existing)

	push.RequestHash = []byte("another")
	_, err = db.Enqueue(ctx, push)
	fmt.Println("the key for another request:", errors.Is(err, jobs.ErrKeyReused))
	// Output:
	// the same run: true
	// the key for another request: true
}

// A run that is asked for in a transaction is there if and when that commits.
func ExampleEnqueueTx() {
	url, drop := newDatabase()
	defer drop()
	ctx := context.Background()
	db, err := jobs.Open(ctx, url, jobs.Options{App: "nightly"})
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Pool().Exec(ctx, "CREATE TABLE nights (night date PRIMARY KEY, run_id bigint NOT NULL)"); err != nil {
		log.Fatal(err)
	}

	// Two schedulers, one night: who comes second finds it taken, and its run was never asked for.
	for range 2 {
		err := pgx.BeginFunc(ctx, db.Pool(), func(tx pgx.Tx) error {
			run, err := jobs.EnqueueTx(ctx, tx, jobs.NewRun{Repository: "https://github.com/acme/widgets", Event: "manual", Trusted: true})
			if err != nil {
				return err
			}
			_, err = tx.Exec(ctx, "INSERT INTO nights VALUES ('2026-11-22', $1)", run.RunID)
			return err
		})
		fmt.Println("this one starts the run:", err == nil)
	}
	var runs int
	if err := db.Pool().QueryRow(ctx, "SELECT count(*) FROM ci_runs").Scan(&runs); err != nil {
		log.Fatal(err)
	}
	fmt.Println("runs:", runs)
	// Output:
	// this one starts the run: true
	// this one starts the run: false
	// runs: 1
}

// Whoever watches subscribes, then looks, and looks again at each wake and now and then without one. A wake says that there may be
// something to see; what it is, the table says.
func ExampleDB_Listen() {
	url, drop := newDatabase()
	defer drop()
	ctx := context.Background()
	db, err := jobs.Open(ctx, url, jobs.Options{App: "watcher"})
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	look := make(chan struct{}, 1)
	stopListening := db.Listen(func(jobs.Wake) {
		select {
		case look <- struct{}{}:
		default: // a look is due already
		}
	})
	defer stopListening()

	run, err := db.Enqueue(ctx, jobs.NewRun{Repository: "https://github.com/acme/widgets", Event: "manual"})
	if err != nil {
		log.Fatal(err)
	}
	go func() { _ = db.Cancel(ctx, run.RunID, "") }() // somebody, somewhere

	for {
		var status jobs.Status
		if err := db.Pool().QueryRow(ctx, "SELECT status FROM ci_runs WHERE id = $1", run.RunID).Scan(&status); err != nil {
			log.Fatal(err)
		}
		if status.Final() {
			fmt.Println(status)
			return
		}
		select {
		case <-look:
		case <-time.After(time.Second): // a wake may get lost
		}
	}
	// Output:
	// cancelled
}

// What nobody holds is cancelled when Cancel returns.
func ExampleDB_Cancel() {
	url, drop := newDatabase()
	defer drop()
	ctx := context.Background()
	db, err := jobs.Open(ctx, url, jobs.Options{App: "api-gateway"})
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	run, err := db.Enqueue(ctx, jobs.NewRun{Repository: "https://github.com/acme/widgets", Event: "manual"})
	if err != nil {
		log.Fatal(err)
	}

	fmt.Println("waiting:", db.Cancel(ctx, run.RunID, ""))
	fmt.Println("ended:", errors.Is(db.Cancel(ctx, run.RunID, ""), jobs.ErrEnded))
	fmt.Println("unknown:", errors.Is(db.Cancel(ctx, run.RunID+1, ""), jobs.ErrNotFound))
	// Output:
	// waiting: <nil>
	// ended: true
	// unknown: true
}

// What a job found out is written in the transaction that ends its claim: both are there, or neither.
func ExampleResult_commit() {
	url, drop := newDatabase()
	defer drop()
	ctx, stop := context.WithCancel(context.Background())
	db, err := jobs.Open(ctx, url, jobs.Options{App: "initializer"})
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Pool().Exec(ctx, "CREATE TABLE findings (job_id bigint, attempt integer, text text)"); err != nil {
		log.Fatal(err)
	}
	if _, err := db.Enqueue(ctx, jobs.NewRun{Repository: "https://github.com/acme/widgets", Event: "manual"}); err != nil {
		log.Fatal(err)
	}

	err = db.Work(ctx, jobs.Stage{
		Name:  "initializer",
		Takes: jobs.StatusNew, Holds: jobs.StatusInitializing, Gives: jobs.StatusInitialized,
		Slots: 1, Lease: 20 * time.Second, Beat: 5 * time.Second, Poll: time.Second, Grace: 30 * time.Second,
		Do: func(_ context.Context, job *jobs.Job) (jobs.Result, error) {
			defer stop()
			return jobs.Result{Commit: func(ctx context.Context, tx pgx.Tx) error {
				_, err := tx.Exec(ctx, "INSERT INTO findings VALUES ($1, $2, 'a vulnerable library')", job.ID, job.Attempt)
				return err
			}}, nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	var status, found string
	err = db.Pool().QueryRow(context.Background(), "SELECT j.status, f.text FROM ci_jobs j JOIN findings f ON f.job_id = j.id").Scan(&status, &found)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s, and found %s\n", status, found)
	// Output:
	// initialized, and found a vulnerable library
}

// A reaper is a process of its own, or better two.
func ExampleDB_Reap() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	db, err := jobs.Open(ctx, os.Getenv("DATABASE_URL"), jobs.Options{App: "reaper"})
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	if err := db.Reap(ctx, jobs.Reaping{UnownedAfter: time.Hour, MaxFailures: 5, MaxCrashes: 3}); err != nil {
		log.Fatal(err)
	}
}
