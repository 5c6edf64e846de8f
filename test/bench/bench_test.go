package main

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What is measured at this size means nothing; that every part still runs to its end does.
func TestEveryPartRuns(t *testing.T) {
	t.Setenv("SCALE", "small")
	t.Setenv("BENCH", "")
	file := filepath.Join(t.TempDir(), "figures.md")
	var out, progress bytes.Buffer
	if err := run(t.Context(), file, &out, &progress); err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	for _, p := range parts {
		if !strings.Contains(out.String(), p.title) {
			t.Errorf("part (%s) is not in the table", p.letter)
		}
	}
	if strings.Contains(out.String(), "not measured") {
		t.Errorf("a row has no figure:\n%s", out.String())
	}
	written, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(written) != out.String() {
		t.Error("the file holds something else than what was printed")
	}
}

func TestChooseRefusesAPartThatIsNone(t *testing.T) {
	for _, list := range []string{"z", "a,", "ab"} {
		if chosen, err := choose(list); err == nil {
			t.Errorf("choose(%q) = %d parts, want an error", list, len(chosen))
		}
	}
	chosen, err := choose("c, a")
	if err != nil || len(chosen) != 2 || chosen[0].letter != "c" || chosen[1].letter != "a" {
		t.Errorf(`choose("c, a") = %v, %v, want parts c and a`, chosen, err)
	}
}

func TestTheTableJudgesTheMedian(t *testing.T) {
	table := &table{}
	table.begin("a", "speed")
	for _, values := range [][]float64{{1, 9, 12}, {1, 11, 12}, {1, 25, 30}} {
		table.row("jobs/s", atLeast(10, 20), "ours").values = values
	}
	table.row("ms", atMost(5), "late").values = []float64{5.1}
	table.row("ms", nil, "unknown")
	got := table.String()
	for _, want := range []string{
		"| a | ours | 9 (1–12) | jobs/s |  | ≥ 10 (20) | **missed** |",
		"| a | ours | 11 (1–12) | jobs/s |  | ≥ 10 (20) | met |",
		"| a | ours | 25 (1–30) | jobs/s |  | ≥ 10 (20) | met, stretch too |",
		"| a | late | 5.1 | ms |  | ≤ 5 | **missed** |",
		"| a | unknown | not measured | ms |  |  |  |",
	} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("the table lacks %q:\n%s", want, got)
		}
	}
}

func TestPercentile(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(100 - i)
	}
	for _, test := range []struct {
		name   string
		values []float64
		p      float64
		want   float64
	}{
		{"median of an odd number", []float64{3, 1, 2}, 50, 2},
		{"median of an even number", []float64{4, 1, 2, 3}, 50, 2.5},
		{"p99 of a hundred", hundred, 99, 99},
		{"max", hundred, 100, 100},
		{"of one", []float64{7}, 99, 7},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := percentile(test.values, test.p); got != test.want {
				t.Errorf("got %g, want %g", got, test.want)
			}
		})
	}
	if got := percentile(nil, 50); !math.IsNaN(got) {
		t.Errorf("of nothing: %g, want NaN", got)
	}
}

func TestNumberShowsThreeDigits(t *testing.T) {
	for value, want := range map[float64]string{
		0: "0", 0.01234: "0.0123", 0.5: "0.5", 1.005: "1", 12.34: "12.3", 99.96: "100", 123.4: "123", 1234567: "1,234,567", -1500: "−1,500",
	} {
		if got := number(value); got != want {
			t.Errorf("number(%g) = %q, want %q", value, got, want)
		}
	}
}

func TestClaimedBeforeCountsClaimsThatCouldKnow(t *testing.T) {
	second := func(n int) time.Time { return time.Unix(int64(n), 0) }
	claim := func(at, took, rows int) statement {
		return statement{at: second(at), took: time.Duration(took) * time.Second, rows: rows}
	}
	a := arrival{acknowledged: second(10), started: second(20)}
	for _, test := range []struct {
		name   string
		claims []statement
		want   int
	}{
		{"none", nil, 0},
		{"taken by a claim that was on its way", []statement{claim(9, 2, 4), claim(20, 1, 4)}, 0},
		{"taken by the first claim after it", []statement{claim(9, 1, 4), claim(11, 1, 3), claim(20, 1, 4)}, 0},
		{"taken by the third", []statement{claim(11, 1, 3), claim(13, 1, 2), claim(15, 1, 4)}, 5},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := claimedBefore(test.claims, a); got != test.want {
				t.Errorf("got %d, want %d", got, test.want)
			}
		})
	}
}
