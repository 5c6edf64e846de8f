// Package gittest makes real repositories for tests.
package gittest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Repository is a bare one, made by the git that is here.
type Repository struct {
	Folder string // …/octo/cat.git
	URL    string // file:///…/octo/cat.git

	t testing.TB
}

// New makes an empty repository with the default branch main.
func New(t testing.TB) *Repository {
	t.Helper()
	r := &Repository{t: t, Folder: filepath.Join(t.TempDir(), "octo", "cat.git")}
	r.URL = "file://" + r.Folder
	if err := os.MkdirAll(r.Folder, 0o700); err != nil {
		t.Fatal(err)
	}
	r.Git("", "init", "--quiet", "--bare", "--initial-branch=main")
	return r
}

// Git runs git in the repository and returns what it says.
func (r *Repository) Git(stdin string, args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = r.Folder
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + r.Folder, "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b.c", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b.c",
	}
	cmd.Stdin = strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		r.t.Fatalf("git %v: %v\n%s", args, err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

// Blob stores a file's content.
func (r *Repository) Blob(content string) string {
	r.t.Helper()
	return r.Git(content, "hash-object", "-w", "--stdin")
}

// Object stores an object that git itself would refuse to make.
func (r *Repository) Object(kind, content string) string {
	r.t.Helper()
	return r.Git(content, "hash-object", "-w", "-t", kind, "--literally", "--stdin")
}

// Node is an entry of a tree: its mode, and its content; of a submodule (160000) the commit.
type Node struct{ Mode, Content string }

// File is a plain file.
func File(content string) Node { return Node{"100644", content} }

// Commit makes a commit of the tree without a parent, points the branch at it and returns it. A path may hold whatever
// git takes.
func (r *Repository) Commit(branch string, tree map[string]Node) string {
	r.t.Helper()
	r.Git("", "read-tree", "--empty")
	var index strings.Builder
	for path, n := range tree {
		object := n.Content
		if n.Mode != "160000" {
			object = r.Blob(n.Content)
		}
		index.WriteString(n.Mode + " " + object + "\t" + path + "\x00")
	}
	r.Git(index.String(), "update-index", "-z", "--index-info")
	return r.CommitTree(branch, r.Git("", "write-tree"))
}

// CommitTree makes a commit of a tree that is there.
func (r *Repository) CommitTree(branch, tree string) string {
	r.t.Helper()
	sha := r.Git("", "commit-tree", "-m", "message", tree)
	r.Git("", "update-ref", "refs/heads/"+branch, sha)
	return sha
}
