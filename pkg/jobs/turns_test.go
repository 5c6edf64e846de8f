package jobs_test

import (
	"testing"

	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
)

func TestManyAdmittedTogetherTakeOneTurnEach(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	run := insertRun(t, db)
	for index := range 5 {
		place(t, db, run, "blocked", "test", index, nil)
	}
	db.Exec(t, "SELECT ci_admit(ARRAY[$1::bigint])", run)
	got := jobstest.Value[string](t, db, `
		SELECT string_agg(turn::text, ' ' ORDER BY id) || ', the last ' || (SELECT turn FROM ci_turns WHERE status = 'initialized') FROM ci_jobs`)
	if want := "0 1 2 3 4, the last 4"; got != want {
		t.Errorf("turns %s, want %s", got, want)
	}
}

func TestReadingACommitTakesNoPlaceOfALimit(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	db.Exec(t, "INSERT INTO ci_repositories (repository, max_running) VALUES ($1, 1)", repository)
	asking, planned := insertRun(t, db), insertRun(t, db)
	place(t, db, asking, "blocked", "", 0, nil) // its initializer failed once
	db.Exec(t, "UPDATE ci_jobs SET admit_to = 'new'")
	place(t, db, planned, "blocked", "test", 0, nil)
	db.Exec(t, "SELECT ci_admit(ARRAY[$1::bigint, $2])", asking, planned)
	if got := jobstest.Value[string](t, db, "SELECT string_agg(status::text, ' ' ORDER BY id) FROM ci_jobs"); got != "new initialized" {
		t.Errorf("got %q, want both to be admitted", got)
	}
}
