// Package pages serves what people look at: the list of runs and the page that follows one. The pages show the state
// without JavaScript; their scripts then follow it over the WebSocket of package watch.
package pages

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"html/template"
	"io/fs"
	"mime"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strings"
	"time"
	"unicode"

	"go.uber.org/zap"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	lockstepv1 "github.com/lockstep-ci/lockstep/services/api-gateway/gen/lockstep/v1"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/api"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/auth"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/runs"
)

const (
	listed  = 30       // runs on the first page, as many as the socket tells
	excerpt = 16 << 10 // bytes of a failing step's output that the page holds for readers without scripts
)

var (
	//go:embed templates/*.html
	templateFiles embed.FS
	//go:embed static
	staticFiles embed.FS

	templates = template.Must(template.New("").Funcs(template.FuncMap{
		"duration": duration,
		"ms":       ms,
		"rate":     rate,
		"since":    func(t time.Time) string { return duration(&t, nil) },
		"name":     repositoryName,
		"short":    func(sha string) string { return sha[:min(len(sha), 10)] },
		"branch":   branch,
		"iso":      func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"stamp":    func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") },
		"exit": func(code *int32) string {
			if code == nil || *code == 0 {
				return ""
			}
			return fmt.Sprintf("exit code %d", *code)
		},
	}).ParseFS(templateFiles, "templates/*.html"))
)

// Pages serves the pages and what they are made of.
type Pages struct {
	runs   *runs.Service
	calls  *api.Service
	log    *zap.Logger
	assets map[string]asset
}

type asset struct {
	content []byte
	etag    string
}

// New shows what service knows, and what calls answer.
func New(service *runs.Service, calls *api.Service, log *zap.Logger) *Pages {
	p := &Pages{runs: service, calls: calls, log: log, assets: map[string]asset{}}
	files, _ := fs.Glob(staticFiles, "static/*") // the pattern is right
	for _, name := range files {
		content, err := staticFiles.ReadFile(name)
		if err != nil {
			panic(err) // part of the binary
		}
		sum := sha256.Sum256(content)
		p.assets[path.Base(name)] = asset{content, `"` + hex.EncodeToString(sum[:8]) + `"`}
	}
	return p
}

// Index answers GET /: the latest runs.
func (p *Pages) Index(w http.ResponseWriter, r *http.Request) {
	list, err := p.runs.Summaries(r.Context(), auth.From(r.Context()).Repository, listed)
	page := indexPage{Runs: list}
	if err == nil && auth.From(r.Context()).Name != auth.Anonymous {
		waiting, failed := p.calls.ListApprovals(r.Context(), &lockstepv1.ListApprovalsRequest{})
		page.Waiting, err = waiting.GetApprovals(), failed
	}
	p.show(w, r, "index.html", page, err)
}

// indexPage is the latest runs, and what forks ask of those who are signed in.
type indexPage struct {
	Runs    []runs.Summary
	Waiting []*lockstepv1.Approval
}

// Run answers GET /run/{id}.
func (p *Pages) Run(w http.ResponseWriter, r *http.Request) {
	id, valid := runs.ParseID(r.PathValue("id"))
	if !valid {
		p.show(w, r, "run.html", nil, jobs.ErrNotFound)
		return
	}
	run, err := p.runs.Get(r.Context(), id)
	if err == nil && !auth.From(r.Context()).Sees(run.Repository) {
		err = jobs.ErrNotFound
	}
	if err != nil {
		p.show(w, r, "run.html", nil, err)
		return
	}
	output, err := p.runs.FailedOutput(r.Context(), id, excerpt)
	page := runPage{Run: run, output: output}
	p.show(w, r, "run.html", page, err)
}

// runPage is a run, and why it failed for those who read it without scripts.
type runPage struct {
	runs.Run
	output map[string][]byte // of failing steps, by job id
}

var escapes = regexp.MustCompile(`\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-Z\\^_])`)

// Output is the end of what the failing step of a job printed, without terminal escapes; empty for other steps.
func (p runPage) Output(job runs.Job, step runs.Step) string {
	if step.Status != "failure" && step.Status != "error" {
		return ""
	}
	text := escapes.ReplaceAllString(strings.ToValidUTF8(string(p.output[job.ID]), "\uFFFD"), "")
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return -1
		}
		return r
	}, text)
}

// Static answers GET /static/{file}.
func (p *Pages) Static(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("file")
	found, ok := p.assets[name]
	if !ok {
		return problem.New(http.StatusNotFound, "not_found", "there is no such file")
	}
	w.Header().Set("Content-Type", mime.TypeByExtension(path.Ext(name)))
	w.Header().Set("Cache-Control", "no-cache") // ask each time: the answer is 304 until the next release
	w.Header().Set("ETag", found.etag)
	http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(found.content))
	return nil
}

// frame is a page, and whom it is shown to.
type frame struct {
	Account account
	Page    any
}

type account struct {
	Name string // of who has signed in
	In   string // where who has not may do so
}

// accountOf tells nobody who shows a token with each request: he has no session.
func accountOf(r *http.Request) account {
	who := auth.From(r.Context()).Name
	if who == auth.Anonymous {
		return account{In: LoginPath(r)}
	}
	if name, signedIn := strings.CutPrefix(who, auth.SessionOf); signedIn {
		return account{Name: name}
	}
	return account{}
}

// LoginPath is where one signs in to see what a request asks for.
func LoginPath(r *http.Request) string {
	return "/login?" + url.Values{"next": {r.URL.RequestURI()}}.Encode()
}

// LoginForm is where to go afterwards, and whether one may sign in with GitHub.
type LoginForm struct {
	Next   string
	GitHub bool
	Wrong  *problem.Problem
}

// Login shows the page where one signs in, and what was wrong with the last try.
func (p *Pages) Login(w http.ResponseWriter, r *http.Request, form LoginForm, err error) {
	status := http.StatusOK
	if err != nil {
		form.Wrong = p.wrong(w, r, err)
		status = form.Wrong.Status
	}
	p.write(w, r, status, "login.html", frame{Page: form})
}

// show answers with a page, or with one that says why there is none.
func (p *Pages) show(w http.ResponseWriter, r *http.Request, name string, data any, err error) {
	status := http.StatusOK
	if err != nil {
		wrong := p.wrong(w, r, err)
		status, name, data = wrong.Status, "problem.html", wrong
	}
	p.write(w, r, status, name, frame{accountOf(r), data})
}

func (p *Pages) wrong(w http.ResponseWriter, r *http.Request, err error) *problem.Problem {
	wrong := problem.Of(err)
	problem.Log(r.Context(), p.log, r.Method+" "+r.URL.Path, err)
	problem.Headers(w, wrong)
	return wrong
}

func (p *Pages) write(w http.ResponseWriter, r *http.Request, status int, name string, data frame) {
	var page bytes.Buffer // whole, or not at all
	if err := templates.ExecuteTemplate(&page, name, data); err != nil {
		problem.Write(w, r, p.log, err)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(page.Bytes()) // a client that has gone needs no answer
}

// duration is how long something took, or has taken so far: 850 ms, 12 s, 3 min 20 s, 1 h 5 min.
func duration(from, to *time.Time) string {
	if from == nil {
		return ""
	}
	end := time.Now()
	if to != nil {
		end = *to
	}
	d := max(end.Sub(*from), 0)
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Hour:
		return d.Round(time.Second).String()
	}
	return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
}

// repositoryName is what people call a repository: owner/name.
func repositoryName(full string) string {
	if rest, ok := strings.CutPrefix(full, "https://"); ok {
		_, rest, _ = strings.Cut(rest, "/")
		return rest
	}
	return path.Base(full)
}

// branch is a ref without the folder that every branch or tag is in.
func branch(ref string) string {
	return strings.TrimPrefix(strings.TrimPrefix(ref, "refs/heads/"), "refs/tags/")
}
