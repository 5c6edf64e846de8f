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
		Author: "sender", SenderID: 7, Title: "say hello", Trusted: true,
	}
	pull := jobs.NewRun{
		Repository: repository, Event: "pull_request", Ref: "refs/pull/5/head", HeadSHA: sha("4"),
		BaseRef: "refs/heads/main", BaseSHA: sha("1"), PullRequest: 5,
		Author: "sender", SenderID: 7, Title: "Say hello", Trusted: true,
	}
	dispatch := jobs.NewRun{
		Repository: repository, Event: "workflow_dispatch", Ref: "refs/heads/main", Author: "sender", SenderID: 7, Trusted: true,
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
		{"a page of a server without TLS", "push", "push.json", []string{"https://github.com/owner/name", "http://github.com/owner/name"}, push},
		{"a message with a NUL", "push", "push.json", []string{"say hello", `say\u0000 \u001b[31mhello`}, with(push, func(r *jobs.NewRun) { r.Title = "say [31mhello" })},
		{"a long message", "push", "push.json", []string{"say hello", strings.Repeat("é", 300)}, with(push, func(r *jobs.NewRun) { r.Title = strings.Repeat("é", 199) + "…" })},
		{"pull request opened", "pull_request", "pull_request.json", nil, pull},
		{"pull request reopened", "pull_request", "pull_request.json", []string{"opened", "reopened"}, pull},
		{"pull request synchronized", "pull_request", "pull_request.json", []string{"opened", "synchronize"}, pull},
		{"pull request ready", "pull_request", "pull_request.json", []string{"opened", "ready_for_review"}, pull},
		{"a dispatch", "workflow_dispatch", "push.json", []string{`"ref"`, `"inputs": {}, "ref"`}, dispatch},
		{"a dispatch on a branch's short name", "workflow_dispatch", "push.json", []string{"refs/heads/main", "main"}, with(dispatch, func(r *jobs.NewRun) { r.Ref = "main" })},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := parse(test.event, read(t, test.file, test.edit...))
			if err != nil || got.ignored != "" || got.fork || got.githubID != 4711 {
				t.Fatalf("%+v, error %v", got, err)
			}
			if diff := cmp.Diff(test.want, got.run); diff != "" {
				t.Errorf("run (-want +got):\n%s", diff)
			}
		})
	}
}

const (
	ownHead = `"repo": {"id": 4711, "full_name": "owner/name", "html_url": "https://github.com/owner/name", "created_at": "2024-01-01T00:00:00Z"}
    },
    "base"`
	strangersHead = `"repo": {"id": 4712, "full_name": "stranger/name", "html_url": "https://github.com/stranger/name"}
    },
    "base"`
)

func TestAForkIsAnotherHeadRepositoryOrNone(t *testing.T) {
	for name, head := range map[string]string{
		"another repository": strangersHead,
		"another number":     strings.Replace(strangersHead, "stranger/name", "owner/name", 1),
		"another name":       strings.Replace(strangersHead, "4712", "4711", 1),
		"gone":               "\"repo\": null},\n    \"base\"",
		"nothing said of it": "\"label\": \"x\"},\n    \"base\"",
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parse("pull_request", read(t, "pull_request.json", ownHead, head))
			if err != nil || !got.fork || got.run.Trusted || got.run.HeadSHA != strings.Repeat("4", 40) || got.run.Repository != "https://github.com/owner/name" || got.at.IsZero() {
				t.Errorf("%+v, %v", got, err)
			}
			closed, err := parse("pull_request", read(t, "pull_request.json", ownHead, head, "opened", "closed"))
			if err != nil || closed.withdraw != 5 {
				t.Errorf("closed: %+v, %v", closed, err)
			}
		})
	}
}

func TestOtherWishes(t *testing.T) {
	check := func(event string) []byte {
		return []byte(`{"action":"rerequested","` + event + `":{"head_sha":"` + strings.Repeat("2", 40) +
			`"},"repository":{"id":4711,"full_name":"owner/name","html_url":"https://github.com/owner/name"},"sender":{"id":7}}`)
	}
	for _, event := range []string{"check_run", "check_suite"} {
		if got, err := parse(event, check(event)); err != nil || got.rerun != strings.Repeat("2", 40) {
			t.Errorf("%s: %+v, %v", event, got, err)
		}
	}
	for name, test := range map[string]struct{ change, want string }{
		"renamed":     {`"action":"renamed","changes":{"repository":{"name":{"from":"before"}}}`, "https://github.com/owner/before"},
		"transferred": {`"action":"transferred","changes":{"owner":{"from":{"user":{"login":"giver"}}}}`, "https://github.com/giver/name"},
		"by a team":   {`"action":"transferred","changes":{"owner":{"from":{"organization":{"login":"team"}}}}`, "https://github.com/team/name"},
	} {
		got, err := parse("repository", read(t, "push.json", `"ref": "refs/heads/main"`, test.change))
		if err != nil || got.formerly != test.want || got.repository != "https://github.com/owner/name" {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestOtherEventsAreIgnoredWithTheReason(t *testing.T) {
	tests := []struct {
		name, event, file string
		edit              []string
		want              string
	}{
		{"ping", "ping", "push.json", nil, "ping: the webhook works"},
		{"an event of no concern", "issues", "push.json", nil, "event issues starts no run"},
		{"create", "create", "push.json", nil, "create starts no run: the push of the same branch or tag does"},
		{"a deleted branch", "push", "push.json", []string{`"deleted": false`, `"deleted": true`, strings.Repeat("2", 40), strings.Repeat("0", 40)}, "refs/heads/main was deleted"},
		{"a push of notes", "push", "push.json", []string{"refs/heads/main", "refs/notes/commits"}, "a push to refs/notes/commits starts no run: it is neither a branch nor a tag"},
		{"a labelled pull request", "pull_request", "pull_request.json", []string{"opened", "labeled"}, "pull_request labeled starts no run"},
		{"a closed pull request", "pull_request", "pull_request.json", []string{"opened", "closed"}, "pull_request closed starts no run"},
		{"a completed check", "check_run", "pull_request.json", []string{"opened", "completed"}, "check_run completed starts no run"},
		{"a dispatch with inputs", "workflow_dispatch", "push.json", []string{`"ref"`, `"inputs": {"level": "high"}, "ref"`}, "workflow_dispatch with inputs starts no run: workflows have no inputs here"},
		{"an archived repository", "repository", "pull_request.json", []string{"opened", "archived"}, "repository archived changes nothing here"},
		{"a rename to itself", "repository", "push.json", []string{`"ref"`, `"action": "renamed", "changes": {"repository": {"name": {"from": "name"}}}, "ref"`}, "repository owner/name has its name still"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := parse(test.event, read(t, test.file, test.edit...))
			if err != nil || got.ignored != test.want {
				t.Errorf("%+v, error %v; want ignored %q", got, err, test.want)
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
