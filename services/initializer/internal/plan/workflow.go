package plan

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/rhysd/actionlint"

	"github.com/lockstep-ci/lockstep/pkg/jobs/spec"
)

// workflow is one file on its way into the plan.
type workflow struct {
	path   string
	src    string
	event  Event
	labels []string
	budget *int // bytes that expressions may still expand to, over all files of the run

	name     string
	wanted   bool // the event wants the workflow to run
	jobs     []placed
	mistakes []Mistake
	err      error // of event.Changed
}

// placed is a job and the place of its name, or of its key if it has none.
type placed struct {
	Job
	at pos
}

// pos is a place in a file. Line and column count from 1, the column in characters.
type pos struct{ line, column int }

func at(p *actionlint.Pos) pos { return pos{p.Line, p.Col} }

func (w *workflow) mistakef(at pos, format string, args ...any) {
	// The YAML parser gives no line for some mistakes in the first one.
	m := Mistake{Line: max(at.line, 1), Column: max(at.column, 1), Message: oneLine(fmt.Sprintf(format, args...))}
	if len(w.mistakes) < maxMistakes && !slices.Contains(w.mistakes, m) { // a matrix meets the same mistake again and again
		w.mistakes = append(w.mistakes, m)
	}
}

// sorted is the mistakes in the order of the file.
func (w *workflow) sorted() []Mistake {
	slices.SortStableFunc(w.mistakes, func(a, b Mistake) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return w.mistakes
}

// oneLine makes a message fit for a line: it quotes from a hostile file.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if !printable(string(r)) {
			return ' '
		}
		return r
	}, s)
	if len(s) > maxMessageSize {
		s = strings.ToValidUTF8(s[:maxMessageSize], "") + "…"
	}
	return s
}

// plan fills name, wanted and jobs, or mistakes.
func (w *workflow) plan() {
	w.name = w.path
	if !w.read() {
		return
	}
	tree, found, err := lint(w.src)
	defer func() { w.adopt(found) }()
	if err != nil {
		w.mistakef(pos{1, 1}, "%s", err)
	}
	if tree == nil {
		return
	}
	if n := tree.Name; n != nil && n.Value != "" {
		w.name = w.label(at(n.Pos), w.literal(n))
	}
	w.wanted = w.triggered(tree.On)
	if w.err != nil {
		return
	}

	facts := w.facts()
	env := w.variables(tree.Env, scope{github: facts})
	jobs := slices.SortedFunc(maps.Values(tree.Jobs), func(a, b *actionlint.Job) int { return before(a.Pos, b.Pos) })
	for _, j := range jobs {
		w.job(tree, j, facts, env)
	}
	if len(w.jobs) > maxMatrixJobs {
		w.mistakef(pos{1, 1}, "the workflow has %d jobs, the limit is %d", len(w.jobs), maxMatrixJobs)
	}
}

// lint parses the file with actionlint and returns its findings. The tree is nil if it is not complete enough to be
// planned.
func lint(src string) (tree *actionlint.Workflow, found []*actionlint.Error, err error) {
	defer recovered(&err)
	tree, broken := actionlint.Parse([]byte(src))
	if tree == nil {
		return nil, broken, nil
	}
	// Not its checks of expressions (our subset is narrower), of runner labels (ours are settings), of actions (we stand
	// in for those we know), of permissions, credentials and reusable workflows (there are none), and nothing that starts
	// a program.
	rules := []actionlint.Rule{
		actionlint.NewRuleMatrix(), actionlint.NewRuleShellName(), actionlint.NewRuleEvents(), actionlint.NewRuleJobNeeds(),
		actionlint.NewRuleEnvVar(), actionlint.NewRuleID(), actionlint.NewRuleGlob(), actionlint.NewRuleDeprecatedCommands(),
	}
	visitor := actionlint.NewVisitor()
	for _, r := range rules {
		visitor.AddPass(r)
	}
	err = visitor.Visit(tree)
	found = broken
	for _, r := range rules {
		found = append(found, r.Errs()...)
	}
	if len(broken) > 0 {
		return nil, found, err
	}
	return tree, found, err
}

// adopt takes findings of actionlint over, but for those at a place where we have one: ours knows the subset.
func (w *workflow) adopt(found []*actionlint.Error) {
	for _, e := range found {
		if p := (pos{max(e.Line, 1), max(e.Column, 1)}); !w.mistaken(p) {
			w.mistakef(p, "%s", e.Message)
		}
	}
}

func (w *workflow) mistaken(at pos) bool {
	return slices.ContainsFunc(w.mistakes, func(m Mistake) bool { return m.Line == at.line && m.Column == at.column })
}

// job plans one job: as many as its matrix has.
func (w *workflow) job(tree *actionlint.Workflow, j *actionlint.Job, facts, env map[string]string) {
	if j.WorkflowCall != nil {
		w.mistakef(at(j.WorkflowCall.Uses.Pos), "calling a workflow is not supported")
		return
	}
	var needs []string
	for _, n := range j.Needs {
		if job := tree.Jobs[strings.ToLower(n.Value)]; job != nil { // else actionlint has said so
			needs = append(needs, job.ID.Value)
		}
	}
	matrix := []combination{nil}
	failFast := false
	if j.Strategy != nil {
		if j.Strategy.Matrix != nil {
			matrix, failFast = w.matrix(j.Strategy.Matrix, scope{github: facts}), true
		}
		if f := j.Strategy.FailFast; f != nil {
			if f.Expression != nil {
				w.mistakef(at(f.Pos), "an expression is not supported here")
			}
			failFast = failFast && f.Value
		}
	}
	names := map[string]bool{} // in the matrix
	for _, c := range matrix {
		for _, v := range c {
			names[v.name] = true
		}
	}
	if len(j.Steps) > spec.MaxSteps {
		w.mistakef(at(j.Pos), "the job has %d steps, the limit is %d", len(j.Steps), spec.MaxSteps)
		return
	}

	for i, c := range matrix {
		sc := scope{github: facts}
		if j.Strategy != nil && j.Strategy.Matrix != nil {
			sc.matrix = c.values(names)
		}
		p := placed{at: at(j.Pos), Job: Job{Workflow: w.path, Key: j.ID.Value, MatrixIndex: i, Name: j.ID.Value, Needs: needs, FailFast: failFast}}
		var raw string
		if j.Name != nil && j.Name.Value != "" {
			p.at, raw = at(j.Name.Pos), j.Name.Value
			p.Name = w.label(p.at, w.expand(j.Name, sc))
		}
		if len(c) > 0 && !strings.Contains(strings.ToLower(raw), "matrix.") { // as GitHub does
			p.Name += " (" + w.label(p.at, c.String()) + ")"
		}
		p.Spec = spec.Spec{
			Version:        spec.Version,
			SHA:            w.event.SHA,
			RunsOn:         w.runsOn(j, sc),
			Env:            map[string]string{},
			TimeoutMinutes: cmp.Or(w.minutes(j.TimeoutMinutes, sc), spec.DefaultTimeoutMinutes),
		}
		maps.Copy(p.Spec.Env, env)
		maps.Copy(p.Spec.Env, w.variables(j.Env, sc))
		for k, v := range p.Spec.Env {
			*w.budget -= len(k) + len(v) // each job has its copy
		}
		sc.env = lowered(p.Spec.Env)
		for n, s := range j.Steps {
			p.Spec.Steps = append(p.Spec.Steps, w.step(n+1, s, sc))
		}
		w.jobs = append(w.jobs, p)
		if *w.budget < 0 {
			w.mistakef(at(j.Pos), "all jobs of the run together have more than %d bytes of values", maxSpecBytes)
			return
		}
		if len(w.jobs) > maxMatrixJobs {
			return
		}
	}
}

func (w *workflow) runsOn(j *actionlint.Job, sc scope) (labels []string) {
	asked := j.RunsOn.Labels
	if j.RunsOn.LabelsExpr != nil {
		asked = []*actionlint.String{j.RunsOn.LabelsExpr}
	}
	for _, l := range asked {
		label := w.expand(l, sc)
		if !isBroken(label) && !slices.ContainsFunc(w.labels, func(have string) bool { return strings.EqualFold(have, label) }) {
			w.mistakef(at(l.Pos), "no runner has the label %q (labels here: %s)", label, strings.Join(w.labels, ", "))
		}
		labels = append(labels, label)
	}
	if len(labels) == 0 {
		w.mistakef(at(j.Pos), `"runs-on" names no label`)
	}
	return labels
}

// minutes returns a timeout, or 0 if there is none.
func (w *workflow) minutes(f *actionlint.Float, sc scope) float64 {
	if f == nil {
		return 0
	}
	v := f.Value
	if f.Expression != nil {
		text := w.expand(f.Expression, sc)
		if isBroken(text) {
			return 0
		}
		var err error
		if v, err = strconv.ParseFloat(text, 64); err != nil {
			v = -1
		}
	}
	if v > 0 && v <= spec.MaxTimeoutMinutes {
		return v
	}
	if !w.mistaken(at(f.Pos)) {
		w.mistakef(at(f.Pos), "a timeout must be a number of minutes above 0 and at most %d", spec.MaxTimeoutMinutes)
	}
	return 0
}

// variables returns the variables with their values expanded. They do not see each other.
func (w *workflow) variables(e *actionlint.Env, sc scope) map[string]string {
	if e == nil {
		return nil
	}
	if e.Expression != nil {
		w.mistakef(at(e.Expression.Pos), "an expression is not supported here")
	}
	vars := map[string]string{}
	for _, v := range e.Vars {
		if name := v.Name.Value; !printable(name) || strings.ContainsAny(name, "= $") {
			w.mistakef(at(v.Name.Pos), "%q cannot be the name of an environment variable", name)
		}
		vars[v.Name.Value] = w.expand(v.Value, sc)
	}
	return vars
}

func lowered(env map[string]string) map[string]string {
	m := map[string]string{}
	for _, k := range slices.Sorted(maps.Keys(env)) { // sorted: which of FOO and foo is meant must not be chance
		m[strings.ToLower(k)] = env[k]
	}
	return m
}

// commandFiles are the variables by which GitHub lets a script speak to later steps.
var commandFiles = []string{"GITHUB_ENV", "GITHUB_OUTPUT", "GITHUB_PATH", "GITHUB_STATE", "GITHUB_STEP_SUMMARY"}

func (w *workflow) step(number int, s *actionlint.Step, sc scope) spec.Step {
	*w.budget -= 100 // a step costs, even if it is empty
	step := spec.Step{Number: number, Env: w.variables(s.Env, sc), TimeoutMinutes: w.minutes(s.TimeoutMinutes, sc)}
	if len(step.Env) > 0 {
		sc.env = maps.Clone(sc.env)
		maps.Copy(sc.env, lowered(step.Env))
	}
	if s.ID != nil {
		step.ID = w.literal(s.ID)
	}
	switch exec := s.Exec.(type) {
	case *actionlint.ExecRun:
		script := sc
		script.script = true
		step.Run = w.expand(exec.Run, script)
		if strings.TrimSpace(step.Run) == "" {
			w.mistakef(at(exec.Run.Pos), "the script is empty")
		}
		for _, name := range commandFiles {
			if strings.Contains(step.Run, name) {
				w.mistakef(at(exec.Run.Pos), "%s is not supported: what a script writes there would be lost", name)
			}
		}
		step.Name = "Run " + firstLine(step.Run)
		if exec.Shell != nil {
			if step.Shell = w.literal(exec.Shell); step.Shell != "bash" && step.Shell != "sh" {
				w.mistakef(at(exec.Shell.Pos), "shell %q is not supported (supported: bash, sh)", step.Shell)
			}
		}
		if d := exec.WorkingDirectory; d != nil {
			if step.WorkingDirectory = w.expand(d, sc); !inside(step.WorkingDirectory) {
				w.mistakef(at(d.Pos), "%q is not a folder of the repository: it must be relative and without ..", step.WorkingDirectory)
			}
		}
	case *actionlint.ExecAction:
		step.Uses, step.With = w.uses(exec, sc)
		step.Name = "Run " + exec.Uses.Value
	}
	if s.Name != nil && s.Name.Value != "" {
		step.Name = w.label(at(s.Name.Pos), w.expand(s.Name, sc))
	}
	return step
}

// honoured are the inputs of the actions that we stand in for, with the values that ask for what we do anyway; nil:
// any value, we look at it.
var honoured = map[string]map[string][]string{
	spec.Checkout: {
		"fetch-depth":         {"1"}, // there is one commit, and no more
		"fetch-tags":          {"false"},
		"persist-credentials": {"false"}, // there are none
		"submodules":          {"false"},
		"lfs":                 {"false"},
		"clean":               {"true", "false"}, // the tree is always fresh
		"show-progress":       {"true", "false"},
	},
	spec.SetupGo: {
		"go-version":      nil,
		"go-version-file": nil,
		"cache":           {"false"},
		"check-latest":    {"false"},
	},
}

func (w *workflow) uses(exec *actionlint.ExecAction, sc scope) (string, map[string]string) {
	name, version, _ := strings.Cut(w.literal(exec.Uses), "@")
	name = strings.ToLower(name)
	inputs, ok := honoured[name]
	if !ok || version == "" {
		w.mistakef(at(exec.Uses.Pos), "uses %q is not supported (supported: %s@…, %s@…)", exec.Uses.Value, spec.Checkout, spec.SetupGo)
		return name, nil
	}
	var with map[string]string
	for key, in := range exec.Inputs {
		value := w.expand(in.Value, sc)
		accepted, ok := inputs[key]
		switch {
		case isBroken(value):
		case !ok:
			w.mistakef(at(in.Name.Pos), "input %q of %s is not supported (supported: %s)", in.Name.Value, name,
				strings.Join(slices.Sorted(maps.Keys(inputs)), ", "))
		case accepted == nil && value == "":
			w.mistakef(at(in.Value.Pos), "input %q of %s is empty", in.Name.Value, name)
		case accepted == nil:
			if with == nil {
				with = map[string]string{}
			}
			with[key] = value
		case !slices.Contains(accepted, value):
			w.mistakef(at(in.Value.Pos), "input %q of %s may only be %s here, not %q", in.Name.Value, name,
				strings.Join(accepted, " or "), value)
		}
	}
	if file, ok := with["go-version-file"]; ok {
		if !inside(file) {
			w.mistakef(at(exec.Inputs["go-version-file"].Value.Pos), "%q is not a file of the repository: it must be relative and without ..", file)
		}
		if with["go-version"] != "" {
			w.mistakef(at(exec.Inputs["go-version-file"].Name.Pos), "go-version and go-version-file cannot both be given")
		}
	}
	return name, with
}

// literal returns the value of a place where no expression is evaluated.
func (w *workflow) literal(s *actionlint.String) string {
	if strings.Contains(s.Value, "${{") {
		w.mistakef(at(s.Pos), "an expression is not supported here")
	}
	return s.Value
}

// label checks that text is fit to be a name that people see.
func (w *workflow) label(at pos, text string) string {
	switch {
	case isBroken(text):
	case len(text) > maxNameBytes:
		w.mistakef(at, "a name has %d bytes, the limit is %d", len(text), maxNameBytes)
	case !printable(text):
		w.mistakef(at, "a name must be one line of text: %.60q", text)
	case strings.TrimSpace(text) == "":
		w.mistakef(at, "a name is empty")
	}
	return text
}

// firstLine is what a script without a name is called by: its first line, 80 characters at most.
func firstLine(script string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(script), "\n")
	line = oneLine(line)
	if utf8.RuneCountInString(line) > 80 {
		return string([]rune(line)[:80]) + "…"
	}
	return line
}

// inside says whether the path, by its name, lies within the tree.
func inside(p string) bool {
	return p != "" && len(p) <= 4096 && !path.IsAbs(p) && path.Clean(p) != ".." && !strings.HasPrefix(path.Clean(p), "../")
}

// posAt is the place of a byte of the file.
func (w *workflow) posAt(offset int) pos {
	before := w.src[:offset]
	line := strings.LastIndexByte(before, '\n') + 1
	return pos{1 + strings.Count(before, "\n"), 1 + utf8.RuneCountInString(before[line:])}
}

// offset is the byte at a place of the file.
func (w *workflow) offset(p pos) (int, error) {
	rest, start := w.src, 0
	for range p.line - 1 {
		i := strings.IndexByte(rest, '\n')
		if i < 0 {
			return 0, errors.New("no such line")
		}
		rest, start = rest[i+1:], start+i+1
	}
	for range p.column - 1 {
		_, n := utf8.DecodeRuneInString(rest)
		if n == 0 {
			return 0, errors.New("no such column")
		}
		rest, start = rest[n:], start+n
	}
	return start, nil
}
