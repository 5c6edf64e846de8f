package plan_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-ci/lockstep/pkg/jobs/spec"
	"github.com/lockstep-ci/lockstep/services/initializer/internal/plan"
)

var push = plan.Event{
	Name: "push", Ref: "refs/heads/main", SHA: strings.Repeat("0a", 20), Repository: "octo/cat", Actor: "mona",
}

var labels = []string{"ubuntu-latest", "linux", "self-hosted"}

// run plans one file named .ci/workflows/t.yml.
func run(t *testing.T, event plan.Event, content string) plan.Plan {
	t.Helper()
	p, err := plan.Make([]plan.File{{Path: ".ci/workflows/t.yml", Content: []byte(content)}}, event, labels)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// good is run for a file without mistakes.
func good(t *testing.T, event plan.Event, content string) []plan.Job {
	t.Helper()
	p := run(t, event, content)
	for _, b := range p.Bad {
		t.Errorf("mistakes:\n%s", b.Reason())
	}
	for _, j := range p.Jobs {
		j.Spec.SourceID = 1
		if _, err := spec.Encode(j.Spec); err != nil {
			t.Errorf("job %q: %v", j.Name, err)
		}
	}
	return p.Jobs
}

func names(jobs []plan.Job) (names []string) {
	for _, j := range jobs {
		names = append(names, j.Name)
	}
	return names
}

const everything = `
name: CI
on:
  push:
    branches: [main, 'release/**']
  pull_request:
    types: [opened, synchronize, reopened]
  workflow_dispatch:
env:
  CGO_ENABLED: 0
  WHERE: ${{ github.repository }}@${{ github.ref_name }}
jobs:
  build:
    name: Build it
    runs-on: [self-hosted, Linux]
    env:
      CGO_ENABLED: "1"
      WHO: ${{ github.actor }}
    steps:
      - uses: actions/checkout@v4
        with: {fetch-depth: 1, persist-credentials: false}
      - uses: actions/setup-go@0123456789abcdef
        with:
          go-version-file: go.mod
          cache: false
      - id: make
        name: Make ${{ env.WHO }}
        run: |
          make CGO=${{ env.CGO_ENABLED }} WHO=${{ env.LOUD }}
        env:
          LOUD: ${{ env.WHO }}!
        shell: bash
        working-directory: ./sub
        timeout-minutes: 0.5
  test:
    needs: [build]
    runs-on: ${{ matrix.os }}
    timeout-minutes: ${{ matrix.minutes }}
    strategy:
      fail-fast: false
      matrix:
        os: [ubuntu-latest]
        go: ['1.24', 1.25]
        minutes: [5]
    steps:
      - run: go test ./...
`

func TestEverythingOfTheSubsetIsPlanned(t *testing.T) {
	got := good(t, push, everything)
	env := func(more ...string) map[string]string {
		m := map[string]string{"CGO_ENABLED": "0", "WHERE": "octo/cat@main"}
		for i := 0; i < len(more); i += 2 {
			m[more[i]] = more[i+1]
		}
		return m
	}
	test := func(index int, version string) plan.Job {
		return plan.Job{
			Workflow: ".ci/workflows/t.yml", Key: "test", MatrixIndex: index, Name: "CI / test (ubuntu-latest, " + version + ", 5)",
			Needs: []string{"build"},
			Spec: spec.Spec{
				Version: 1, SHA: push.SHA, Env: env(), RunsOn: []string{"ubuntu-latest"}, TimeoutMinutes: 5,
				Steps: []spec.Step{{Number: 1, Name: "Run go test ./...", Run: "go test ./..."}},
			},
		}
	}
	want := []plan.Job{
		{
			Workflow: ".ci/workflows/t.yml", Key: "build", Name: "CI / Build it",
			Spec: spec.Spec{
				Version: 1, SHA: push.SHA, Env: env("CGO_ENABLED", "1", "WHO", "mona"), RunsOn: []string{"self-hosted", "Linux"}, TimeoutMinutes: 360,
				Steps: []spec.Step{
					{Number: 1, Name: "Run actions/checkout@v4", Uses: spec.Checkout},
					{Number: 2, Name: "Run actions/setup-go@0123456789abcdef", Uses: spec.SetupGo, With: map[string]string{"go-version-file": "go.mod"}},
					{Number: 3, ID: "make", Name: "Make mona", Run: "make CGO=1 WHO=mona!\n", Shell: "bash", WorkingDirectory: "./sub",
						Env: map[string]string{"LOUD": "mona!"}, TimeoutMinutes: 0.5},
				},
			},
		},
		test(0, "1.24"), test(1, "1.25"),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("plan differs (-want +got):\n%s", diff)
	}
}

// job wraps the inside of a job, indented by four, in the least workflow around it.
func job(inside string) string {
	return "on: push\njobs:\n  a:\n    runs-on: linux\n" + inside
}

const steps = "    steps: [{run: x}]\n"

func TestJobsAreNamedAsOnGitHub(t *testing.T) {
	for name, row := range map[string]struct {
		file string
		want []string
	}{
		"workflow without a name: its path": {job(steps), []string{".ci/workflows/t.yml / a"}},
		"workflow with a name":              {"name: CI\n" + job(steps), []string{"CI / a"}},
		"job with a name":                   {job("    name: The job\n" + steps), []string{".ci/workflows/t.yml / The job"}},
		"matrix values behind the key": {job("    strategy: {matrix: {z: [1, 2], a: [x]}}\n" + steps),
			[]string{".ci/workflows/t.yml / a (1, x)", ".ci/workflows/t.yml / a (2, x)"}},
		"matrix values behind a name that does not use them": {job("    name: J\n    strategy: {matrix: {z: [1]}}\n" + steps),
			[]string{".ci/workflows/t.yml / J (1)"}},
		"a name that uses the matrix stands alone": {job("    name: J${{ matrix.Z }}\n    strategy: {matrix: {z: [1]}}\n" + steps),
			[]string{".ci/workflows/t.yml / J1"}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(row.want, names(good(t, push, row.file))); diff != "" {
				t.Errorf("names differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWorkflowsOfOneNameAreToldApartByTheirPaths(t *testing.T) {
	files := []plan.File{
		{Path: ".ci/workflows/b.yml", Content: []byte("name: CI\n" + job(steps))},
		{Path: ".ci/workflows/a.yml", Content: []byte("name: CI\non: pull_request\njobs: {a: {runs-on: linux, steps: [{run: x}]}}")},
	}
	p, err := plan.Make(files, push, labels)
	if err != nil {
		t.Fatal(err)
	}
	// a.yml does not want to run, but will another time: the context of b.yml must be the same then.
	if diff := cmp.Diff([]string{"CI (.ci/workflows/b.yml) / a"}, names(p.Jobs)); diff != "" {
		t.Errorf("names differ (-want +got):\n%s", diff)
	}
}

func TestOneBadFileLeavesTheOthersAlone(t *testing.T) {
	p, err := plan.Make([]plan.File{
		{Path: "w/c.yml", Content: []byte("on: push\njobs: {a: {runs-on: linux, steps: [{uses: a/b@v1}]}}")},
		{Path: "w/b.yml", Content: []byte(job(steps))},
		{Path: "w/a.yml", Problem: "is a symbolic link"},
		{Path: "w/\x1b[1m\xff.yml", Content: []byte(job(steps))},
	}, push, labels)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"w/b.yml / a"}, names(p.Jobs)); diff != "" {
		t.Errorf("names differ (-want +got):\n%s", diff)
	}
	var reasons []string
	for _, b := range p.Bad {
		reasons = append(reasons, b.Reason())
	}
	want := []string{
		`"w/\x1b[1m\xff.yml":1:1: the name of the file holds characters that are not text`,
		`w/a.yml:1:1: is a symbolic link`,
		`w/c.yml:2:43: uses "a/b@v1" is not supported (supported: actions/checkout@…, actions/setup-go@…)`,
	}
	if diff := cmp.Diff(want, reasons); diff != "" {
		t.Errorf("reasons differ (-want +got):\n%s", diff)
	}
}

func TestALongPathIsAMistakeOfAShortName(t *testing.T) {
	p, err := plan.Make([]plan.File{{Path: "w/" + strings.Repeat("ä", 200) + ".yml", Content: []byte(job(steps))}}, push, labels)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Bad) != 1 || len(p.Bad[0].Path) > 240 || !strings.Contains(p.Bad[0].Reason(), "the path of the file has 406 bytes") {
		t.Errorf("got %+v", p)
	}
}

func TestMatrix(t *testing.T) {
	for name, row := range map[string]struct {
		matrix string
		want   []string // the values, a job each
	}{
		"product, the last varies fastest": {"{os: [a, b], go: [1, 2]}", []string{"a, 1", "a, 2", "b, 1", "b, 2"}},
		"exclude one":                      {"{os: [a, b], go: [1, 2], exclude: [{os: b, go: 1}]}", []string{"a, 1", "a, 2", "b, 2"}},
		"exclude by a part":                {"{os: [a, b], go: [1, 2], exclude: [{os: b}]}", []string{"a, 1", "a, 2"}},
		"include adds to what it fits":     {"{os: [a, b], include: [{os: a, x: 1}]}", []string{"a, 1", "b"}},
		"include alone":                    {"{include: [{os: a, x: 1}, {os: b}]}", []string{"a, 1", "b"}},
		"include that would change a value is a job of its own": {"{os: [a], go: [1], include: [{os: a, go: 2}]}", []string{"a, 1", "a, 2"}},
		"include after all is excluded":                         {"{os: [a], exclude: [{os: a}], include: [{os: b}]}", []string{"b"}},
		// The example of GitHub's documentation of include.
		"fruits and animals": {"{fruit: [apple, pear], animal: [cat, dog], include: [{color: green}, {color: pink, animal: cat}, " +
			"{fruit: apple, shape: circle}, {fruit: banana}, {fruit: banana, animal: cat}]}",
			[]string{"apple, cat, pink, circle", "apple, dog, green, circle", "pear, cat, pink", "pear, dog, green", "banana", "banana, cat"}},
		"names without regard to case":  {"{OS: [a, b], exclude: [{os: b}]}", []string{"a"}},
		"values with facts":             {"{x: ['${{ github.ref_name }}']}", []string{"main"}},
		"quoted and plain are the same": {"{go: ['1.2', 2], exclude: [{go: 1.2}]}", []string{"2"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for i, j := range good(t, push, job("    strategy: {matrix: "+row.matrix+"}\n"+steps)) {
				got = append(got, strings.TrimSuffix(strings.TrimPrefix(j.Name, ".ci/workflows/t.yml / a ("), ")"))
				if j.MatrixIndex != i || !j.FailFast {
					t.Errorf("job %d has index %d and fail-fast %t", i, j.MatrixIndex, j.FailFast)
				}
			}
			if diff := cmp.Diff(row.want, got); diff != "" {
				t.Errorf("values differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAMatrixNameThatOtherCombinationsHaveIsEmpty(t *testing.T) {
	jobs := good(t, push, job("    strategy: {matrix: {os: [a, b], include: [{os: a, x: 1}]}}\n    steps: [{run: 'x${{ matrix.x }}'}]\n"))
	if got := jobs[0].Spec.Steps[0].Run + jobs[1].Spec.Steps[0].Run; got != "x1x" {
		t.Errorf("scripts are %q", got)
	}
}

func TestNeedsNameTheKeysAsTheFileHasThem(t *testing.T) {
	jobs := good(t, push, "on: push\njobs:\n  Z: {runs-on: linux, steps: [{run: x}]}\n  a: {needs: z, runs-on: linux, steps: [{run: x}]}\n")
	if diff := cmp.Diff([]string{"Z"}, jobs[1].Needs); diff != "" {
		t.Errorf("needs differ (-want +got):\n%s", diff)
	}
}

func TestFailFastIsOfAMatrix(t *testing.T) {
	for strategy, want := range map[string]bool{
		"":                             false,
		"strategy: {fail-fast: true}":  false,
		"strategy: {matrix: {a: [1]}}": true,
		"strategy: {matrix: {a: [1]}, fail-fast: false}": false,
	} {
		t.Run(strategy, func(t *testing.T) {
			if got := good(t, push, job("    "+strategy+"\n"+steps))[0].FailFast; got != want {
				t.Errorf("fail-fast is %t, want %t", got, want)
			}
		})
	}
}

func TestStepsWithoutANameAreCalledByWhatTheyDo(t *testing.T) {
	long := strings.Repeat("ä", 100)
	for script, want := range map[string]string{
		"go test ./...":     "Run go test ./...",
		`\n  a\tb\nc`:       "Run a b",
		long:                "Run " + long[:160] + "…",
		"${{ github.sha }}": "Run " + push.SHA,
	} {
		t.Run(want, func(t *testing.T) {
			got := good(t, push, job("    steps: [{run: \""+script+"\"}]\n"))[0].Spec.Steps[0].Name
			if got != want {
				t.Errorf("name is %q, want %q", got, want)
			}
		})
	}
}

func TestWhatTheContextsHold(t *testing.T) {
	for name, row := range map[string]struct {
		event plan.Event
		want  string
	}{
		"push of a branch": {push, "refs/heads/main main push"},
		"push of a tag":    {plan.Event{Name: "push", Ref: "refs/tags/v1/x"}, "refs/tags/v1/x v1/x push"},
		"pull request":     {plan.Event{Name: "pull_request", Ref: "refs/pull/7/merge", BaseBranch: "main"}, "refs/pull/7/merge 7/merge pull_request"},
		"by hand":          {plan.Event{Name: "manual", Ref: "refs/heads/x"}, "refs/heads/x x manual"},
		"a bare commit":    {plan.Event{Name: "manual"}, "  manual"},
	} {
		t.Run(name, func(t *testing.T) {
			row.event.SHA = push.SHA
			jobs := good(t, row.event, "on: [push, pull_request]\nenv:\n  X: ${{ github.ref }} ${{github.ref_name}} ${{ GITHUB.event_name }}\n"+
				"jobs: {a: {runs-on: linux, steps: [{run: x}]}}\n")
			if got := jobs[0].Spec.Env["X"]; got != row.want {
				t.Errorf("got %q, want %q", got, row.want)
			}
		})
	}
}

func TestABranchNameIsNeverPastedIntoAScript(t *testing.T) {
	event := push
	event.Ref = "refs/heads/$(id)"
	for name, row := range map[string]struct {
		inside string
		bad    bool
	}{
		"in a script":                {"    steps: [{run: 'echo ${{ github.ref_name }}'}]\n", true},
		"in a script, the full name": {"    steps: [{run: 'echo ${{ github.ref }}'}]\n", true},
		"by way of a variable":       {"    env: {X: 'a ${{ github.ref }}'}\n    steps: [{run: 'echo ${{ env.X }}'}]\n", true},
		"by way of the matrix":       {"    strategy: {matrix: {x: ['${{ github.ref }}']}}\n    steps: [{run: 'echo ${{ matrix.x }}'}]\n", true},
		"as a variable":              {"    steps: [{run: 'echo \"$X\"', env: {X: '${{ github.ref }}'}}]\n", false},
		"the file's own text":        {"    env: {X: $(id)x}\n    steps: [{run: 'echo ${{ github.sha }}'}]\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			p := run(t, event, job(row.inside))
			if got := len(p.Bad) > 0; got != row.bad {
				t.Errorf("refused: %t, want %t", got, row.bad)
			}
		})
	}
}

func TestTriggers(t *testing.T) {
	tag := plan.Event{Name: "push", Ref: "refs/tags/v1.2", SHA: push.SHA}
	pull := plan.Event{Name: "pull_request", Ref: "refs/pull/7/merge", BaseBranch: "main", SHA: push.SHA}
	manual := plan.Event{Name: "manual", Ref: "refs/heads/main", SHA: push.SHA}
	dispatch := plan.Event{Name: "workflow_dispatch", Ref: "refs/heads/main", SHA: push.SHA}
	changed := func(e plan.Event, paths ...string) plan.Event {
		e.Changed = func() ([]string, bool, error) { return paths, true, nil }
		return e
	}
	unknown := push
	unknown.Changed = func() ([]string, bool, error) { return nil, false, nil }
	somewhere := pull
	somewhere.BaseBranch = ""
	for name, row := range map[string]struct {
		on    string
		event plan.Event
		want  bool
	}{
		"push":                             {"push", push, true},
		"push among others":                {"[pull_request, push]", push, true},
		"push with nothing":                {"{push: }", push, true},
		"push with null":                   {"{push: null}", push, true},
		"pull request only, push comes":    {"pull_request", push, false},
		"push only, pull request comes":    {"push", pull, false},
		"push also means tags":             {"push", tag, true},
		"branch matches":                   {"{push: {branches: [main]}}", push, true},
		"one name instead of a list":       {"{push: {branches: main}}", push, true},
		"branch does not match":            {"{push: {branches: [dev]}}", push, false},
		"branch matches only in part":      {"{push: {branches: [mai]}}", push, false},
		"branch filter keeps tags out":     {"{push: {branches: ['**']}}", tag, false},
		"tag filter keeps branches out":    {"{push: {tags: ['**']}}", push, false},
		"tag matches":                      {"{push: {tags: ['v*']}}", tag, true},
		"either matches: the tag":          {"{push: {branches: [main], tags: ['v*']}}", tag, true},
		"either matches: the branch":       {"{push: {branches: [main], tags: ['v*']}}", push, true},
		"neither matches":                  {"{push: {branches: [dev], tags: ['w*']}}", tag, false},
		"branch ignored":                   {"{push: {branches-ignore: [main]}}", push, false},
		"another branch ignored":           {"{push: {branches-ignore: [dev]}}", push, true},
		"branches-ignore keeps tags out":   {"{push: {branches-ignore: [dev]}}", tag, false},
		"tag ignored":                      {"{push: {tags-ignore: ['v*']}}", tag, false},
		"tags-ignore keeps branches out":   {"{push: {tags-ignore: ['w*']}}", push, false},
		"a later ! takes away":             {"{push: {branches: ['**', '!main']}}", push, false},
		"a later pattern gives back":       {"{push: {branches: ['**', '!m*', main]}}", push, true},
		"an earlier ! takes nothing":       {"{push: {branches: ['!main', '**']}}", push, true},
		"pull request to a branch":         {"{pull_request: {branches: [main]}}", pull, true},
		"pull request to another branch":   {"{pull_request: {branches: [dev]}}", pull, false},
		"pull request, base ignored":       {"{pull_request: {branches-ignore: [main]}}", pull, false},
		"path changed":                     {"{push: {paths: ['**.go']}}", changed(push, "README.md", "a/b.go"), true},
		"no such path changed":             {"{push: {paths: ['**.go']}}", changed(push, "README.md"), false},
		"nothing changed":                  {"{push: {paths: ['**']}}", changed(push), false},
		"path taken away":                  {"{push: {paths: ['**.go', '!a/**']}}", changed(push, "a/b.go"), false},
		"path beside what is taken away":   {"{push: {paths: ['**.go', '!a/**']}}", changed(push, "a/b.go", "c.go"), true},
		"all paths ignored":                {"{push: {paths-ignore: ['docs/**', '*.md']}}", changed(push, "docs/a.md", "b.md"), false},
		"one path not ignored":             {"{push: {paths-ignore: ['docs/**', '*.md']}}", changed(push, "docs/a.md", "c.go"), true},
		"branch and path must both match":  {"{push: {branches: [dev], paths: ['**']}}", changed(push, "a"), false},
		"tags are not asked about paths":   {"{push: {paths: ['**.go']}}", changed(tag, "README.md"), true},
		"unknown changes count as changed": {"{push: {paths: ['**.go']}}", push, true},
		"changes that cannot be known":     {"{push: {paths: ['**.go']}}", unknown, true},
		"a base that is not known":         {"{pull_request: {branches: [dev]}}", somewhere, true},
		"pull request path":                {"{pull_request: {paths: ['**.go']}}", changed(pull, "README.md"), false},
		"by hand, push":                    {"push", manual, true},
		"by hand, filters do not count":    {"{push: {branches: [dev], paths: [x]}}", changed(manual, "y"), true},
		"by hand, workflow_dispatch":       {"workflow_dispatch", manual, true},
		"by hand, pull request only":       {"pull_request", manual, false},
		"dispatched":                       {"{workflow_dispatch: {}}", dispatch, true},
		"dispatched, push only":            {"push", dispatch, false},
		"workflow_dispatch only, push":     {"workflow_dispatch", push, false},
		"the three types that there are":   {"{pull_request: {types: [reopened, opened, synchronize]}}", pull, true},
	} {
		t.Run(name, func(t *testing.T) {
			jobs := good(t, row.event, "on: "+row.on+"\njobs: {a: {runs-on: linux, steps: [{run: x}]}}\n")
			if got := len(jobs) > 0; got != row.want {
				t.Errorf("wanted: %t, want %t", got, row.want)
			}
		})
	}
}

func TestChangesAreAskedForOnlyWhenAFilterWantsThem(t *testing.T) {
	event := push
	event.Changed = func() ([]string, bool, error) { return nil, false, errors.New("asked") }
	good(t, event, "on: {push: {branches: [main]}}\njobs: {a: {runs-on: linux, steps: [{run: x}]}}\n")

	_, err := plan.Make([]plan.File{{Path: "w.yml", Content: []byte("on: {push: {paths: [a]}}\njobs: {a: {runs-on: linux, steps: [{run: x}]}}\n")}}, event, labels)
	if err == nil || err.Error() != "asked" {
		t.Errorf("the error of the question is returned: got %v", err)
	}
}

// The examples of GitHub's filter pattern cheat sheet, and what they must not match.
func TestPatterns(t *testing.T) {
	for _, row := range []struct {
		pattern string
		yes, no []string
	}{
		{"feature/*", []string{"feature/my-branch"}, []string{"feature/a/b", "feature", "xfeature/a"}},
		{"feature/**", []string{"feature/beta-a/my-branch", "feature/your-branch"}, []string{"feature", "feature2/a"}},
		{"releases/mona-the-octocat", []string{"releases/mona-the-octocat"}, []string{"releases/mona-the-octoca", "releases/mona-the-octocats"}},
		{"*", []string{"main", "releases"}, []string{"a/b"}},
		{"**", []string{"main", "all/the/branches"}, nil},
		{"*feature", []string{"mona-feature", "feature", "ver-10-feature"}, []string{"a/feature", "features"}},
		{"v2*", []string{"v2", "v2.0", "v2.9"}, []string{"v1", "av2", "v2/x"}},
		{"v[12].[0-9]+.[0-9]+", []string{"v1.10.1", "v2.0.0"}, []string{"v3.1.1", "v1.1", "v1.a.1", "v1x1x1"}},
		{"*.jsx?", []string{"page.js", "page.jsx"}, []string{"page.jsxx", "pagejs", "a/page.js"}},
		{"**.js", []string{"index.js", "js/index.js", "src/js/app.js"}, []string{"index.jsx"}},
		{"docs/*", []string{"docs/README.md"}, []string{"docs/mona/octocat.txt", "docs"}},
		{"docs/**/*.md", []string{"docs/README.md", "docs/mona/hello-world.md", "docs/a/markdown/file.md"}, []string{"README.md", "docs/a.txt"}},
		{"**/docs/**", []string{"docs/hello.md", "dir/docs/my-file.txt", "space/docs/plan/space.doc"}, []string{"mydocs/a"}},
		{"**/README.md", []string{"README.md", "js/README.md"}, []string{"MYREADME.md"}},
		{"**/*src/**", []string{"a/src/app.js", "my-src/code/js/app.js"}, []string{"src2/a"}},
		{"**/*-post.md", []string{"my-post.md", "path/their-post.md"}, nil},
		{"**/migrate-*.sql", []string{"migrate-10909.sql", "db/migrate-v1.0.sql", "db/sept/migrate-v1.sql"}, nil},
		{"[CB]at", []string{"Cat", "Bat"}, []string{"at", "cat", "CBat"}},
		{"a.b", []string{"a.b"}, []string{"axb"}},
		{`c\+\+`, []string{"c++"}, []string{"ccc", `c\+\+`}},
		{"ä?b", []string{"äb", "b"}, []string{"ab"}},
		{"(a|b)", []string{"(a|b)"}, []string{"a"}},
	} {
		t.Run(row.pattern, func(t *testing.T) {
			for want, paths := range map[bool][]string{true: row.yes, false: row.no} {
				for _, path := range paths {
					event := push
					event.Changed = func() ([]string, bool, error) { return []string{path}, true, nil }
					jobs := good(t, event, fmt.Sprintf("on: {push: {paths: ['%s']}}\njobs: {a: {runs-on: linux, steps: [{run: x}]}}\n", row.pattern))
					if got := len(jobs) > 0; got != want {
						t.Errorf("%q matches %q: %t, want %t", row.pattern, path, got, want)
					}
				}
			}
		})
	}
}

func TestWhatIsOutsideTheSubsetIsAMistakeWithItsPlace(t *testing.T) {
	for name, row := range map[string]struct {
		file string
		want string // the start of each line, in order
	}{
		"permissions":                 {"permissions: read-all\n" + job(steps), `1:1: key "permissions" is not supported in a workflow`},
		"concurrency":                 {"concurrency: x\n" + job(steps), `1:1: key "concurrency" is not supported`},
		"defaults":                    {"defaults: {run: {shell: bash}}\n" + job(steps), `1:1: key "defaults" is not supported`},
		"run-name":                    {"run-name: x\n" + job(steps), `1:1: key "run-name" is not supported`},
		"unknown key":                 {"onn: x\n" + job(steps), `1:1: key "onn" is not supported`},
		"key in other letters":        {"Name: x\n" + job(steps), `1:1: key "Name" is not supported`},
		"if of a job":                 {job("    if: always()\n" + steps), `5:5: key "if" is not supported in a job`},
		"permissions of a job":        {job("    permissions: {contents: read}\n" + steps), `5:5: key "permissions" is not supported in a job`},
		"outputs":                     {job("    outputs: {a: b}\n" + steps), `5:5: key "outputs" is not supported`},
		"container":                   {job("    container: golang\n" + steps), `5:5: key "container" is not supported`},
		"services":                    {job("    services: {db: {image: x}}\n" + steps), `5:5: key "services" is not supported`},
		"environment":                 {job("    environment: x\n" + steps), `5:5: key "environment" is not supported`},
		"continue-on-error":           {job("    continue-on-error: true\n" + steps), `5:5: key "continue-on-error" is not supported`},
		"job concurrency":             {job("    concurrency: x\n" + steps), `5:5: key "concurrency" is not supported`},
		"job defaults":                {job("    defaults: {run: {shell: bash}}\n" + steps), `5:5: key "defaults" is not supported`},
		"max-parallel":                {job("    strategy: {max-parallel: 2, matrix: {a: [1]}}\n" + steps), `5:16: key "max-parallel" is not supported in "strategy"`},
		"reusable workflow":           {"on: push\njobs:\n  a: {uses: a/b/.github/workflows/c.yml@v1, with: {x: 1}, secrets: inherit}\n", "3:7: key \"uses\" is not supported in a job\n3:13: calling a workflow is not supported\n3:45: key \"with\"\n3:59: key \"secrets\""},
		"if of a step":                {job("    steps: [{run: x, if: always()}]\n"), `5:22: key "if" is not supported in a step`},
		"continue-on-error of a step": {job("    steps: [{run: x, continue-on-error: true}]\n"), `5:22: key "continue-on-error" is not supported in a step`},
		"several at once": {"permissions: {}\n" + job("    if: x\n    steps:\n      - uses: actions/cache@v4\n      - run: x\n        if: y\n"),
			"1:1: key \"permissions\"\n6:5: key \"if\"\n8:15: uses \"actions/cache@v4\" is not supported\n10:9: key \"if\""},

		"event schedule":               {"on: {push: , schedule: [{cron: '0 0 * * *'}]}\njobs: {a: {runs-on: linux, steps: [{run: x}]}}", `1:14: key "schedule" is not supported in "on"`},
		"event release":                {"on: release\njobs: {a: {runs-on: linux, steps: [{run: x}]}}", `1:5: event "release" is not supported`},
		"event in a list":              {"on: [push, workflow_call]\njobs: {a: {runs-on: linux, steps: [{run: x}]}}", `1:12: event "workflow_call" is not supported`},
		"event that does not exist":    {"on: pusch\njobs: {a: {runs-on: linux, steps: [{run: x}]}}", `1:5: event "pusch" is not supported`},
		"inputs":                       {"on: {workflow_dispatch: {inputs: {a: {type: string}}}}\njobs: {a: {runs-on: linux, steps: [{run: x}]}}", `1:26: key "inputs" is not supported in "workflow_dispatch"`},
		"types of push":                {"on: {push: {types: [x]}}\njobs: {a: {runs-on: linux, steps: [{run: x}]}}", "1:6: \"types\" cannot be specified\n1:13: key \"types\" is not supported in \"push\"\n1:21: types other than"},
		"tags of a pull request":       {"on: {pull_request: {tags: [x]}}\njobs: {a: {runs-on: linux, steps: [{run: x}]}}", `1:21: key "tags" is not supported in "pull_request"`},
		"one activity type":            {"on: {pull_request: {types: [opened]}}\njobs: {a: {runs-on: linux, steps: [{run: x}]}}", `1:29: types other than [opened, synchronize, reopened]`},
		"one more activity type":       {"on: {pull_request: {types: [opened, synchronize, reopened, labeled]}}\njobs: {a: {runs-on: linux, steps: [{run: x}]}}", `1:29: types other than`},
		"both forms of a filter":       {"on: {push: {branches: [a], branches-ignore: [b]}}\njobs: {a: {runs-on: linux, steps: [{run: x}]}}", `1:28: both "branches" and "branches-ignore" filters cannot be used`},
		"only patterns with !":         {"on: {push: {branches: ['!a']}}\njobs: {a: {runs-on: linux, steps: [{run: x}]}}", `1:13: "branches" has only patterns with "!"`},
		"! in an ignoring filter":      {"on: {push: {paths-ignore: ['a', '!b']}}\njobs: {a: {runs-on: linux, steps: [{run: x}]}}", `1:33: "!" is not supported in "paths-ignore"`},
		"broken pattern":               {"on: {push: {branches: ['[a']}}\njobs: {a: {runs-on: linux, steps: [{run: x}]}}", "1:24: pattern \"[a\" cannot be read\n1:26: invalid glob pattern"},
		"pattern that repeats nothing": {"on: {push: {branches: ['+a']}}\njobs: {a: {runs-on: linux, steps: [{run: x}]}}", "1:25: invalid glob pattern"},
		"expression in a pattern":      {"on: {push: {branches: ['${{ github.ref }}']}}\njobs: {a: {runs-on: linux, steps: [{run: x}]}}", "1:24: an expression is not supported here\n1:28: character\n1:39: character"},

		"unknown label":             {"on: push\njobs: {a: {runs-on: macos-latest, steps: [{run: x}]}}", `2:21: no runner has the label "macos-latest" (labels here: ubuntu-latest, linux, self-hosted)`},
		"one unknown label of two":  {"on: push\njobs: {a: {runs-on: [linux, gpu], steps: [{run: x}]}}", `2:29: no runner has the label "gpu"`},
		"unknown label of a matrix": {job("    strategy: {matrix: {os: [linux, win, mac]}}\n"+steps) + "  b:\n    runs-on: ${{ matrix.os }}\n    strategy: {matrix: {os: [linux, win, mac]}}\n" + steps, "8:14: no runner has the label \"win\"\n8:14: no runner has the label \"mac\""},
		"runner group":              {"on: push\njobs: {a: {runs-on: {group: x}, steps: [{run: x}]}}", "2:8: \"runs-on\" names no label\n2:21: a mapping is not supported here"},
		"no runs-on":                {"on: push\njobs: {a: {steps: [{run: x}]}}", `2:8: "runs-on" section is missing in job "a"`},
		"no steps":                  {"on: push\njobs: {a: {runs-on: linux}}", `2:8: "steps" section is missing in job "a"`},
		"no jobs":                   {"on: push\n", `1:1: "jobs" section is missing`},
		"no on":                     {"jobs: {a: {runs-on: linux, steps: [{run: x}]}}", `1:1: "on" section is missing`},

		"needs an unknown job":   {job("    needs: [b]\n" + steps), `3:3: job "a" needs job "b" which does not exist`},
		"needs itself":           {job("    needs: a\n" + steps), `3:3: cyclic dependencies`},
		"needs in a circle":      {"on: push\njobs:\n  a: {needs: b, runs-on: linux, steps: [{run: x}]}\n  b: {needs: a, runs-on: linux, steps: [{run: x}]}\n", `3:3: cyclic dependencies`},
		"bad job key":            {"on: push\njobs: {1a: {runs-on: linux, steps: [{run: x}]}}", `2:8: invalid job ID "1a"`},
		"step id twice":          {job("    steps: [{run: x, id: a}, {run: y, id: A}]\n"), `5:43: step ID "A" duplicates`},
		"name with a newline":    {"name: \"a\\nb\"\n" + job(steps), `1:7: a name must be one line of text`},
		"name that turns round":  {job("    name: \"a\\u202eb\"\n" + steps), `5:11: a name must be one line of text`},
		"long name":              {job("    name: " + strings.Repeat("n", 65536) + "\n" + steps), `5:11: a name has 65536 bytes, the limit is 240`},
		"two jobs of one name":   {"on: push\njobs:\n  a: {name: x, runs-on: linux, steps: [{run: x}]}\n  b: {name: x, runs-on: linux, steps: [{run: x}]}\n", `4:13: the full name ".ci/workflows/t.yml / x" is also that of job "a"`},
		"expression in the name": {"name: ${{ github.ref }}\n" + job(steps), `1:7: an expression is not supported here`},

		"timeout 0":               {job("    timeout-minutes: 0\n" + steps), `5:22: value at "timeout-minutes" must be greater than zero`},
		"timeout below 0":         {job("    timeout-minutes: -1\n" + steps), `5:22: value at "timeout-minutes" must be greater than zero`},
		"timeout too long":        {job("    timeout-minutes: 4321\n" + steps), `5:22: a timeout must be a number of minutes above 0 and at most 4320`},
		"timeout without end":     {job("    timeout-minutes: .inf\n" + steps), `5:22: the plain value .inf means something else`},
		"timeout not a number":    {job("    timeout-minutes: soon\n" + steps), `5:22: expecting a single ${{...}} expression or float number literal`},
		"timeout by expression":   {job("    timeout-minutes: ${{ github.ref }}\n" + steps), `5:22: a timeout must be a number`},
		"step timeout":            {job("    steps: [{run: x, timeout-minutes: 1e9}]\n"), `5:39: the plain value 1e9 means something else`},
		"fail-fast by expression": {job("    strategy: {fail-fast: '${{ github.ref }}', matrix: {a: [1]}}\n" + steps), `5:27: an expression is not supported here`},

		"other action":                {job("    steps: [{uses: actions/cache@v4}]\n"), `5:20: uses "actions/cache@v4" is not supported`},
		"local action":                {job("    steps: [{uses: ./x}]\n"), `5:20: uses "./x" is not supported`},
		"docker action":               {job("    steps: [{uses: 'docker://x'}]\n"), `5:20: uses "docker://x" is not supported`},
		"action without version":      {job("    steps: [{uses: actions/checkout}]\n"), `5:20: uses "actions/checkout" is not supported`},
		"part of an action":           {job("    steps: [{uses: actions/checkout/x@v4}]\n"), `5:20: uses "actions/checkout/x@v4" is not supported`},
		"whole history":               {job("    steps: [{uses: actions/checkout@v4, with: {fetch-depth: 0}}]\n"), `5:61: input "fetch-depth" of actions/checkout may only be 1 here, not "0"`},
		"another repository":          {job("    steps: [{uses: actions/checkout@v4, with: {repository: a/b}}]\n"), `5:48: input "repository" of actions/checkout is not supported`},
		"submodules":                  {job("    steps: [{uses: actions/checkout@v4, with: {submodules: recursive}}]\n"), `5:60: input "submodules" of actions/checkout may only be false here`},
		"cache of setup-go":           {job("    steps: [{uses: actions/setup-go@v5, with: {go-version: 1.25, cache: true}}]\n"), `5:73: input "cache" of actions/setup-go may only be false here`},
		"two versions of Go":          {job("    steps: [{uses: actions/setup-go@v5, with: {go-version: 1.25, go-version-file: go.mod}}]\n"), `5:66: go-version and go-version-file cannot both be given`},
		"version file outside":        {job("    steps: [{uses: actions/setup-go@v5, with: {go-version-file: ../go.mod}}]\n"), `5:65: "../go.mod" is not a file of the repository`},
		"version that vanished":       {job("    steps: [{uses: actions/setup-go@v5, with: {go-version: ''}}]\n"), `5:60: input "go-version" of actions/setup-go is empty`},
		"run and uses":                {job("    steps: [{run: x, uses: actions/checkout@v4}]\n"), `5:14: unexpected key "run" for step to execute action`},
		"with of a script":            {job("    steps: [{run: x, with: {a: b}}]\n"), `5:22: unexpected key "with" for step to run shell command`},
		"a step of nothing":           {job("    steps: [{name: x}]\n"), `5:13: step must run script`},
		"a file that is not there":    {job("    steps: [{run: 'echo a=b | tee -a $GITHUB_OUTPUT'}]\n"), `5:19: GITHUB_OUTPUT is not supported: what a script writes there would be lost`},
		"an empty script":             {job("    steps: [{run: ' '}]\n"), `5:19: the script is empty`},
		"other shell":                 {job("    steps: [{run: x, shell: pwsh}]\n"), `5:29: shell "pwsh" is not supported (supported: bash, sh)`},
		"shell with arguments":        {job("    steps: [{run: x, shell: 'bash {0}'}]\n"), `5:29: shell "bash {0}" is not supported`},
		"folder outside":              {job("    steps: [{run: x, working-directory: a/../../b}]\n"), `5:41: "a/../../b" is not a folder of the repository`},
		"absolute folder":             {job("    steps: [{run: x, working-directory: /etc}]\n"), `5:41: "/etc" is not a folder of the repository`},
		"deprecated command":          {job("    steps: [{run: 'echo ::set-output name=a::b'}]\n"), `5:19: workflow command "set-output" was deprecated`},
		"variable name with =":        {job("    env: {'a=b': c}\n" + steps), `5:11: "a=b" cannot be the name of an environment variable`},
		"variable name by expression": {job("    env: {'${{ github.ref }}': c}\n" + steps), `5:11: "${{ github.ref }}" cannot be the name`},
		"env by expression":           {job("    env: ${{ github.env }}\n" + steps), "5:10: an expression is not supported here"},

		"matrix by expression":  {job("    strategy: {matrix: '${{ fromJSON(1) }}'}\n" + steps), `5:24: an expression is not supported here`},
		"row by expression":     {job("    strategy: {matrix: {a: '${{ fromJSON(1) }}'}}\n" + steps), `5:28: an expression is not supported here`},
		"include by expression": {job("    strategy: {matrix: {a: [1], include: '${{ fromJSON(1) }}'}}\n" + steps), `5:42: an expression is not supported here`},
		"entry by expression":   {job("    strategy: {matrix: {include: ['${{ fromJSON(1) }}']}}\n" + steps), `5:35: an expression is not supported here`},
		"row of mappings":       {job("    strategy: {matrix: {a: [{b: c}]}}\n" + steps), `5:29: a mapping is not supported here`},
		"row of lists":          {job("    strategy: {matrix: {a: [[b]]}}\n" + steps), `5:29: a list is not supported here`},
		"nothing left":          {job("    strategy: {matrix: {a: [1], exclude: [{a: 1}]}}\n" + steps), `5:16: the matrix has no combination left`},
		"exclude of nothing":    {job("    strategy: {matrix: {a: [1], exclude: [{a: 2}]}}\n" + steps), `5:47: value "2" in "exclude" does not match`},
		"one value twice":       {job("    strategy: {matrix: {a: [1, 1]}}\n" + steps), "5:32: duplicate value \"1\""},
		"257 jobs":              {job("    strategy: {matrix: {a: [" + count(257) + "]}}\n" + steps), `5:16: the matrix has 257 combinations, the limit is 256`},
		"a million jobs":        {job("    strategy: {matrix: {a: [" + count(1000) + "], b: [" + count(1000) + "]}}\n" + steps), `5:16: the matrix has more than 2560 combinations`},
		"1001 values":           {job("    strategy: {matrix: {a: [" + count(1001) + "]}}\n" + steps), `5:28: more than 1000 entries`},
		"256 jobs and one":      {job("    strategy: {matrix: {a: ["+count(256)+"]}}\n"+steps) + "  b: {runs-on: linux, steps: [{run: x}]}\n", `1:1: the workflow has 257 jobs, the limit is 256`},

		"secrets":                  {job("    steps: [{run: 'x ${{ secrets.A }}'}]\n"), `5:22: context "secrets" is not supported in expressions (supported: matrix.<name>, env.<NAME>, github.<name>)`},
		"steps":                    {job("    steps: [{run: 'x ${{ steps.a.outputs.b }}'}]\n"), `5:22: context "steps" is not supported`},
		"needs context":            {job("    steps: [{run: 'x ${{ needs.a.result }}'}]\n"), `5:22: context "needs" is not supported`},
		"runner context":           {job("    steps: [{run: 'x ${{ runner.os }}'}]\n"), `5:22: context "runner" is not supported`},
		"function":                 {job("    steps: [{run: 'x ${{ hashFiles(github.sha) }}'}]\n"), `5:22: function "hashFiles" is not supported`},
		"operator":                 {job("    steps: [{run: 'x ${{ github.sha == 1 }}'}]\n"), `5:22: this kind of expression is not supported`},
		"literal":                  {job("    steps: [{run: 'x ${{ true }}'}]\n"), `5:22: this kind of expression is not supported`},
		"whole context":            {job("    steps: [{run: 'x ${{ github }}'}]\n"), `5:22: this kind of expression is not supported`},
		"index":                    {job("    steps: [{run: \"x${{ github['sha'] }}\"}]\n"), "5:21: this kind of expression is not supported"},
		"deeper":                   {job("    steps: [{run: 'x ${{ github.event.number }}'}]\n"), `5:22: this kind of expression is not supported`},
		"other fact":               {job("    steps: [{run: 'x ${{ github.token }}'}]\n"), `5:22: github.token is not supported (supported: sha, ref, ref_name, event_name, repository, actor)`},
		"unset variable":           {job("    steps: [{run: 'x ${{ env.HOME }}'}]\n"), `5:22: env.home is not set by this file`},
		"variable of another step": {job("    steps: [{run: x, env: {A: b}}, {run: 'x ${{ env.A }}'}]\n"), `5:45: env.a is not set by this file`},
		"own variable":             {job("    steps: [{run: x, env: {A: b, C: '${{ env.A }}'}}]\n"), `5:38: env.a is not set by this file`},
		"env where it is not":      {"env: {A: b}\n" + job("    env: {B: '${{ env.A }}'}\n"+steps), `6:15: env is not available here`},
		"matrix without one":       {job("    steps: [{run: 'x ${{ matrix.a }}'}]\n"), `5:22: there is no matrix here`},
		"unknown matrix value":     {job("    strategy: {matrix: {a: [1]}}\n    steps: [{run: 'x ${{ matrix.b }}'}]\n"), `6:22: the matrix has no "b"`},
		"matrix in the workflow":   {"env: {A: '${{ matrix.a }}'}\n" + job(steps), `1:11: there is no matrix here`},
		"not closed":               {job("    steps: [{run: 'x ${{ github.sha '}]\n"), `5:22: the expression cannot be read`},
		"not read":                 {job("    steps: [{run: 'x ${{ github. }}'}]\n"), `5:22: the expression cannot be read`},
		"empty expression":         {job("    steps: [{run: 'x ${{ }}'}]\n"), `5:22: the expression cannot be read`},
		"second of a block":        {job("    steps:\n      - run: |\n          a ${{ github.sha }}\n\n          ä ${{ secrets.A }}\n"), `9:13: context "secrets" is not supported`},
		"written with escapes":     {job("    steps: [{run: \"\\x24{{ secrets.A }}\"}]\n"), `5:19: context "secrets" is not supported`},

		"empty file":              {"", "1:1: the file is empty"},
		"only a comment":          {"# nothing\n", "1:1: the file is empty"},
		"only a value":            {"x", `1:1: "workflow" section is scalar node`},
		"list":                    {"[a]", "1:1: a list is not supported here"},
		"LFS pointer":             {"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n", `1:1: "workflow" section is scalar node`},
		"byte order mark":         {"\ufeffon: push\n", "1:1: the file is not plain UTF-8 text"},
		"UTF-16":                  {"\xff\xfeo\x00n\x00", "1:1: the file is not plain UTF-8 text"},
		"NUL":                     {"on: push\n\n  \x00", "3:3: the file is not plain UTF-8 text"},
		"escaped NUL":             {job("    steps: [{run: \"a\\0b\"}]\n"), "5:19: NUL is not supported"},
		"escaped NUL in a key":    {job("    env: {\"a\\0b\": c}\n" + steps), "5:11: NUL is not supported"},
		"broken UTF-8":            {"on: push # \xc3", "1:12: the file is not plain UTF-8 text"},
		"too big":                 {"on: push\n#" + strings.Repeat("x", 256<<10), "1:1: the file has 262154 bytes, the limit is 262144"},
		"open list":               {job("    steps:\n      - run: [echo\n"), "6:14: not YAML: did not find expected ',' or ']'"},
		"open mapping":            {job("    env: {A: b\n" + steps), "5:10: not YAML: did not find expected ',' or '}'"},
		"too little indented":     {job("    env:\n      A: b\n     B: c\n" + steps), "4:5: not YAML: did not find expected key"},
		"two colons":              {"on: push: x\n", "1:9: not YAML: mapping values are not allowed in this context"},
		"tab":                     {"on:\n\t- push\n", "2:1: not YAML: found character that cannot start any token"},
		"two documents":           {job(steps) + "---\na: b\n", "6:1: several YAML documents in one file are not supported"},
		"key twice":               {job(steps + "    env: {}\n    env: {A: b}\n"), "6:10: \"env\" section should not be empty\n7:5: key \"env\" appears twice"},
		"key twice in letters":    {job("    env: {A: b, a: c}\n" + steps), "5:17: key \"a\" is duplicated"},
		"key twice in a matrix":   {job("    strategy: {matrix: {include: [{a: 1, a: 2}]}}\n" + steps), "5:42: key \"a\" appears twice"},
		"anchor":                  {job("    env: &e {A: b}\n" + steps), "5:10: YAML anchors and aliases are not supported"},
		"alias":                   {job("    env: {A: &x b, B: *x}\n" + steps), "5:14: YAML anchors and aliases are not supported\n5:23: YAML anchors"},
		"merge key":               {job("    env: {<<: {A: b}}\n" + steps), "5:11: YAML merge keys are not supported"},
		"tag":                     {job("    env: {A: !!binary aGk=}\n" + steps), `5:14: YAML tags such as "!!binary" are not supported`},
		"tag that means nothing":  {job("    env: {A: !!str b}\n" + steps), `5:14: YAML tags such as "!!str" are not supported`},
		"not a number with a tag": {job("    timeout-minutes: !!float nan\n" + steps), `5:22: YAML tags such as "!!float" are not supported`},
		"list as a key":           {job("    env: {? [a] : b}\n" + steps), "5:13: a key must be plain text"},
		"deep":                    {"on: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000), "1:6: a list is not supported here\n1:36: nested more than 32 levels deep"},
		"1.20":                    {job("    strategy: {matrix: {go: [1.19, 1.20]}}\n" + steps), "5:36: the plain value 1.20 means something else in YAML than it looks like: put it in quotes"},
		"0644":                    {job("    env: {MODE: 0644}\n" + steps), "5:17: the plain value 0644 means something else"},
		"1_000":                   {job("    env: {N: 1_000}\n" + steps), "5:14: the plain value 1_000 means something else"},
		"True":                    {job("    strategy: {fail-fast: True, matrix: {a: [1]}}\n" + steps), "5:27: the plain value True means something else"},
		"null":                    {job("    env: {A: null}\n" + steps), "5:14: the plain value null means something else"},
	} {
		t.Run(name, func(t *testing.T) {
			p := run(t, push, row.file)
			if len(p.Bad) != 1 || len(p.Jobs) != 0 {
				t.Fatalf("planned %d jobs and found %d bad files, want 0 and 1", len(p.Jobs), len(p.Bad))
			}
			got := strings.Split(strings.ReplaceAll(p.Bad[0].Reason(), ".ci/workflows/t.yml:", ""), "\n")
			want := strings.Split(row.want, "\n")
			ok := len(got) == len(want)
			for i := 0; ok && i < len(got); i++ {
				ok = strings.HasPrefix(got[i], want[i])
			}
			if !ok {
				t.Errorf("mistakes:\n%s\nwant them to begin with:\n%s", strings.Join(got, "\n"), row.want)
			}
		})
	}
}

// count is "1, 2, … n".
func count(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, ", %d", i+1)
	}
	return b.String()[2:]
}

func TestValuesThatGrowWithoutEndAreStopped(t *testing.T) {
	big := strings.Repeat("x", 100<<10)
	for name, row := range map[string]struct{ file, want string }{
		"one value":      {"env:\n  A: " + big + "\n" + job("    steps: [{run: '${{ env.A }}${{ env.A }}'}]\n"), "the value is longer than 131072 bytes"},
		"all values":     {"env:\n  A: " + big + "\n" + job("    strategy: {matrix: {a: ["+count(256)+"]}}\n"+steps), "all jobs of the run together have more than 16777216 bytes of values"},
		"all steps":      {job("    strategy: {matrix: {a: [" + count(256) + "]}}\n    steps:\n" + strings.Repeat("    - run: x\n", 1000)), "all jobs of the run together"},
		"too many steps": {job("    steps:\n" + strings.Repeat("    - run: x\n", 1001)), "more than 1000 entries"},
	} {
		t.Run(name, func(t *testing.T) {
			p := run(t, push, row.file)
			if len(p.Bad) != 1 || !strings.Contains(p.Bad[0].Reason(), row.want) {
				t.Errorf("got %+.300v, want a mistake with %q", p, row.want)
			}
		})
	}
}

func TestARunHasALimitOfFilesAndJobs(t *testing.T) {
	var files []plan.File
	for i := range 110 {
		files = append(files, plan.File{Path: fmt.Sprintf("%03d.yml", i),
			Content: []byte(job("    strategy: {matrix: {a: [" + count(12) + "]}}\n" + steps))})
	}
	p, err := plan.Make(files, push, labels)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Jobs) != 996 {
		t.Errorf("planned %d jobs, want the 996 of 83 files", len(p.Jobs))
	}
	if n := len(p.Bad); n != 18 || !strings.Contains(p.Bad[0].Reason(), "more than 1000 jobs") || !strings.Contains(p.Bad[n-1].Reason(), "more than 100 workflow files") {
		t.Errorf("%d bad files: %v … %v", n, p.Bad[0].Reason(), p.Bad[n-1].Reason())
	}
}

func TestAReasonHasRoomForSoMuch(t *testing.T) {
	p := run(t, push, job("    steps:\n"+strings.Repeat("    - {run: x, if: y}\n", 200)))
	reason := p.Bad[0].Reason()
	lines := strings.Split(reason, "\n")
	if len(p.Bad[0].Mistakes) != 200 || len(reason) > 4000 || len(lines) < 10 {
		t.Errorf("%d mistakes, %d lines and %d bytes", len(p.Bad[0].Mistakes), len(lines), len(reason))
	}
	told := len(lines) - 1
	if want := fmt.Sprintf("and %d more mistakes from line %d on", 200-told, 6+told); lines[told] != want {
		t.Errorf("the last line is %q, want %q", lines[told], want)
	}
}

func TestAFileOfMistakesIsReadQuickly(t *testing.T) {
	var b strings.Builder
	b.WriteString("on: push\njobs:\n")
	for i := range 900 {
		fmt.Fprintf(&b, " j%d: {x1: , x2: , x3: , x4: , x5: , x6: , x7: , x8: , x9: , if: , uses: , with: , steps: [{}, {}, {}, {}, {}, {}, {}, {}, {}]}\n", i)
	}
	began := time.Now()
	p := run(t, push, b.String())
	if n := len(p.Bad[0].Mistakes); n != 1000 {
		t.Errorf("%d mistakes are kept, want 1000", n)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestTheOrderOfFilesDoesNotMatter(t *testing.T) {
	a := plan.File{Path: "a.yml", Content: []byte(job(steps))}
	b := plan.File{Path: "b.yml", Content: []byte(everything)}
	one, err := plan.Make([]plan.File{a, b}, push, labels)
	if err != nil {
		t.Fatal(err)
	}
	other, err := plan.Make([]plan.File{b, a}, push, labels)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(one, other); diff != "" {
		t.Errorf("plans differ:\n%s", diff)
	}
}

func FuzzMakeNeverPanics(f *testing.F) {
	f.Add(everything, "refs/heads/main")
	f.Add(job("    strategy: {matrix: {a: [1, 2], include: [{a: 1, b: 2}, {c: 3}], exclude: [{a: 2}]}}\n"+steps), "refs/heads/$(id)")
	f.Add("on: {push: {paths: ['**/[a-z]+.go?', '!x']}}\njobs: {a: {uses: x/y@z}}", "refs/tags/v1")
	f.Add("a: &a [*a]\n<<: {}\n---\nb", "")
	f.Add("jobs: {a: {timeout-minutes: !!float nan}}", "")
	f.Fuzz(func(t *testing.T, content, ref string) {
		event := push
		event.Ref = ref
		event.Changed = func() ([]string, bool, error) { return []string{"a/b.go", ref}, true, nil }
		p, err := plan.Make([]plan.File{{Path: "w.yml", Content: []byte(content)}}, event, labels)
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range p.Jobs {
			j.Spec.SourceID = 1
			if _, err := spec.Encode(j.Spec); err != nil {
				t.Errorf("planned, but not fit for a runner: %v", err)
			}
		}
		for _, b := range p.Bad {
			for _, m := range b.Mistakes {
				if m.Line < 1 || m.Column < 1 || m.Message == "" || strings.ContainsAny(m.Message, "\n\x00") {
					t.Errorf("mistake %+v is not fit for a line", m)
				}
			}
		}
	})
}
