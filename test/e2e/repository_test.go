package e2e_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// repository is a real git repository in a folder, with a work tree.
type repository struct {
	t    testing.TB
	name string // owner/name
	dir  string
	head string // the last commit
}

// repository makes one with a first commit of these files (path → content) on branch main. The initializer meets it as
// https://github.com/<name>.
func (s *system) repository(name string, files map[string]string) *repository {
	s.t.Helper()
	r := &repository{t: s.t, name: name, dir: filepath.Join(s.repositories(), name)}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		s.t.Fatalf("make folder of repository: %v", err)
	}
	r.git("init", "--quiet", "--initial-branch=main")
	r.commit(files)
	return r
}

// url is what a run of the repository is stored under.
func (r *repository) url() string { return "https://github.com/" + r.name }

// commit writes the files and commits them.
func (r *repository) commit(files map[string]string) string {
	r.t.Helper()
	for path, content := range files {
		path = filepath.Join(r.dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			r.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o700); err != nil { // scripts are to be run
			r.t.Fatal(err)
		}
	}
	r.git("add", "--all")
	r.git("commit", "--quiet", "--allow-empty", "--message=Teach it a new trick")
	r.head = r.git("rev-parse", "HEAD")
	return r.head
}

func (r *repository) git(args ...string) string {
	r.t.Helper()
	cmd := exec.CommandContext(r.t.Context(), "git", args...)
	cmd.Dir = r.dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + r.dir, "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=ada@example.com", "GIT_COMMITTER_NAME=Ada", "GIT_COMMITTER_EMAIL=ada@example.com",
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// workflow is a repository's files when it has this one workflow, and these beside it.
func workflow(text string, more ...map[string]string) map[string]string {
	files := map[string]string{".github/workflows/ci.yml": text}
	for _, one := range more {
		for path, content := range one {
			files[path] = content
		}
	}
	return files
}

// push tells the gateway of the repository's last commit as GitHub would, and returns the run's id.
func (s *system) push(r *repository) string {
	s.t.Helper()
	code, answer := s.deliver("push", newUUID(), pushPayload(r, "refs/heads/main", r.head))
	if code != http.StatusAccepted || answer.RunID == "" {
		s.t.Fatalf("push was answered with %d %+v, want 202 and a run", code, answer)
	}
	return answer.RunID
}

type delivered struct {
	RunID   string `json:"run_id"`
	Ignored string `json:"ignored"`
	Status  int    `json:"status"` // of a problem
	Code    string `json:"code"`
}

// deliver posts a signed webhook delivery.
func (s *system) deliver(event, delivery string, payload []byte) (int, delivered) {
	s.t.Helper()
	return s.deliverSigned(event, delivery, payload, sign(payload, webhookSecret))
}

func (s *system) deliverSigned(event, delivery string, payload []byte, signature string) (int, delivered) {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, "http://"+s.addr+"/webhooks/github", bytes.NewReader(payload))
	if err != nil {
		s.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "GitHub-Hookshot/044aadd")
	request.Header.Set("X-GitHub-Event", event)
	request.Header.Set("X-GitHub-Delivery", delivery)
	if signature != "" {
		request.Header.Set("X-Hub-Signature-256", signature)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		s.t.Errorf("deliver %s: %v", event, err) // not Fatal: deliveries come from other goroutines too
		return 0, delivered{}
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Errorf("read answer to %s: %v", event, err)
	}
	var answer delivered
	if err := json.Unmarshal(body, &answer); err != nil {
		s.t.Errorf("answer to %s is %d and no JSON: %s", event, response.StatusCode, body)
	}
	return response.StatusCode, answer
}

func sign(payload []byte, secret string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(payload)
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}

func newUUID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	h := hex.EncodeToString(b)
	return strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")
}

// noCommit is what a payload says where there is no commit: before a branch's first push and after its deletion.
const noCommit = "0000000000000000000000000000000000000000"

// pushPayload has the fields that GitHub's push event has (docs.github.com, "Webhook events and payloads"), as far as
// somebody could look at them.
func pushPayload(r *repository, ref, after string) []byte {
	now := time.Now().UTC()
	var commit any
	if after != noCommit {
		commit = map[string]any{
			"id": after, "tree_id": r.git("rev-parse", after+"^{tree}"), "distinct": true, "message": "Teach it a new trick",
			"timestamp": now.Format(time.RFC3339), "url": r.url() + "/commit/" + after,
			"author":    map[string]any{"name": "Ada", "email": "ada@example.com", "username": "ada"},
			"committer": map[string]any{"name": "GitHub", "email": "noreply@github.com", "username": "web-flow"},
			"added":     []string{}, "removed": []string{}, "modified": []string{".github/workflows/ci.yml"},
		}
	}
	commits := []any{}
	if commit != nil {
		commits = append(commits, commit)
	}
	return encode(map[string]any{
		"ref": ref, "before": noCommit, "after": after, "base_ref": nil,
		"created": true, "deleted": after == noCommit, "forced": false,
		"compare": r.url() + "/commit/" + after[:12], "commits": commits, "head_commit": commit,
		"pusher": map[string]any{"name": "ada", "email": "ada@example.com"}, "sender": person("ada"),
		"repository": repositoryPayload(r, now),
	})
}

// pullRequestPayload is a pull request from the repository's own branch, freshly opened.
func pullRequestPayload(r *repository, number int, head, base string) []byte {
	now := time.Now().UTC()
	side := func(ref, sha string) map[string]any {
		return map[string]any{"label": "octo:" + ref, "ref": ref, "sha": sha, "user": person("octo"), "repo": repositoryPayload(r, now)}
	}
	return encode(map[string]any{
		"action": "opened", "number": number,
		"pull_request": map[string]any{
			"id": 1, "number": number, "state": "open", "title": "Teach it a new trick", "user": person("ada"), "draft": false,
			"head": side("trick", head), "base": side("main", base), "merged": false, "commits": 1,
			"html_url": r.url() + "/pull/1", "created_at": now.Format(time.RFC3339), "updated_at": now.Format(time.RFC3339),
		},
		"repository": repositoryPayload(r, now), "sender": person("ada"),
	})
}

func repositoryPayload(r *repository, now time.Time) map[string]any {
	owner, name, _ := strings.Cut(r.name, "/")
	return map[string]any{
		"id": 35129377, "name": name, "full_name": r.name, "private": false, "fork": false,
		"owner": person(owner), "html_url": r.url(), "url": "https://api.github.com/repos/" + r.name,
		"clone_url": r.url() + ".git", "git_url": "git://github.com/" + r.name + ".git", "ssh_url": "git@github.com:" + r.name + ".git",
		"default_branch": "main", "pushed_at": now.Unix(), "visibility": "public",
	}
}

func person(login string) map[string]any {
	return map[string]any{"login": login, "id": 6752317, "type": "User", "html_url": "https://github.com/" + login}
}

func encode(value any) []byte {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err) // maps of strings
	}
	return text
}
