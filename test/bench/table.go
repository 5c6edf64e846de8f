package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// table is what the benchmark prints: a row for each figure, in Markdown.
type table struct{ rows []*row }

// row is one figure, measured once a round.
type row struct {
	part, what, unit string
	values           []float64
	server, client   []float64 // CPU, in µs a job
	goal             *goal
}

// goal is what a figure should be, and what would be better still.
type goal struct {
	least         bool // the figure should be at least so much; else at most
	want, stretch float64
}

func atLeast(want, stretch float64) *goal { return &goal{least: true, want: want, stretch: stretch} }
func atMost(want float64) *goal           { return &goal{want: want, stretch: want} }

// figure is one measurement of a rate.
type figure struct {
	perSecond      float64
	server, client float64 // CPU, in µs a job
}

// begin starts the rows of a part.
func (t *table) begin(letter, title string) {
	t.rows = append(t.rows, &row{part: letter, what: "**" + title + "**"})
}

// row adds one; goal may be nil.
func (t *table) row(unit string, goal *goal, format string, args ...any) *row {
	r := &row{part: t.rows[len(t.rows)-1].part, what: fmt.Sprintf(format, args...), unit: unit, goal: goal}
	t.rows = append(t.rows, r)
	return r
}

func (r *row) add(value float64) { r.values = append(r.values, value) }

func (r *row) addFigure(f figure) {
	r.add(f.perSecond)
	r.server, r.client = append(r.server, f.server), append(r.client, f.client)
}

// last is the figure of the round that is being measured.
func (r *row) last() float64 { return r.values[len(r.values)-1] }

// String is the table in Markdown.
func (t *table) String() string {
	var s strings.Builder
	s.WriteString("| | measured | median (min–max) | | CPU µs a job: server + clients | goal (stretch) | |\n")
	s.WriteString("|---|---|---:|---|---:|---:|---|\n")
	for _, r := range t.rows {
		fmt.Fprintf(&s, "| %s | %s | %s | %s | %s | %s | %s |\n", r.part, r.what, r.figures(), r.unit, r.cpu(), r.wanted(), r.verdict())
	}
	return s.String()
}

func (r *row) figures() string {
	switch {
	case r.unit == "": // a heading
		return ""
	case len(r.values) == 0:
		return "not measured"
	case len(r.values) == 1:
		return number(r.values[0])
	}
	return fmt.Sprintf("%s (%s–%s)", number(median(r.values)), number(slices.Min(r.values)), number(slices.Max(r.values)))
}

func (r *row) cpu() string {
	if len(r.server) == 0 {
		return ""
	}
	return number(median(r.server)) + " + " + number(median(r.client))
}

func (r *row) wanted() string {
	if r.goal == nil {
		return ""
	}
	sign := "≤ "
	if r.goal.least {
		sign = "≥ "
	}
	if r.goal.stretch == r.goal.want {
		return sign + number(r.goal.want)
	}
	return fmt.Sprintf("%s%s (%s)", sign, number(r.goal.want), number(r.goal.stretch))
}

// verdict compares the median with the goal.
func (r *row) verdict() string {
	if r.goal == nil || len(r.values) == 0 {
		return ""
	}
	reached := func(limit float64) bool {
		if r.goal.least {
			return median(r.values) >= limit
		}
		return median(r.values) <= limit
	}
	switch {
	case !reached(r.goal.want):
		return "**missed**"
	case r.goal.stretch != r.goal.want && reached(r.goal.stretch):
		return "met, stretch too"
	}
	return "met"
}

// number shows three digits, and thousands apart.
func number(v float64) string {
	if v != 0 && math.Abs(v) < 100 {
		digits := max(0, 2-int(math.Floor(math.Log10(math.Abs(v)))))
		s := strconv.FormatFloat(v, 'f', min(digits, 4), 64)
		if strings.Contains(s, ".") {
			s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
		}
		return s
	}
	s := strconv.FormatFloat(math.Abs(v), 'f', 0, 64)
	for at := len(s) - 3; at > 0; at -= 3 {
		s = s[:at] + "," + s[at:]
	}
	if v < 0 {
		s = "−" + s
	}
	return s
}

// workerCount is `1 worker` or `8 workers`.
func workerCount(n int) string {
	if n == 1 {
		return "1 worker"
	}
	return fmt.Sprintf("%d workers", n)
}

func median(values []float64) float64 { return percentile(values, 50) }

// percentile is the smallest value that p percent of the values do not exceed; of two in the middle, their mean.
func percentile(values []float64, p float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	if p == 50 && len(sorted)%2 == 0 {
		return (sorted[len(sorted)/2-1] + sorted[len(sorted)/2]) / 2
	}
	return sorted[max(0, int(math.Ceil(p/100*float64(len(sorted))))-1)]
}
