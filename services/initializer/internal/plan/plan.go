// Package plan answers what a commit wants to run: from its workflow files and an event to jobs, or to the mistakes
// in the files. It is a pure function of its arguments; the files are hostile input.
//
// The files follow a declared subset of GitHub Actions' workflow syntax. What lies outside the subset is a mistake
// with line and column; nothing is ever ignored. The subset is stated in document.go (which keys there are) and at
// the checks of each value.
package plan

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/lockstep-ci/lockstep/pkg/jobs/spec"
)

// Limits. A matrix of 256 jobs is GitHub's limit too; the others are ours.
const (
	maxFiles       = 100
	maxFileBytes   = 256 << 10
	maxDepth       = 32   // of the YAML tree
	maxEntries     = 1000 // of one list or mapping
	maxMatrixJobs  = 256  // per workflow
	maxJobs        = 1000 // per run
	maxSpecBytes   = 16 << 20
	maxNameBytes   = 240  // "lockstep/" and the name are a status context; GitHub takes 255 characters
	maxMistakes    = 1000 // per file
	maxMessageSize = 500
	maxReasonSize  = 3500 // the queue cuts a reason off at 4000 bytes
)

// File is a workflow file.
type File struct {
	Path    string // within the repository
	Content []byte
	Problem string // why there is no content, such as "is a symbolic link"; empty: there is
}

// Event is what happened.
type Event struct {
	Name       string // push, pull_request, workflow_dispatch or manual
	Ref        string // refs/heads/…, refs/tags/…, refs/pull/…, or empty
	BaseBranch string // of a pull_request: the branch it wants to go to, such as main; empty: nobody knows, and it matches
	SHA        string // the commit, 40 hex digits
	Repository string // owner/name
	Actor      string
	// Changed returns the paths that the event changed. It is asked only if a filter wants to know. If they are not
	// known, or Changed is nil, a filter of paths matches.
	Changed func() (paths []string, known bool, err error)
}

// Plan is what the commit wants to run. Both are empty if no workflow wants to run on the event.
type Plan struct {
	Jobs []Job // ordered by file, place in the file and matrix index
	Bad  []Bad // ordered by path
}

// Job is one job of a workflow, or one of its matrix.
type Job struct {
	Workflow    string // path of the file
	Key         string // the job's key in the file
	MatrixIndex int    // 0 for the first and for a job without a matrix
	// Name is for people and for GitHub: "workflow / job", with the matrix values in parentheses. It is unique
	// among the jobs and the paths of the bad files, and has at most 240 bytes.
	Name     string
	Needs    []string  // keys of jobs of the same workflow
	FailFast bool      // a failure cancels the other jobs of the same matrix
	Spec     spec.Spec // complete but for SourceID
}

// Bad is a file with mistakes; nothing of it is planned.
type Bad struct {
	Path     string // quoted if it holds characters that are not text
	Mistakes []Mistake
}

// Reason is the mistakes for people: a line "path:line:column: message" each, as many as there is room for.
func (b Bad) Reason() string {
	var reason strings.Builder
	for i, m := range b.Mistakes {
		line := fmt.Sprintf("%s:%d:%d: %s\n", b.Path, m.Line, m.Column, m.Message)
		if i > 0 && reason.Len()+len(line) > maxReasonSize {
			fmt.Fprintf(&reason, "and %d more mistakes from line %d on\n", len(b.Mistakes)-i, m.Line)
			break
		}
		reason.WriteString(line)
	}
	return strings.TrimSuffix(reason.String(), "\n")
}

// Mistake is one mistake in a file. Line and Column count from 1; the column counts characters.
type Mistake struct {
	Line, Column int
	Message      string
}

// Make plans. labels are those that the runners here have. The only errors are those of event.Changed: a file with
// mistakes is part of the plan, and the other files are planned all the same.
func Make(files []File, event Event, labels []string) (Plan, error) {
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })

	budget := maxSpecBytes
	var workflows []*workflow
	for i, f := range files {
		w := &workflow{path: f.Path, src: string(f.Content), event: event, labels: labels, budget: &budget}
		if !printable(w.path) {
			w.path = strconv.QuoteToASCII(f.Path)
			w.mistakef(pos{1, 1}, "the name of the file holds characters that are not text")
		}
		if len(w.path) > maxNameBytes { // it is the name of a status on GitHub too
			w.path = strings.ToValidUTF8(w.path[:maxNameBytes-3], "") + "…"
			w.mistakef(pos{1, 1}, "the path of the file has %d bytes, the limit is %d", len(f.Path), maxNameBytes)
		}
		switch {
		case i >= maxFiles:
			w.mistakef(pos{1, 1}, "there are more than %d workflow files", maxFiles)
		case f.Problem != "":
			w.mistakef(pos{1, 1}, "%s", f.Problem)
		default:
			w.plan()
		}
		if w.err != nil {
			return Plan{}, w.err
		}
		workflows = append(workflows, w)
		if i >= maxFiles {
			break
		}
	}
	name(workflows)

	var p Plan
	for _, w := range workflows {
		if len(w.mistakes) > 0 {
			p.Bad = append(p.Bad, Bad{Path: w.path, Mistakes: w.sorted()})
			continue
		}
		if !w.wanted {
			continue
		}
		if len(p.Jobs)+len(w.jobs) > maxJobs {
			w.mistakef(pos{1, 1}, "the run would have more than %d jobs", maxJobs)
			p.Bad = append(p.Bad, Bad{Path: w.path, Mistakes: w.sorted()})
			continue
		}
		for _, j := range w.jobs {
			p.Jobs = append(p.Jobs, j.Job)
		}
	}
	return p, nil
}

// name gives each job its full name. A workflow is called by its path if it has no name, as on GitHub, and by both
// if another file has the same name: wanted or not, so that a status context keeps its name from run to run.
func name(workflows []*workflow) {
	files := map[string]int{}
	for _, w := range workflows {
		if len(w.mistakes) == 0 {
			files[w.name]++
		}
	}
	taken := map[string]string{}
	for _, w := range workflows {
		if len(w.mistakes) > 0 {
			continue
		}
		prefix := w.name
		if files[w.name] > 1 {
			prefix = fmt.Sprintf("%s (%s)", w.name, w.path)
		}
		for i := range w.jobs {
			j := &w.jobs[i]
			j.Name = prefix + " / " + j.Name
			if len(j.Name) > maxNameBytes {
				w.mistakef(j.at, "the full name %.60q… has %d bytes, the limit is %d", j.Name, len(j.Name), maxNameBytes)
			}
			if other, ok := taken[j.Name]; ok {
				w.mistakef(j.at, "the full name %q is also that of %s; names tell the statuses on GitHub apart", j.Name, other)
			}
			taken[j.Name] = fmt.Sprintf("job %q of %s", j.Key, w.path)
		}
	}
}

// printable says whether s is text that can be shown in a line: UTF-8 without control characters and without those
// that turn the direction of writing.
func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool {
		return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029'
	})
}
