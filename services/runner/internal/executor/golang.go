package executor

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/mod/modfile"
)

// goVersion is a release of Go. Pre is what follows the numbers, as in 1.27rc1: such a release fits only by its name.
type goVersion struct {
	major, minor, patch int
	pre                 string
}

func (v goVersion) String() string {
	if v.pre != "" {
		return fmt.Sprintf("%d.%d%s", v.major, v.minor, v.pre)
	}
	return fmt.Sprintf("%d.%d.%d", v.major, v.minor, v.patch)
}

func (v goVersion) compare(w goVersion) int {
	for _, d := range []int{v.major - w.major, v.minor - w.minor, v.patch - w.patch} {
		if d != 0 {
			return d
		}
	}
	return 0
}

var goReport = regexp.MustCompile(`^go version (?:devel )?go(\d+)\.(\d+)(?:\.(\d+))?([a-z][^ ]*)?(?:-[^ ]*)? `)

// parseGoReport reads what `go version` prints.
func parseGoReport(said string) (goVersion, error) {
	m := goReport.FindStringSubmatch(said)
	if m == nil {
		return goVersion{}, fmt.Errorf("`go version` said %.100q", said)
	}
	return goVersion{atoi(m[1]), atoi(m[2]), atoi(m[3]), m[4]}, nil
}

// goRange says whether a version is one of those that a workflow asked for.
type goRange func(goVersion) bool

var goTerm = regexp.MustCompile(`^(\^|~|>=|<=|>|<|=)?v?(?:go)?(\d+|[xX*])(?:\.(\d+|[xX*])(?:\.(\d+|[xX*]))?)?((?:-?(?:rc|beta|alpha)\.?\d+)?)$`)

var spaceAfterOperator = regexp.MustCompile(`([<>=~^])\s+`) // npm allows it

// parseGoRange reads a version as setup-go takes them (its README, and npm's node-semver): `1.22` and `1.22.x` are any
// patch of it, `^1.22`, `~1.22`, `>=1.20 <1.23` and `1.21 || 1.22` as in npm. `stable` and `oldstable` name releases
// that only Go's own site knows; here any release is taken for them.
func parseGoRange(asked string) (goRange, error) {
	asked = strings.TrimSpace(asked)
	if asked == "stable" || asked == "oldstable" {
		return func(v goVersion) bool { return v.pre == "" }, nil
	}
	var either []goRange
	for alternative := range strings.SplitSeq(asked, "||") {
		var all []goRange
		alternative = spaceAfterOperator.ReplaceAllString(alternative, "$1")
		for term := range strings.FieldsSeq(alternative) {
			fits, err := parseGoTerm(term)
			if err != nil {
				return nil, fmt.Errorf("version %q of Go: %w", asked, err)
			}
			all = append(all, fits)
		}
		if len(all) == 0 {
			return nil, fmt.Errorf("version %q of Go is empty", asked)
		}
		either = append(either, func(v goVersion) bool {
			for _, fits := range all {
				if !fits(v) {
					return false
				}
			}
			return true
		})
	}
	return func(v goVersion) bool {
		for _, fits := range either {
			if fits(v) {
				return true
			}
		}
		return false
	}, nil
}

func parseGoTerm(term string) (goRange, error) {
	m := goTerm.FindStringSubmatch(term)
	if m == nil {
		return nil, fmt.Errorf("%q is not understood", term)
	}
	operator, pre := m[1], strings.NewReplacer("-", "", ".", "").Replace(m[5])
	// The versions named are from low to below high: x and what is left out stand for all.
	var low, high goVersion
	named := 0 // how many numbers are given
	for _, part := range m[2:5] {
		if part == "" || strings.ContainsAny(part, "xX*") {
			break
		}
		named++
	}
	if named > 0 {
		low.major = atoi(m[2])
		high = goVersion{major: low.major + 1}
	}
	if named > 1 {
		low.minor = atoi(m[3])
		high = goVersion{major: low.major, minor: low.minor + 1}
	}
	if named > 2 {
		low.patch = atoi(m[4])
		high = goVersion{major: low.major, minor: low.minor, patch: low.patch + 1}
	}
	if pre != "" {
		if operator != "" && operator != "=" {
			return nil, fmt.Errorf("%q: a pre-release cannot be part of a range", term)
		}
		return func(v goVersion) bool { return v.compare(low) == 0 && v.pre == pre }, nil
	}
	if named == 0 {
		if strings.ContainsAny(operator, "<>") {
			return nil, fmt.Errorf("%q is not understood", term)
		}
		return func(v goVersion) bool { return v.pre == "" }, nil
	}
	switch operator {
	case "^":
		high = goVersion{major: low.major + 1}
	case "~":
		if named > 1 {
			high = goVersion{major: low.major, minor: low.minor + 1}
		}
	}
	return func(v goVersion) bool {
		atLeast, below := v.compare(low) >= 0, v.compare(high) < 0
		switch operator {
		case ">=":
			below = true
		case ">":
			atLeast, below = !below, true
		case "<":
			atLeast, below = true, !atLeast
		case "<=":
			atLeast = true
		}
		return v.pre == "" && atLeast && below
	}, nil
}

// maxVersionFile bounds what is read of a go-version-file.
const maxVersionFile = 1 << 20

// goVersionFile reads what version a file of the work tree asks for. A go.mod or go.work names the least that will do.
func goVersionFile(work, name string) (asked string, err error) {
	tree, err := os.OpenRoot(work)
	if err != nil {
		return "", fmt.Errorf("open the work tree: %w", err)
	}
	defer tree.Close()
	file, err := tree.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe must not hold us up
	if err != nil {
		return "", fmt.Errorf("go-version-file: %w", err)
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return "", fmt.Errorf("go-version-file: %s is not a file", name)
	}
	content, err := io.ReadAll(io.LimitReader(file, maxVersionFile))
	if err != nil {
		return "", fmt.Errorf("go-version-file: %w", err)
	}
	var line *modfile.Go
	switch path.Base(name) {
	case "go.mod":
		mod, err := modfile.ParseLax(name, content, nil)
		if err != nil {
			return "", fmt.Errorf("go-version-file: %w", err)
		}
		line = mod.Go
	case "go.work":
		work, err := modfile.ParseWork(name, content, nil)
		if err != nil {
			return "", fmt.Errorf("go-version-file: %w", err)
		}
		line = work.Go
	case ".go-version":
		return string(bytes.TrimSpace(content)), nil
	default:
		return "", fmt.Errorf("go-version-file: %s is none of go.mod, go.work and .go-version", name)
	}
	if line == nil {
		return "", fmt.Errorf("go-version-file: %s has no go line", name)
	}
	return ">=" + goNumbers.FindString(line.Version), nil
}

// goNumbers leaves out the end of 1.21rc2, which 1.21.0 has too.
var goNumbers = regexp.MustCompile(`^\d+(\.\d+)*`)

// atoi is for digits that a pattern has matched; a number too large is as good as any that no release has.
func atoi(digits string) int {
	n, err := strconv.Atoi(digits)
	if errors.Is(err, strconv.ErrRange) {
		return 1 << 30
	}
	return n
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
