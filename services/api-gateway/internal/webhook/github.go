package webhook

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/runs"
)

// wish is what a delivery asks for: the first of these that is set; when ignored is, nothing, and that is the reason.
type wish struct {
	ignored    string
	repository string // its URL; what follows is about it
	formerly   string // the URL that it had until now
	rerun      string // the commit whose newest run is to be run again
	withdraw   int32  // the fork's pull request that was closed
	run        jobs.NewRun
	fork       bool // the run is of a stranger's code

	githubID                                      int64     // GitHub's number of the repository
	sender                                        int64     // and of the account that asked
	owner, organization, enterprise, installation int64     // and of whom a hook may belong to
	at                                            time.Time // of a fork's pull request: when it was as it is told, by GitHub's clock
}

func ignore(format string, args ...any) (wish, error) {
	return wish{ignored: fmt.Sprintf(format, args...)}, nil
}

// payload is what is read of any event. Whatever else GitHub tells is not looked at.
type payload struct {
	Action       string                     `json:"action"`
	Ref          string                     `json:"ref"`
	Before       string                     `json:"before"`
	After        string                     `json:"after"`
	Deleted      bool                       `json:"deleted"`
	HeadCommit   commit                     `json:"head_commit"`
	Number       int64                      `json:"number"`
	PullRequest  pullRequest                `json:"pull_request"`
	CheckRun     check                      `json:"check_run"`
	CheckSuite   check                      `json:"check_suite"`
	Inputs       map[string]json.RawMessage `json:"inputs"`
	Changes      changes                    `json:"changes"`
	Repository   repository                 `json:"repository"`
	Sender       account                    `json:"sender"`
	Organization account                    `json:"organization"`
	Enterprise   account                    `json:"enterprise"`
	Installation account                    `json:"installation"`
}

type (
	account struct {
		ID    int64  `json:"id"`
		Login string `json:"login"`
	}
	repository struct {
		ID       int64   `json:"id"`
		FullName string  `json:"full_name"`
		HTMLURL  string  `json:"html_url"`
		Owner    account `json:"owner"`
	}
	commit struct {
		ID      string `json:"id"`
		Message string `json:"message"`
	}
	pullRequest struct {
		Title     string    `json:"title"`
		Head      end       `json:"head"`
		Base      end       `json:"base"`
		UpdatedAt time.Time `json:"updated_at"`
	}
	end struct {
		Ref  string     `json:"ref"`
		SHA  string     `json:"sha"`
		Repo repository `json:"repo"` // null: it is gone
	}
	check struct {
		HeadSHA string `json:"head_sha"`
	}
	changes struct {
		Repository struct {
			Name was `json:"name"`
		} `json:"repository"`
		Owner struct {
			From struct {
				User         account `json:"user"`
				Organization account `json:"organization"`
			} `json:"from"`
		} `json:"owner"`
	}
	was struct {
		From string `json:"from"`
	}
)

// readers has the events that may ask for something; others ask for nothing, and are not read.
var readers = map[string]func(*payload) (wish, error){
	"push":              (*payload).push,
	"pull_request":      (*payload).pull,
	"check_run":         func(p *payload) (wish, error) { return p.rerequested("check_run", p.CheckRun.HeadSHA) },
	"check_suite":       func(p *payload) (wish, error) { return p.rerequested("check_suite", p.CheckSuite.HeadSHA) },
	"workflow_dispatch": (*payload).dispatch,
	"repository":        (*payload).moved,
}

// others says why events that we know of ask for nothing.
var others = map[string]string{
	"ping":                      "ping: the webhook works",
	"create":                    "create starts no run: the push of the same branch or tag does",
	"delete":                    "delete starts no run",
	"installation":              "installation: nothing is to be set up here",
	"installation_repositories": "installation_repositories: nothing is to be set up here, a repository's first delivery makes it known",
}

// parse reads what an event asks for. An error is a payload that cannot be GitHub's.
func parse(event string, text []byte) (wish, error) {
	reader, known := readers[event]
	if !known {
		if why, known := others[event]; known {
			return ignore("%s", why)
		}
		return ignore("event %s starts no run", clip(event, 100))
	}
	var p *payload
	err := json.Unmarshal(text, &p)
	switch {
	case !utf8.Valid(text):
		err = errors.New("it is not UTF-8") // which encoding/json would mend
	case err == nil && p == nil:
		err = errors.New("it is null")
	case err == nil:
		err = unambiguous(text)
	}
	if err != nil {
		return wish{}, fmt.Errorf("read the %s payload: %w", event, err)
	}
	w, err := reader(p)
	if err != nil || w.ignored != "" {
		return w, err
	}
	switch {
	case p.Repository.ID < 1:
		return w, errors.New("repository.id: not GitHub's number of a repository")
	case p.Sender.ID < 1:
		return w, errors.New("sender.id: not GitHub's number of an account")
	}
	w.githubID, w.sender = p.Repository.ID, p.Sender.ID
	w.owner, w.organization, w.enterprise, w.installation = p.Repository.Owner.ID, p.Organization.ID, p.Enterprise.ID, p.Installation.ID
	if w.repository, err = p.Repository.url(); err != nil {
		return w, err
	}
	w.run.Repository, w.run.SenderID, w.run.Author = w.repository, w.sender, clip(p.Sender.Login, 100)
	return w, nil
}

func (p *payload) push() (wish, error) {
	tag := strings.HasPrefix(p.Ref, "refs/tags/")
	switch {
	case !strings.HasPrefix(p.Ref, "refs/"):
		return wish{}, errors.New("ref: not a full ref")
	case !tag && !strings.HasPrefix(p.Ref, "refs/heads/"):
		return ignore("a push to %s starts no run: it is neither a branch nor a tag", clip(p.Ref, 255))
	case p.Deleted:
		return ignore("%s was deleted", clip(p.Ref, 255))
	}
	if err := runs.CheckRef(p.Ref); err != nil {
		return wish{}, fmt.Errorf("ref: %w", err)
	}
	head := p.After
	if tag && p.HeadCommit.ID != "" {
		head = p.HeadCommit.ID // after is the tag object where the tag is annotated
	}
	if !isCommit(head) {
		return wish{}, errors.New("after: not a commit id")
	}
	base := p.Before
	if tag || !isCommit(base) { // a new branch follows nothing
		base = ""
	}
	return wish{run: jobs.NewRun{
		Event: "push", Ref: p.Ref, HeadSHA: head, BaseSHA: base, Title: title(p.HeadCommit.Message), Trusted: true,
	}}, nil
}

func (p *payload) pull() (wish, error) {
	head, base := p.PullRequest.Head, p.PullRequest.Base
	// A fork is a head repository that is not the base's, or is gone. What it holds is hostile to the base's secrets.
	w := wish{fork: head.Repo.FullName != base.Repo.FullName || head.Repo.ID != base.Repo.ID, at: p.PullRequest.UpdatedAt}
	switch p.Action {
	case "opened", "reopened", "synchronize", "ready_for_review", "closed":
	default:
		return ignore("pull_request %s starts no run", clip(p.Action, 100))
	}
	switch {
	case p.Number < 1 || p.Number > 1<<31-1:
		return w, errors.New("number: not the number of a pull request")
	case base.Repo.FullName != p.Repository.FullName || base.Repo.ID != p.Repository.ID:
		return w, errors.New("pull_request.base.repo: not the repository of the event")
	case !isCommit(head.SHA):
		return w, errors.New("pull_request.head.sha: not a commit id")
	case !isCommit(base.SHA):
		return w, errors.New("pull_request.base.sha: not a commit id")
	case w.fork && w.at.IsZero():
		return w, errors.New("pull_request.updated_at: is missing")
	}
	if p.Action == "closed" {
		if !w.fork {
			return ignore("pull_request closed starts no run")
		}
		w.withdraw = int32(p.Number)
		return w, nil
	}
	baseRef := "refs/heads/" + base.Ref
	if err := runs.CheckRef(baseRef); err != nil {
		return w, fmt.Errorf("pull_request.base.ref: %w", err)
	}
	w.run = jobs.NewRun{
		Event: "pull_request", Ref: fmt.Sprintf("refs/pull/%d/head", p.Number), HeadSHA: head.SHA, BaseRef: baseRef, BaseSHA: base.SHA,
		PullRequest: int(p.Number), Title: title(p.PullRequest.Title), Trusted: !w.fork,
	}
	return w, nil
}

func (p *payload) rerequested(event, head string) (wish, error) {
	switch {
	case p.Action != "rerequested":
		return ignore("%s %s starts no run", event, clip(p.Action, 100))
	case !isCommit(head):
		return wish{}, fmt.Errorf("%s.head_sha: not a commit id", event)
	}
	return wish{rerun: head}, nil
}

// dispatch starts all workflows that may be started so: a run is of all files of its commit, and inputs are none of ours.
func (p *payload) dispatch() (wish, error) {
	if len(p.Inputs) > 0 {
		return ignore("workflow_dispatch with inputs starts no run: workflows have no inputs here")
	}
	if p.Ref == "" {
		return wish{}, errors.New("ref: is missing")
	}
	if err := runs.CheckRef(p.Ref); err != nil {
		return wish{}, fmt.Errorf("ref: %w", err)
	}
	return wish{run: jobs.NewRun{Event: "workflow_dispatch", Ref: p.Ref, Trusted: true}}, nil
}

func (p *payload) moved() (wish, error) {
	owner, name, _ := strings.Cut(p.Repository.FullName, "/")
	switch p.Action {
	case "renamed":
		name = p.Changes.Repository.Name.From
	case "transferred":
		owner = p.Changes.Owner.From.User.Login + p.Changes.Owner.From.Organization.Login
	default:
		return ignore("repository %s changes nothing here", clip(p.Action, 100))
	}
	before := repository{FullName: owner + "/" + name, HTMLURL: strings.TrimSuffix(p.Repository.HTMLURL, p.Repository.FullName) + owner + "/" + name}
	formerly, err := before.url()
	switch {
	case err != nil:
		return wish{}, fmt.Errorf("changes: no former name in it: %w", err)
	case before.FullName == p.Repository.FullName:
		return ignore("repository %s has its name still", before.FullName)
	}
	return wish{formerly: formerly}, nil
}

// isCommit reports whether text is the full id of a commit. GitHub writes zeros where there is none.
func isCommit(text string) bool { return runs.IsSHA(text) && strings.Trim(text, "0") != "" }

var fullName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}/[A-Za-z0-9_.-]{1,100}$`)

// url builds the repository's address from its name and the host of its page: always https, whatever the page has. clone_url is
// never used: it may say anything.
func (r repository) url() (string, error) {
	u, err := url.Parse(r.HTMLURL)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.User != nil || u.Path != "/"+r.FullName {
		return "", errors.New("repository.html_url: not https://host/ and the full name")
	}
	if !fullName.MatchString(r.FullName) {
		return "", errors.New("repository.full_name: not owner/name")
	}
	canonical, err := runs.Repository("https://" + u.Host + "/" + r.FullName)
	if err != nil {
		return "", fmt.Errorf("repository.full_name: %w", err)
	}
	return canonical, nil
}

// title is the first line of a message.
func title(message string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(message), "\n")
	return clip(line, 200)
}

// clip makes a text of the payload storable and showable: no control characters, at most n characters.
func clip(text string, n int) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(text, ""))
	if short := []rune(text); len(short) > n {
		return string(short[:n-1]) + "…"
	}
	return text
}
