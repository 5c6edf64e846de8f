package jobs_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
)

// A service declares its stage by three states and a function, and runs it.
func ExampleDB_Work() {
	ctx := context.Background() // until SIGTERM
	db, err := jobs.Open(ctx, os.Getenv("DATABASE_URL"), jobs.Options{App: "initializer"})
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	err = db.Work(ctx, jobs.Stage{
		Name:  "initializer",
		Takes: jobs.StatusNew, Holds: jobs.StatusInitializing, Gives: jobs.StatusInitialized,
		Slots: 4, Lease: 20 * time.Second, Beat: 5 * time.Second, Poll: time.Second, Grace: 30 * time.Second,
		Do: func(ctx context.Context, job *jobs.Job) (jobs.Result, error) {
			if job.Repository == "" {
				return jobs.Result{Status: jobs.StatusFailure, Reason: "no repository"}, nil // the user's mistake
			}
			return jobs.Result{}, nil // Gives
		},
	})
	if err != nil {
		log.Fatal(err)
	}
}

// An accepted run is on disk, and the same idempotency key is the same run.
func ExampleDB_Enqueue() {
	ctx := context.Background()
	db, err := jobs.Open(ctx, os.Getenv("DATABASE_URL"), jobs.Options{App: "api-gateway"})
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	enqueued, err := db.Enqueue(ctx, jobs.NewRun{
		Repository: "https://github.com/acme/widgets", Event: "push", Ref: "refs/heads/main",
		HeadSHA: "0123456789012345678901234567890123456789", Trusted: true,
		Principal: "github", IdempotencyKey: "72d3162e-cc78-11e3-81ab-4c9367dc0958",
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("run", enqueued.RunID)
}
