package git

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Commit is one fetched commit, in a bare repository of its own.
type Commit struct {
	SHA  string // of the commit, also where a tag was asked for
	Tree string // of its tree

	client *Client
	remote remote
	folder string
}

// Fetch brings one commit, without history: sha is 40 hex digits. Close the commit after use.
func (c *Client) Fetch(ctx context.Context, repository, sha string) (*Commit, error) {
	remote, err := c.remote(repository)
	if err != nil {
		return nil, err
	}
	folder, err := os.MkdirTemp(c.folder, "commit-")
	if err != nil {
		return nil, fmt.Errorf("make a folder: %w", err)
	}
	commit := &Commit{client: c, remote: remote, folder: folder}
	if err := commit.fill(ctx, sha); err != nil {
		return nil, errors.Join(err, commit.Close())
	}
	return commit, nil
}

// Close removes the commit's repository.
func (c *Commit) Close() error { return os.RemoveAll(c.folder) }

func (c *Commit) fill(ctx context.Context, sha string) error {
	if err := c.client.git(ctx, command{args: []string{"init", "--bare", "--quiet", c.folder}}); err != nil {
		return err
	}
	// The tree is what was committed: attributes of the repository leave nothing out of the archive and write nothing
	// into it. These win over those of the tree (gitattributes manual).
	info := filepath.Join(c.folder, "info")
	if err := os.MkdirAll(info, 0o700); err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	if err := os.WriteFile(filepath.Join(info, "attributes"), []byte("* -export-ignore -export-subst\n"), 0o600); err != nil {
		return fmt.Errorf("write attributes: %w", err)
	}
	if err := c.fetch(ctx, sha); err != nil {
		return err
	}
	for object, to := range map[string]*string{"^{commit}": &c.SHA, "^{tree}": &c.Tree} {
		out, err := c.output(ctx, "rev-parse", "--verify", "--end-of-options", sha+object)
		var failed *gitError
		if errors.As(err, &failed) {
			return faultf("%s is not a commit", sha)
		} else if err != nil {
			return err
		}
		*to = strings.TrimSpace(out)
	}
	return nil
}

func (c *Commit) fetch(ctx context.Context, sha string) error {
	if !fullSHA.MatchString(sha) {
		return faultf("%.100q is not a commit: want 40 hex digits", sha)
	}
	timeout := c.client.settings.Timeout
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, faultf("the commit could not be fetched within %s", timeout))
	defer cancel()
	err := c.client.git(ctx, command{
		args: []string{"fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head", "--no-auto-maintenance",
			"--end-of-options", c.remote.url, sha},
		folder: c.folder, remote: &c.remote,
	})
	return explain(err)
}

func (c *Commit) output(ctx context.Context, args ...string) (string, error) {
	return c.client.output(ctx, command{args: args, folder: c.folder})
}

// File is a workflow file.
type File struct {
	Path    string
	Content []byte
	Problem string // why there is no content
}

// maxFileBytes is more than a workflow may have; a larger file is not even read.
const maxFileBytes = 256 << 10

// maxFiles is more workflow files than a run may have.
const maxFiles = 200

// Workflows returns the *.yml and *.yaml files of .ci/workflows, or of .github/workflows if the first has none.
func (c *Commit) Workflows(ctx context.Context) ([]File, error) {
	for _, folder := range []string{".ci", ".github"} {
		files, err := c.workflows(ctx, folder)
		if err != nil || len(files) > 0 {
			return files, err
		}
	}
	return nil, nil
}

func (c *Commit) workflows(ctx context.Context, parent string) ([]File, error) {
	folder := parent + "/workflows"
	for _, path := range []string{parent, folder} {
		entries, err := c.list(ctx, path)
		if err != nil {
			return nil, err
		}
		// A plain file in the place of the parent is no business of ours.
		if len(entries) == 1 && !entries[0].isFolder() && (path == folder || !entries[0].isFile()) {
			return nil, faultf("%s %s, not a folder: no workflow can be read there", path, entries[0].kind())
		}
	}
	entries, err := c.list(ctx, folder+"/")
	if err != nil {
		return nil, err
	}
	var files []File
	for _, e := range entries {
		if !strings.HasSuffix(e.path, ".yml") && !strings.HasSuffix(e.path, ".yaml") {
			continue
		}
		if len(files) == maxFiles {
			return nil, faultf("%s has more than %d workflow files", folder, maxFiles)
		}
		f := File{Path: e.path}
		switch {
		case !e.isFile():
			f.Problem = e.kind() + "; a workflow must be a file"
		case e.size > maxFileBytes:
			f.Problem = fmt.Sprintf("the file has %d bytes, the limit is %d", e.size, maxFileBytes)
		default:
			content, err := c.output(ctx, "cat-file", "blob", e.object)
			if err != nil {
				return nil, fmt.Errorf("read workflow %q: %w", e.path, err)
			}
			f.Content = []byte(content)
		}
		files = append(files, f)
	}
	return files, nil
}

// entry is a line of ls-tree.
type entry struct {
	mode, object, path string
	size               int64
}

func (e entry) isFolder() bool { return e.mode == "040000" }
func (e entry) isFile() bool   { return strings.HasPrefix(e.mode, "100") }

// kind is what an entry is, for people.
func (e entry) kind() string {
	switch {
	case e.isFolder():
		return "is a folder"
	case e.isFile():
		return "is a file"
	case e.mode == "120000":
		return "is a symbolic link"
	case e.mode == "160000":
		return "is a submodule"
	}
	return "has mode " + e.mode
}

// list is ls-tree of one path; with a slash at its end, of what is in the folder.
func (c *Commit) list(ctx context.Context, path string) (entries []entry, err error) {
	out, err := c.output(ctx, "ls-tree", "-z", "--long", "--full-tree", c.SHA, "--", path)
	if errors.Is(err, errTooMuch) {
		return nil, faultf("%s has too many files", path)
	}
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", path, err)
	}
	for line := range strings.SplitSeq(strings.TrimSuffix(out, "\x00"), "\x00") {
		about, path, ok := strings.Cut(line, "\t")
		field := strings.Fields(about)
		if !ok || len(field) != 4 {
			continue
		}
		e := entry{mode: field[0], object: field[2], path: path}
		e.size, _ = strconv.ParseInt(field[3], 10, 64) // "-" for what is not a file
		entries = append(entries, e)
	}
	return entries, nil
}

// Changed returns the paths that differ between two commits: those that were added, removed or changed. For a pull
// request that is a little more than what it brings, since its base may have moved on. known is false if the other
// commit is gone, or if the paths are too many to list.
func (c *Commit) Changed(ctx context.Context, base string) (paths []string, known bool, err error) {
	if err := c.fetch(ctx, base); err != nil {
		var fault *Fault
		if errors.As(err, &fault) {
			return nil, false, nil
		}
		return nil, false, fmt.Errorf("fetch the base: %w", err)
	}
	out, err := c.output(ctx, "diff-tree", "-r", "-z", "--name-only", "--end-of-options", base, c.SHA)
	if errors.Is(err, errTooMuch) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("compare with the base: %w", err)
	}
	if out == "" {
		return nil, true, nil
	}
	return strings.Split(strings.TrimSuffix(out, "\x00"), "\x00"), true, nil
}

// Archive writes the tree as a tar file: what was committed, links included, an empty folder for each submodule.
func (c *Commit) Archive(ctx context.Context, to io.Writer) error {
	return c.client.git(ctx, command{args: []string{"archive", "--format=tar", "--end-of-options", c.SHA}, folder: c.folder, out: to})
}
