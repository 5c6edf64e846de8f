package jobs_test

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
)

// wakes subscribes and waits until the listener is on the line.
func wakes(t *testing.T, opened *jobs.DB) <-chan jobs.Wake {
	t.Helper()
	heard := make(chan jobs.Wake, 100)
	t.Cleanup(opened.Listen(func(wake jobs.Wake) {
		select {
		case heard <- wake:
		default:
			t.Error("more wakes than expected")
		}
	}))
	return heard
}

func TestEveryTransitionWakesWhoListens(t *testing.T) {
	t.Parallel()
	if os.Getenv("LOCKSTEP_TEST_NOTIFY") == "off" {
		return // what this test asserts is what that setting takes away
	}
	db := jobstest.New(t)
	heard := wakes(t, db.Open(t, "runner"))
	if first := receive(t, heard, "the wake after LISTEN"); first != (jobs.Wake{}) {
		t.Fatalf("first wake %+v, want the one that says: look at everything", first)
	}
	db.Exec(t, articleInsert)
	db.Exec(t, "UPDATE ci_jobs SET reason = 'no transition'")
	db.Exec(t, articleClaim)
	job := jobstest.Value[int64](t, db, "SELECT id FROM ci_jobs")
	for _, status := range []jobs.Status{jobs.StatusNew, jobs.StatusInitializing} {
		if wake := receive(t, heard, "a wake"); wake != (jobs.Wake{JobID: job, Status: status}) {
			t.Errorf("wake %+v, want job %d %s", wake, job, status)
		}
	}
}

func TestAListenerThatIsKilledComesBackAndLooks(t *testing.T) {
	t.Parallel()
	if os.Getenv("LOCKSTEP_TEST_NOTIFY") == "off" {
		return // the poll, which takes its place there, is out of the way here
	}
	db := jobstest.New(t)
	opened := db.Open(t, "initializer")
	heard := wakes(t, opened)
	receive(t, heard, "the wake after LISTEN")
	started := make(chan *jobs.Job, 10)
	stage := runnerStage(1, func(_ context.Context, job *jobs.Job) (jobs.Result, error) {
		started <- job
		return jobs.Result{Status: jobs.StatusSkipped}, nil
	})
	stage.Name, stage.Takes, stage.Holds = "initializer", jobs.StatusNew, jobs.StatusInitializing
	stage.Poll = time.Hour // only the listener can find the job
	work(t, opened, stage)
	db.Exec(t, articleInsert)
	receive(t, started, "the first job's start")
	for range 3 {
		// The listener's connection is the one whose last statement was its self-test or a ping.
		db.Await(t, soon, `
			SELECT count(pg_terminate_backend(pid)) = 1 FROM pg_stat_activity
			WHERE  datname = current_database() AND application_name = 'initializer' AND (query LIKE 'SELECT pg_notify%' OR query = '-- ping')`)
		db.Exec(t, articleInsert) // while nobody listens
		receive(t, started, "the job's start")
	}
}

func TestJunkOnTheChannelIsIgnored(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	heard := wakes(t, db.Open(t, "runner"))
	receive(t, heard, "the wake after LISTEN")
	for _, junk := range []string{"", "x", "-1:new", "99999999999999999999:new", ":", "1.5:new", "probe:1.x"} {
		db.Exec(t, "SELECT pg_notify($1, $2)", jobs.Channel, junk)
	}
	db.Exec(t, "SELECT pg_notify($1, '7:running')", jobs.Channel)
	if wake := receive(t, heard, "a wake"); wake != (jobs.Wake{JobID: 7, Status: jobs.StatusRunning}) {
		t.Errorf("wake %+v", wake)
	}
}
