package queue_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
)

// node is a step of a plan.
type node struct {
	Kind      string `json:"Node Type"`
	Table     string `json:"Relation Name"`
	Index     string `json:"Index Name"`
	Condition string `json:"Index Cond"`
	Plans     []node
}

// None of the statements may read a table that grows as history does, nor a whole index of one. Indexes of what is not finished are
// whole by themselves.
func TestStatementsReadNothingWhole(t *testing.T) {
	t.Parallel()
	grows := []string{"ci_jobs", "ci_runs", "ci_attempts", "ci_steps", "ci_tallies", "ci_turns"}
	unfinished := []string{"ci_jobs_new", "ci_jobs_initialized", "ci_jobs_held", "ci_jobs_admission"}
	db := jobstest.New(t)
	db.Exec(t, `INSERT INTO ci_tallies SELECT 'https://example.com/owner/' || r, k, m, date_bin('1 h', now(), 'epoch') - h * interval '1 h', 'ci / test', '', 'success', 1, 1, '{}'
		FROM generate_series(1, 100) AS r, unnest('{run,wait,work,job,step}'::text[]) AS k, unnest('{5,60,1440}'::int[]) AS m, generate_series(1, 20) AS h`)
	db.Exec(t, "ANALYZE ci_tallies")
	pool := db.Open(t, "api-gateway").Pool()
	args := pgx.NamedArgs{
		"limit": 20, "repository": "https://example.com/owner/name", "repositories": []string{""}, "since": time.Now(), "hour": time.Now(), "day": time.Now(),
		"minutes": 60, "kind": "job", "kinds": []string{"run"},
	}
	files, err := filepath.Glob("queries/*.sql")
	if err != nil || len(files) < 10 {
		t.Fatalf("only %v, error %v", files, err)
	}
	seen := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var plan []byte
		sql := strings.ReplaceAll(string(text), "{{takes}}", "initialized")
		if err := pool.QueryRow(t.Context(), "EXPLAIN (FORMAT JSON) "+sql, args).Scan(&plan); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		var found []struct{ Plan node }
		if err := json.Unmarshal(plan, &found); err != nil {
			t.Fatal(err)
		}
		var walk func(node)
		walk = func(n node) {
			if strings.HasPrefix(n.Index, "ci_") || slices.Contains(grows, n.Table) {
				seen++
			}
			whole := n.Condition == "" && n.Index != "" && n.Kind != "Bitmap Heap Scan" && !slices.Contains(unfinished, n.Index)
			if slices.Contains(grows, n.Table) && (n.Kind == "Seq Scan" || whole) {
				t.Errorf("%s reads all of %s (%s %s)", file, n.Table, n.Kind, n.Index)
			}
			if strings.HasPrefix(n.Index, "ci_tallies") && !strings.Contains(n.Condition, "(repository = ") {
				t.Errorf("%s reads tallies of all repositories: %s", file, n.Condition)
			}
			for _, below := range n.Plans {
				walk(below)
			}
		}
		walk(found[0].Plan)
	}
	if seen < 12 {
		t.Errorf("only %d scans of what grows were looked at", seen)
	}
}
