package webhook

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
)

func TestEventsAskForRuns(t *testing.T) {
	const repository = "https://github.com/owner/name"
	sha := func(digit string) string { return strings.Repeat(digit, 40) }
	push := jobs.NewRun{
		Repository: repository, Event: "push", Ref: "refs/heads/main", HeadSHA: sha("2"), BaseSHA: sha("1"),
		Author: "sender", Title: "say hello", Trusted: true,
	}
	pull := jobs.NewRun{
		Repository: repository, Event: "pull_request", Ref: "refs/pull/5/head", HeadSHA: sha("4"),
		BaseRef: "refs/heads/main", BaseSHA: sha("1"), PullRequest: 5,
		Author: "sender", Title: "Say hello", Trusted: true,
	}
	with := func(run jobs.NewRun, change func(*jobs.NewRun)) jobs.NewRun { change(&run); return run }
	tests := []struct {
		name, event, file string
		edit              []string // pairs of old and new
		want              jobs.NewRun
	}{
		{"push", "push", "push.json", nil, push},
		{"push of a new branch", "push", "push.json", []string{sha("1"), sha("0")}, with(push, func(r *jobs.NewRun) { r.BaseSHA = "" })},
		{"push without a head commit", "push", "push.json", []string{"head_commit", "no_commit"}, with(push, func(r *jobs.NewRun) { r.Title = "" })},
		{"an annotated tag", "push", "tag.json", nil, with(push, func(r *jobs.NewRun) { r.Ref, r.BaseSHA = "refs/tags/v1.0.0", "" })},
		{"another server", "push", "push.json", []string{"https://github.com/owner/name", "https://github.example.com/owner/name"},
			with(push, func(r *jobs.NewRun) { r.Repository = "https://github.example.com/owner/name" })},
		{"a message with a NUL", "push", "push.json", []string{"say hello", `say\u0000 \u001b[31mhello`}, with(push, func(r *jobs.NewRun) { r.Title = "say [31mhello" })},
		{"a long message", "push", "push.json", []string{"say hello", strings.Repeat("é", 300)}, with(push, func(r *jobs.NewRun) { r.Title = strings.Repeat("é", 199) + "…" })},
		{"pull request opened", "pull_request", "pull_request.json", nil, pull},
		{"pull request reopened", "pull_request", "pull_request.json", []string{"opened", "reopened"}, pull},
		{"pull request synchronized", "pull_request", "pull_request.json", []string{"opened", "synchronize"}, pull},
		{"pull request ready", "pull_request", "pull_request.json", []string{"opened", "ready_for_review"}, pull},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, ignored, err := parse(test.event, read(t, test.file, test.edit...))
			if err != nil || ignored != "" {
				t.Fatalf("ignored %q, error %v", ignored, err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("run (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOtherEventsAreIgnoredWithTheReason(t *testing.T) {
	fork := []string{`"repo": {"id": 4711, "full_name": "owner/name", "html_url": "https://github.com/owner/name", "created_at": "2024-01-01T00:00:00Z"}
    },
    "base"`, `"repo": {"id": 4712, "full_name": "stranger/name", "html_url": "https://github.com/stranger/name"}
    },
    "base"`}
	renamed := []string{fork[0], strings.Replace(fork[1], "stranger/name", "owner/name", 1)}
	gone := []string{fork[0], `"repo": null},
    "base"`}
	tests := []struct {
		name, event, file string
		edit              []string
		want              string
	}{
		{"ping", "ping", "push.json", nil, "ping: the webhook works"},
		{"an event of no concern", "issues", "push.json", nil, "event issues starts no run"},
		{"a deleted branch", "push", "push.json", []string{`"deleted": false`, `"deleted": true`, strings.Repeat("2", 40), strings.Repeat("0", 40)}, "refs/heads/main was deleted"},
		{"a push of notes", "push", "push.json", []string{"refs/heads/main", "refs/notes/commits"}, "a push to refs/notes/commits starts no run: it is neither a branch nor a tag"},
		{"a labelled pull request", "pull_request", "pull_request.json", []string{"opened", "labeled"}, "pull_request labeled starts no run"},
		{"a fork", "pull_request", "pull_request.json", fork, "pull request 5 comes from a fork; forks start no runs until there is a policy for them"},
		{"a fork by id", "pull_request", "pull_request.json", renamed, "pull request 5 comes from a fork; forks start no runs until there is a policy for them"},
		{"a fork that is gone", "pull_request", "pull_request.json", gone, "pull request 5 comes from a fork; forks start no runs until there is a policy for them"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			run, ignored, err := parse(test.event, read(t, test.file, test.edit...))
			if err != nil || ignored != test.want {
				t.Errorf("run %+v, ignored %q, error %v; want ignored %q", run, ignored, err, test.want)
			}
		})
	}
}

func TestPayloadsThatCannotBeAreErrors(t *testing.T) {
	tests := []struct {
		name, event, file string
		edit              []string
	}{
		{"an array", "push", "", []string{"", "[]"}},
		{"null", "push", "", []string{"", "null"}},
		{"nothing in it", "push", "", []string{"", "{}"}},
		{"no pull request in it", "pull_request", "", []string{"", `{"action":"opened","number":5}`}},
		{"half of it", "push", "", []string{"", `{"ref":"refs/heads/main"`}},
		{"another type", "push", "push.json", []string{`"sender": {"login": "sender", "id": 7}`, `"sender": []`}},
		{"a number too large", "push", "push.json", []string{"4711", "1e400"}},
		{"no commit id", "push", "push.json", []string{strings.Repeat("2", 40), "main"}},
		{"an upper-case commit id", "push", "push.json", []string{strings.Repeat("2", 40), strings.Repeat("A", 40)}},
		{"an option as branch", "push", "push.json", []string{"refs/heads/main", "refs/heads/--upload-pack=touch /tmp/x"}},
		{"a branch above", "push", "push.json", []string{"refs/heads/main", "refs/heads/../../etc"}},
		{"a branch with a NUL", "push", "push.json", []string{"refs/heads/main", `refs/heads/a\u0000`}},
		{"a branch too long", "push", "push.json", []string{"refs/heads/main", "refs/heads/" + strings.Repeat("b", 4096)}},
		{"another name", "push", "push.json", []string{`"full_name": "owner/name"`, `"full_name": "owner/other"`}},
		{"a name with dots", "push", "push.json", []string{"owner/name", "owner/.."}},
		{"a name with a scheme", "push", "push.json", []string{"owner/name", "owner/name@evil"}},
		{"a page of http", "push", "push.json", []string{"https://github.com/owner/name", "http://github.com/owner/name"}},
		{"a page with a user", "push", "push.json", []string{"https://github.com/owner/name", "https://github.com@evil.example/owner/name"}},
		{"a page of an IPv6 address", "push", "push.json", []string{"https://github.com/owner/name", "https://[::1]/owner/name"}},
		{"pull request 0", "pull_request", "pull_request.json", []string{`"number": 5`, `"number": 0`}},
		{"pull request without a head", "pull_request", "pull_request.json", []string{strings.Repeat("4", 40), ""}},
		{"pull request without a base", "pull_request", "pull_request.json", []string{strings.Repeat("1", 40), ""}},
		{"pull request to no branch", "pull_request", "pull_request.json", []string{`"ref": "main"`, `"ref": ""`}},
		{"pull request to an option", "pull_request", "pull_request.json", []string{`"ref": "main"`, `"ref": "--upload-pack=x y"`}},
		{"pull request of another repository", "pull_request", "pull_request.json", []string{`"repository": {"id": 4711, "full_name": "owner/name"`, `"repository": {"id": 4711, "full_name": "owner/other"`}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var payload []byte
			if test.file == "" {
				payload = []byte(test.edit[1])
			} else {
				payload = read(t, test.file, test.edit...)
			}
			if run, ignored, err := parse(test.event, payload); err == nil {
				t.Errorf("run %+v, ignored %q", run, ignored)
			}
		})
	}
}

// read returns a payload of testdata, edited.
func read(t *testing.T, file string, edit ...string) []byte {
	t.Helper()
	content, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	text := string(content)
	for i := 0; i < len(edit); i += 2 {
		if !strings.Contains(text, edit[i]) {
			t.Fatalf("%s holds no %q", file, edit[i])
		}
		text = strings.ReplaceAll(text, edit[i], edit[i+1])
	}
	return []byte(text)
}
