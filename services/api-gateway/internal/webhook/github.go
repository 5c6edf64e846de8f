package webhook

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"unicode"

	"github.com/google/go-github/v60/github"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/runs"
)

// parse reads what an event asks for: a run, or nothing and the reason. An error is a payload that cannot be GitHub's.
func parse(event string, payload []byte) (run jobs.NewRun, ignored string, err error) {
	switch event {
	case "push", "pull_request":
	case "ping":
		return run, "ping: the webhook works", nil
	default:
		return run, "event " + clip(event, 100) + " starts no run", nil
	}
	parsed, err := github.ParseWebHook(event, payload)
	if err != nil {
		return run, "", fmt.Errorf("read the %s payload: %w", event, err)
	}
	switch e := parsed.(type) {
	case *github.PushEvent:
		return push(e)
	case *github.PullRequestEvent:
		return pullRequest(e)
	}
	return run, "", fmt.Errorf("read the %s payload: it is a %T", event, parsed)
}

func push(e *github.PushEvent) (run jobs.NewRun, ignored string, err error) {
	ref, head := e.GetRef(), e.GetAfter()
	tag := strings.HasPrefix(ref, "refs/tags/")
	switch {
	case !strings.HasPrefix(ref, "refs/"):
		return run, "", errors.New("ref: not a full ref")
	case !tag && !strings.HasPrefix(ref, "refs/heads/"):
		return run, "a push to " + clip(ref, 255) + " starts no run: it is neither a branch nor a tag", nil
	case e.GetDeleted():
		return run, clip(ref, 255) + " was deleted", nil
	}
	if err := runs.CheckRef(ref); err != nil {
		return run, "", fmt.Errorf("ref: %w", err)
	}
	if commit := e.GetHeadCommit().GetID(); tag && commit != "" {
		head = commit // after is the tag object where the tag is annotated
	}
	if !runs.IsSHA(head) {
		return run, "", errors.New("after: not a commit id")
	}
	base := e.GetBefore()
	if tag || !runs.IsSHA(base) || strings.Trim(base, "0") == "" { // a new branch follows nothing
		base = ""
	}
	repository, err := repositoryURL(e.GetRepo().GetFullName(), e.GetRepo().GetHTMLURL())
	if err != nil {
		return run, "", err
	}
	return jobs.NewRun{
		Repository: repository, Event: "push", Ref: ref, HeadSHA: head, BaseSHA: base,
		Author: clip(e.GetSender().GetLogin(), 100), Title: title(e.GetHeadCommit().GetMessage()), Trusted: true,
	}, "", nil
}

func pullRequest(e *github.PullRequestEvent) (run jobs.NewRun, ignored string, err error) {
	switch e.GetAction() {
	case "opened", "reopened", "synchronize", "ready_for_review":
	default:
		return run, "pull_request " + clip(e.GetAction(), 100) + " starts no run", nil
	}
	number, pr := e.GetNumber(), e.GetPullRequest()
	home, head := pr.GetBase().GetRepo(), pr.GetHead().GetRepo()
	switch {
	case number < 1 || number > 1<<31-1:
		return run, "", errors.New("number: not the number of a pull request")
	case home.GetFullName() != e.GetRepo().GetFullName():
		return run, "", errors.New("pull_request.base.repo: not the repository of the event")
	case !runs.IsSHA(pr.GetHead().GetSHA()):
		return run, "", errors.New("pull_request.head.sha: not a commit id")
	case !runs.IsSHA(pr.GetBase().GetSHA()):
		return run, "", errors.New("pull_request.base.sha: not a commit id")
	}
	baseRef := "refs/heads/" + pr.GetBase().GetRef()
	if err := runs.CheckRef(baseRef); err != nil {
		return run, "", fmt.Errorf("pull_request.base.ref: %w", err)
	}
	repository, err := repositoryURL(home.GetFullName(), home.GetHTMLURL())
	if err != nil {
		return run, "", err
	}
	// A fork is a head repository that is not the base's, or is gone. What it holds is hostile to the base's secrets.
	if head.GetFullName() != home.GetFullName() || head.GetID() != home.GetID() {
		return run, fmt.Sprintf("pull request %d comes from a fork; forks start no runs until there is a policy for them", number), nil
	}
	return jobs.NewRun{
		Repository: repository, Event: "pull_request", Ref: fmt.Sprintf("refs/pull/%d/head", number),
		HeadSHA: pr.GetHead().GetSHA(), BaseRef: baseRef, BaseSHA: pr.GetBase().GetSHA(), PullRequest: number,
		Author: clip(e.GetSender().GetLogin(), 100), Title: title(pr.GetTitle()), Trusted: true,
	}, "", nil
}

var fullName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}/[A-Za-z0-9_.-]{1,100}$`)

// repositoryURL builds the repository's address from its name and the host of its page. clone_url is never used: it may
// say anything.
func repositoryURL(name, page string) (string, error) {
	u, err := url.Parse(page)
	if err != nil || u.Scheme != "https" || u.User != nil || u.Path != "/"+name {
		return "", errors.New("repository.html_url: not https://host/ and the full name")
	}
	if !fullName.MatchString(name) {
		return "", errors.New("repository.full_name: not owner/name")
	}
	canonical, err := runs.Repository("https://" + u.Host + "/" + name)
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
