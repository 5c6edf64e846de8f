package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// repository is what a run is asked for: a commit, or what ref names, or what the default branch does.
type repository struct{ url, ref, sha string }

var (
	hasScheme = regexp.MustCompile(`^[a-z][a-z0-9+.-]*://`)
	ownerName = regexp.MustCompile(`^[\w.-]+/[\w.-]+$`)
	commitID  = regexp.MustCompile(`^[0-9a-fA-F]{40}$`)
)

// chooseRepository reads REPO and REF. REPO is a path, a URL, or owner/name on GitHub when no such folder is here;
// empty, it is the example.
func chooseRepository(ctx context.Context, repo, ref, checkout, state string) (chosen repository, err error) {
	chosen.ref = ref
	if commitID.MatchString(ref) {
		chosen.ref, chosen.sha = "", ref
	}
	_, missing := os.Stat(repo)
	switch {
	case repo == "":
		chosen.url, err = exampleRepository(ctx, filepath.Join(checkout, "dev", "example"), filepath.Join(state, "example"))
	case hasScheme.MatchString(repo):
		chosen.url = repo
	case missing != nil && ownerName.MatchString(repo) && !strings.HasPrefix(repo, "."):
		chosen.url = "https://github.com/" + repo
	default:
		chosen.url, err = localRepository(ctx, repo)
	}
	return chosen, err
}

// localRepository is the file URL of a git repository at path, a work tree or a bare one.
func localRepository(ctx context.Context, path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("REPO: %w", err)
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return "", fmt.Errorf("REPO: %w", err)
	}
	bare, err := git(ctx, path, nil, "rev-parse", "--is-bare-repository")
	if err != nil {
		return "", fmt.Errorf("REPO: %s is not a git repository: %w", path, err)
	}
	top := "--show-toplevel"
	if bare == "true" {
		top = "--absolute-git-dir"
	}
	if found, err := git(ctx, path, nil, "rev-parse", top); err != nil {
		return "", fmt.Errorf("REPO: %s: %w", path, err)
	} else if found != path {
		return "", fmt.Errorf("REPO: %s is within the repository %s: name that", path, found)
	}
	if bare == "false" {
		changes, err := git(ctx, path, nil, "status", "--porcelain")
		if err != nil {
			return "", fmt.Errorf("REPO: %s: %w", path, err)
		}
		if changes != "" {
			tell("%s has changes that are not committed: they are not in the run", path)
		}
	}
	return fileURL(path), nil
}

func fileURL(path string) string { return (&url.URL{Scheme: "file", Path: path}).String() }

// exampleRepository brings the bare repository at dir up to the files in the folder example, and returns its URL: one
// commit, and one more only when they have changed.
func exampleRepository(ctx context.Context, example, dir string) (_ string, err error) {
	scratch, err := os.MkdirTemp("", "lockstep-index-") // an index of our own needs no lock that a kill leaves behind
	if err != nil {
		return "", fmt.Errorf("make the example repository: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	env := []string{
		"GIT_INDEX_FILE=" + filepath.Join(scratch, "index"), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_AUTHOR_NAME=Lockstep", "GIT_AUTHOR_EMAIL=example@lockstep.invalid",
		"GIT_COMMITTER_NAME=Lockstep", "GIT_COMMITTER_EMAIL=example@lockstep.invalid",
	}
	do := func(args ...string) string {
		if err != nil {
			return ""
		}
		var out string
		out, err = git(ctx, example, env, append([]string{"--git-dir=" + dir, "--work-tree=" + example}, args...)...)
		return out
	}
	if _, err := git(ctx, "/", env, "init", "--quiet", "--bare", "--template=", dir); err != nil {
		return "", fmt.Errorf("make the example repository: %w", err)
	}
	do("symbolic-ref", "HEAD", "refs/heads/main")
	do("add", "--all")
	tree := do("write-tree")
	commit := []string{"commit-tree", tree, "-m", "Count words"}
	if parent := do("for-each-ref", "--format=%(objectname)", "refs/heads/main"); parent != "" {
		if err == nil && do("rev-parse", parent+"^{tree}") == tree {
			return fileURL(dir), err
		}
		commit = append(commit, "-p", parent)
	}
	do("update-ref", "refs/heads/main", do(commit...))
	if err != nil {
		return "", fmt.Errorf("make the example repository: %w", err)
	}
	return fileURL(dir), nil
}

// git runs git in a folder and returns what it prints, without the last newline.
func git(ctx context.Context, dir string, env []string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	for _, variable := range os.Environ() { // within a git hook or alias these name another repository
		if !strings.HasPrefix(variable, "GIT_") {
			cmd.Env = append(cmd.Env, variable)
		}
	}
	cmd.Env = append(append(cmd.Env, "LC_ALL=C", "GIT_OPTIONAL_LOCKS=0"), env...)
	out, err := cmd.Output()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return "", fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(string(exit.Stderr)))
	}
	if err != nil {
		return "", fmt.Errorf("git %s: %w", args[0], err)
	}
	return strings.TrimSuffix(string(out), "\n"), nil
}
