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
