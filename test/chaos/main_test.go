package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/lockstep-ci/lockstep/migrations"
	"github.com/lockstep-ci/lockstep/test/chaos/internal/audit"
	"github.com/lockstep-ci/lockstep/test/chaos/internal/lab"
)

// binaries is the folder of the binaries under test, root that of the workspace.
var binaries, root string

func TestMain(m *testing.M) {
	code, err := testAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		code = 1
	}
	os.Exit(code)
}

func testAll(m *testing.M) (code int, err error) {
	if root, err = filepath.Abs(filepath.Join("..", "..")); err != nil {
		return 0, err
	}
	if binaries = os.Getenv("LOCKSTEP_BIN"); binaries == "" {
		if binaries, err = os.MkdirTemp("", "lockstep-chaos-bin-"); err != nil {
			return 0, err
		}
		defer func() { _ = os.RemoveAll(binaries) }()
		if err := lab.Build(context.Background(), root, binaries, migrations.Services); err != nil {
			return 0, err
		}
	}
	return m.Run(), nil
}

// Each run of the tests has another seed, which its log tells; SEED repeats one.
func TestEveryPromiseHoldsThroughHalfAMinuteOfFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	seed := rand.Uint64N(1_000_000)
	if text := os.Getenv("SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("SEED=%d", seed)
	system := newSystem(t, binaries, seed)
	if err := system.Start(t.Context(), lab.Replicas); err != nil {
		t.Fatal(err)
	}
	if err := system.Torture(t.Context(), 30*time.Second); err != nil {
		t.Fatal(err)
	}
	report := judge(t, system)
	if len(report.Findings) > 0 {
		t.Errorf("%d promises were broken; repeat it with `make chaos SEED=%d CHAOS_SECONDS=30`", len(report.Findings), seed)
	}
	for _, c := range report.Counts { // what was never put to the test cannot hold
		switch c.What {
		case "runs accepted", "starts of dependents", "logs compared with what was printed", "contexts compared with the jobs", "graceful stops with the database in reach":
			if c.N == 0 {
				t.Errorf("%d %s", c.N, c.What)
			}
		}
	}
}

func TestAZombieIsHarmless(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for a lease")
	}
	t.Parallel()
	if report := zombie(t, binaries); len(report.Findings) > 0 {
		t.Errorf("%d promises were broken", len(report.Findings))
	}
}

// An auditor that finds nothing is worth something only if it would find something. Without the fence the zombie ends
// a job that another holds.
func TestTheAuditorSeesAMissingFence(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for a lease")
	}
	t.Parallel()
	unfenced := t.TempDir()
	if err := lab.BuildUnfenced(t.Context(), root, binaries, unfenced); err != nil {
		t.Fatal(err)
	}
	report := zombie(t, unfenced)
	if !slices.ContainsFunc(report.Findings, func(f audit.Finding) bool { return f.Kind == audit.StaleWrite && f.Job != 0 }) {
		t.Errorf("the auditor saw no stale write where nothing prevents one")
	}
}

func zombie(t *testing.T, binaries string) *audit.Report {
	t.Helper()
	system := newSystem(t, binaries, 1)
	if err := system.Zombie(t.Context()); err != nil {
		t.Fatal(err)
	}
	return judge(t, system)
}

func newSystem(t *testing.T, binaries string, seed uint64) *lab.System {
	t.Helper()
	system, err := lab.New(t.Context(), lab.Options{Binaries: binaries, Seed: seed, Say: func(format string, args ...any) {
		t.Logf("%s %s", time.Now().UTC().Format("15:04:05.000"), fmt.Sprintf(format, args...))
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			dir := filepath.Join(os.TempDir(), fmt.Sprintf("lockstep-chaos-%s-%d", t.Name(), time.Now().Unix()))
			t.Logf("the services' logs are in %s (%v)", dir, system.Keep(dir))
		}
		if err := system.Close(); err != nil {
			t.Error(err)
		}
	})
	return system
}

func judge(t *testing.T, system *lab.System) *audit.Report {
	t.Helper()
	report, err := system.Audit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	report.Print(&text)
	t.Log("\n" + text.String())
	return report
}
