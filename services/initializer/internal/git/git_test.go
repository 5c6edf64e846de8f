package git_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-ci/lockstep/services/initializer/internal/git"
	"github.com/lockstep-ci/lockstep/services/initializer/internal/git/gittest"
)

func file(content string) gittest.Node { return as("100644", content) }

func as(mode, content string) gittest.Node { return gittest.Node{Mode: mode, Content: content} }

func open(t *testing.T, change func(*git.Settings)) *git.Client {
	t.Helper()
	settings := git.Settings{AllowFile: true, TokenHost: "github.com", Timeout: time.Minute, MaxBytes: 256 << 20}
	if change != nil {
		change(&settings)
	}
	c, err := git.Open(settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return c
}

func fetch(t *testing.T, c *git.Client, url, sha string) *git.Commit {
	t.Helper()
	commit, err := c.Fetch(t.Context(), url, sha)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := commit.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return commit
}

func wantFault(t *testing.T, err error, text string) {
	t.Helper()
	var fault *git.Fault
	if !errors.As(err, &fault) || !strings.Contains(fault.Error(), text) {
		t.Errorf("got %v, want a fault with %q", err, text)
	}
}

func wantNoFault(t *testing.T, err error, text string) {
	t.Helper()
	var fault *git.Fault
	if err == nil || errors.As(err, &fault) || !strings.Contains(err.Error(), text) {
		t.Errorf("got %v, want an error with %q that is not a fault, so that it is tried again", err, text)
	}
}

func TestNamesAreResolvedToCommits(t *testing.T) {
	r := gittest.New(t)
	first := r.Commit("main", map[string]gittest.Node{"a": file("1")})
	second := r.Commit("dev", map[string]gittest.Node{"a": file("2")})
	r.Git("", "tag", "-a", "-m", "annotated", "v1", second)
	r.Git("", "tag", "light", first)
	r.Git("", "tag", "dev", first)                                 // also a branch
	r.Git("", "update-ref", "refs/heads/x/refs/heads/odd", second) // ends as another name does
	r.Git("", "update-ref", "refs/heads/"+first, second)           // a branch named like a commit
	r.Git("", "update-ref", "refs/pull/7/head", second)
	c := open(t, nil)
	for name, row := range map[string]struct{ ref, full, sha string }{
		"nothing: the default branch":         {"", "refs/heads/main", first},
		"branch":                              {"dev", "refs/heads/dev", second},
		"full name of a branch":               {"refs/heads/main", "refs/heads/main", first},
		"full name of a tag":                  {"refs/tags/dev", "refs/tags/dev", first},
		"annotated tag: its commit":           {"v1", "refs/tags/v1", second},
		"light tag":                           {"light", "refs/tags/light", first},
		"pull request":                        {"refs/pull/7/head", "refs/pull/7/head", second},
		"commit":                              {second, "", second},
		"commit, not the branch of that name": {first, "", first},
		"the branch of that name":             {"refs/heads/" + first, "refs/heads/" + first, second},
	} {
		t.Run(name, func(t *testing.T) {
			full, sha, err := c.Resolve(t.Context(), r.URL, row.ref)
			if err != nil || full != row.full || sha != row.sha {
				t.Errorf("got %q %q %v, want %q %q", full, sha, err, row.full, row.sha)
			}
		})
	}
	for name, ref := range map[string]string{
		"unknown branch":         "nope",
		"only the end of a name": "odd",
		"an option":              "--upload-pack=touch /tmp/x",
		"an option behind refs":  "refs/heads/--upload-pack=x",
		"up":                     "refs/heads/../../etc",
		"a space":                "a b",
		"a newline":              "a\nb",
		"an older commit":        "main~1",
		"another object":         "main:a",
		"a commit in capitals":   strings.ToUpper(first),
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := c.Resolve(t.Context(), r.URL, ref)
			wantFault(t, err, "branch or tag")
		})
	}
}

func TestAPatternIsNoName(t *testing.T) {
	r := gittest.New(t)
	r.Commit("main", map[string]gittest.Node{"a": file("1")})
	c := open(t, nil)
	for _, ref := range []string{"*", "ma*", "m?in", "m[a]in", `m\ain`, strings.Repeat("a", 4096)} {
		_, _, err := c.Resolve(t.Context(), r.URL, ref)
		wantFault(t, err, "cannot be the name of a branch or tag")
	}
}

func TestWhatCannotBeResolvedSaysWhy(t *testing.T) {
	c := open(t, nil)
	empty := gittest.New(t)
	_, _, err := c.Resolve(t.Context(), empty.URL, "")
	wantFault(t, err, "no default branch")
	_, _, err = c.Resolve(t.Context(), empty.URL, "main")
	wantFault(t, err, `no branch or tag "main"`)
	_, _, err = c.Resolve(t.Context(), "file:///nowhere/at/all", "")
	wantFault(t, err, "there is no such repository")
}

func TestOneCommitIsFetchedWithoutItsHistory(t *testing.T) {
	r := gittest.New(t)
	old := r.Commit("main", map[string]gittest.Node{"a": file("1")})
	sha := r.Git("", "commit-tree", "-p", old, "-m", "x", r.Git("", "rev-parse", old+"^{tree}"))
	r.Git("", "update-ref", "refs/heads/main", sha)
	c := open(t, nil)

	commit := fetch(t, c, r.URL, sha)
	if commit.SHA != sha || commit.Tree != r.Git("", "rev-parse", sha+"^{tree}") {
		t.Errorf("got %+v", commit)
	}
	old2 := fetch(t, c, r.URL, old) // no branch's tip
	if old2.SHA != old {
		t.Errorf("got %+v", old2)
	}
	r.Git("", "tag", "-a", "-m", "m", "v1", sha)
	if tag := fetch(t, c, r.URL, r.Git("", "rev-parse", "v1")); tag.SHA != sha {
		t.Errorf("a tag's own id is the commit's: got %s", tag.SHA)
	}
}

func TestWhatIsNotACommitIsAFault(t *testing.T) {
	r := gittest.New(t)
	r.Commit("main", map[string]gittest.Node{"a": file("1")})
	c := open(t, nil)
	for name, row := range map[string]struct{ sha, want string }{
		"unknown":   {strings.Repeat("12", 20), "the commit does not exist"},
		"a blob":    {r.Blob("1"), "is not a commit"},
		"a name":    {"main", "want 40 hex digits"},
		"an option": {"--upload-pack=touch /tmp/x", "want 40 hex digits"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.Fetch(t.Context(), r.URL, row.sha)
			wantFault(t, err, row.want)
		})
	}
}

func TestACommitThatIsTooLargeIsAFault(t *testing.T) {
	r := gittest.New(t)
	noise := make([]byte, 1<<20)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	many := map[string]gittest.Node{} // none of them too large by itself
	for i := range 16 {
		many[strconv.Itoa(i)] = file(string(noise[i<<16 : (i+1)<<16]))
	}
	for name, tree := range map[string]map[string]gittest.Node{"one file": {"a": file(string(noise))}, "many files": many} {
		t.Run(name, func(t *testing.T) {
			sha := r.Commit("main", tree)
			_, err := open(t, func(s *git.Settings) { s.MaxBytes = 512 << 10 }).Fetch(t.Context(), r.URL, sha)
			wantFault(t, err, "larger than a commit may be")
			fetch(t, open(t, func(s *git.Settings) { s.MaxBytes = 2 << 20 }), r.URL, sha)
		})
	}
}

func TestOnlyURLsOfRepositoriesAreTaken(t *testing.T) {
	c := open(t, func(s *git.Settings) { s.AllowFile = false })
	for name, url := range map[string]string{
		"file":              "file:///etc",
		"http":              "http://169.254.169.254/latest/meta",
		"ssh":               "ssh://-oProxyCommand=x/a",
		"scp":               "git@github.com:a/b",
		"ext":               "ext::sh -c touch% /tmp/x",
		"an option":         "--upload-pack=touch /tmp/x",
		"a path":            "/etc",
		"user":              "https://github.com@evil.example/a/b",
		"user and password": "https://a:b@github.com/a/b",
		"query":             "https://github.com/a/b?x=y",
		"fragment":          "https://github.com/a/b#c",
		"newline":           "https://github.com/a/b\nhost=evil",
		"carriage return":   "https://github.com/a/b\r",
		"no host":           "https:///a/b",
		"no path":           "https://github.com/",
		"odd host":          "https://[::1]/a/b",
		"long":              "https://github.com/" + strings.Repeat("a", 3000),
		"empty":             "",
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := c.Resolve(t.Context(), url, "main")
			wantFault(t, err, "")
			_, err = c.Fetch(t.Context(), url, strings.Repeat("0a", 20))
			wantFault(t, err, "")
		})
	}
}

func TestInsteadOfSendsAHostElsewhere(t *testing.T) {
	r := gittest.New(t)
	sha := r.Commit("main", map[string]gittest.Node{"a": file("1")})
	c := open(t, func(s *git.Settings) {
		s.AllowFile = false
		s.InsteadOf.From, s.InsteadOf.To = "https://github.com/octo/", "file://"+filepath.Dir(r.Folder)+"/"
	})
	if _, got, err := c.Resolve(t.Context(), "https://github.com/octo/cat", "main"); err != nil || got != sha { // cat is in cat.git
		t.Errorf("got %s, %v", got, err)
	}
	_, _, err := c.Resolve(t.Context(), r.URL, "main")
	wantFault(t, err, "not allowed here")
}

func TestWorkflowsAreReadFromTheTree(t *testing.T) {
	link := func(to string) gittest.Node { return as("120000", to) }
	for name, row := range map[string]struct {
		tree  map[string]gittest.Node
		want  []git.File
		fault string
	}{
		"none": {tree: map[string]gittest.Node{"a": file("x")}},
		"ours": {tree: map[string]gittest.Node{".ci/workflows/b.yml": file("b"), ".ci/workflows/a.yaml": as("100755", "a"), ".github/workflows/c.yml": file("c")},
			want: []git.File{{Path: ".ci/workflows/a.yaml", Content: []byte("a")}, {Path: ".ci/workflows/b.yml", Content: []byte("b")}}},
		"GitHub's": {tree: map[string]gittest.Node{".ci/workflows/README.md": file("b"), ".github/workflows/c.yml": file("c")},
			want: []git.File{{Path: ".github/workflows/c.yml", Content: []byte("c")}}},
		"not in folders below": {tree: map[string]gittest.Node{".github/workflows/sub/c.yml": file("c")}},
		"a folder named so": {tree: map[string]gittest.Node{".github/workflows/c.yml/x": file("c")},
			want: []git.File{{Path: ".github/workflows/c.yml", Problem: "is a folder; a workflow must be a file"}}},
		"symbolic link": {tree: map[string]gittest.Node{".github/workflows/c.yml": link("/etc/passwd")},
			want: []git.File{{Path: ".github/workflows/c.yml", Problem: "is a symbolic link; a workflow must be a file"}}},
		"submodule": {tree: map[string]gittest.Node{".github/workflows/c.yml": as("160000", strings.Repeat("12", 20))},
			want: []git.File{{Path: ".github/workflows/c.yml", Problem: "is a submodule; a workflow must be a file"}}},
		"too large": {tree: map[string]gittest.Node{".github/workflows/c.yml": file(strings.Repeat("x", 256<<10+1))},
			want: []git.File{{Path: ".github/workflows/c.yml", Problem: "the file has 262145 bytes, the limit is 262144"}}},
		"names that are no text": {tree: map[string]gittest.Node{".github/workflows/a\nb\xff.yml": file("c")},
			want: []git.File{{Path: ".github/workflows/a\nb\xff.yml", Content: []byte("c")}}},
		"folder is a link":      {tree: map[string]gittest.Node{".github/workflows": link("../x"), "x/c.yml": file("c")}, fault: ".github/workflows is a symbolic link, not a folder"},
		"parent is a link":      {tree: map[string]gittest.Node{".ci": link("x"), "x/workflows/c.yml": file("c")}, fault: ".ci is a symbolic link, not a folder"},
		"folder is a submodule": {tree: map[string]gittest.Node{".ci/workflows": as("160000", strings.Repeat("12", 20))}, fault: ".ci/workflows is a submodule, not a folder"},
		"folder is a file":      {tree: map[string]gittest.Node{".ci/workflows": file("x")}, fault: ".ci/workflows is a file, not a folder"},
		"parent is a file": {tree: map[string]gittest.Node{".ci": as("100755", "#!/bin/sh"), ".github/workflows/c.yml": file("c")},
			want: []git.File{{Path: ".github/workflows/c.yml", Content: []byte("c")}}},
	} {
		t.Run(name, func(t *testing.T) {
			r := gittest.New(t)
			commit := fetch(t, open(t, nil), r.URL, r.Commit("main", row.tree))
			got, err := commit.Workflows(t.Context())
			if row.fault != "" {
				wantFault(t, err, row.fault)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(row.want, got); diff != "" {
				t.Errorf("files differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSoManyWorkflowsAreAFault(t *testing.T) {
	r := gittest.New(t)
	tree := map[string]gittest.Node{}
	for i := range 201 {
		tree[".ci/workflows/"+strconv.Itoa(i)+".yml"] = as("120000", "x") // a link: not read, so quick
	}
	commit := fetch(t, open(t, nil), r.URL, r.Commit("main", tree))
	_, err := commit.Workflows(t.Context())
	wantFault(t, err, "more than 200 workflow files")
}

func TestChangedPathsAreThoseOfTheTwoTrees(t *testing.T) {
	r := gittest.New(t)
	base := r.Commit("main", map[string]gittest.Node{"same": file("1"), "changed": file("1"), "removed": file("1"), "moved/from": file("long enough to be the same")})
	sha := r.Commit("dev", map[string]gittest.Node{"same": file("1"), "changed": file("2"), "add\ned\xff": file("1"), "moved/to": file("long enough to be the same")})
	commit := fetch(t, open(t, nil), r.URL, sha)

	paths, known, err := commit.Changed(t.Context(), base)
	if err != nil || !known {
		t.Fatalf("known: %t, %v", known, err)
	}
	if diff := cmp.Diff([]string{"add\ned\xff", "changed", "moved/from", "moved/to", "removed"}, paths); diff != "" {
		t.Errorf("paths differ (-want +got):\n%s", diff)
	}
	if paths, known, err := commit.Changed(t.Context(), sha); err != nil || !known || len(paths) != 0 {
		t.Errorf("nothing changed: got %q, known: %t, %v", paths, known, err)
	}
	if _, known, err := commit.Changed(t.Context(), strings.Repeat("12", 20)); err != nil || known {
		t.Errorf("a base that is gone leaves the changes unknown: got %t, %v", known, err)
	}
}

func TestTheArchiveIsWhatWasCommitted(t *testing.T) {
	r := gittest.New(t)
	sha := r.Commit("main", map[string]gittest.Node{
		".gitattributes":         file("secret export-ignore\nversion export-subst\n*.bin filter=lfs diff=lfs merge=lfs -text\nx filter=evil\n"),
		"secret":                 file("kept"),
		"version":                file("$Format:%H$"),
		"big.bin":                file("version https://git-lfs.github.com/spec/v1\n"),
		"x":                      file("x"),
		"sub/run":                as("100755", "#!/bin/sh\n"),
		"link":                   as("120000", "/etc/passwd"),
		"module":                 as("160000", strings.Repeat("12", 20)),
		".gitmodules":            file("[submodule \"module\"]\n\tpath = module\n\turl = https://github.com/a/b\n"),
		"a\nb\xff\x1b[1m":        file("odd"),
		strings.Repeat("n", 255): file("long"),
	})
	commit := fetch(t, open(t, nil), r.URL, sha)
	var b bytes.Buffer
	if err := commit.Archive(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for tr := tar.NewReader(&b); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		switch h.Typeflag {
		case tar.TypeXGlobalHeader:
		case tar.TypeSymlink:
			got[h.Name] = "-> " + h.Linkname
		case tar.TypeDir:
			got[h.Name] = "folder"
		default:
			got[h.Name] = strconv.FormatInt(h.Mode, 8) + " " + string(content)
		}
	}
	want := map[string]string{
		".gitattributes": "644 secret export-ignore\nversion export-subst\n*.bin filter=lfs diff=lfs merge=lfs -text\nx filter=evil\n",
		"secret":         "644 kept", "version": "644 $Format:%H$", "big.bin": "644 version https://git-lfs.github.com/spec/v1\n", "x": "644 x",
		"sub/": "folder", "sub/run": "755 #!/bin/sh\n", "link": "-> /etc/passwd", "module/": "folder",
		".gitmodules":     "644 [submodule \"module\"]\n\tpath = module\n\turl = https://github.com/a/b\n",
		"a\nb\xff\x1b[1m": "644 odd", strings.Repeat("n", 255): "644 long",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("archive differs (-want +got):\n%s", diff)
	}
}

// entry is a line of a tree object.
func entry(mode, name, sha string) string {
	raw, err := hex.DecodeString(sha)
	if err != nil {
		panic(err)
	}
	return mode + " " + name + "\x00" + string(raw)
}

func TestHostileObjectsAreAFault(t *testing.T) {
	for name, tree := range map[string]func(r *gittest.Repository) string{
		"a path upwards": func(r *gittest.Repository) string {
			return entry("40000", "..", r.Object("tree", entry("100644", "x", r.Blob("x"))))
		},
		"a path with slash": func(r *gittest.Repository) string { return entry("100644", "a/../../x", r.Blob("x")) },
		".git": func(r *gittest.Repository) string {
			return entry("40000", ".git", r.Object("tree", entry("100644", "config", r.Blob("x"))))
		},
		".GIT": func(r *gittest.Repository) string {
			return entry("40000", ".GIT", r.Object("tree", entry("100644", "config", r.Blob("x"))))
		},
		"one name twice": func(r *gittest.Repository) string {
			return entry("100644", "a", r.Blob("x")) + entry("100644", "a", r.Blob("y"))
		},
		"a submodule's URL that is an option": func(r *gittest.Repository) string {
			return entry("100644", ".gitmodules", r.Blob("[submodule \"x\"]\n\tpath = x\n\turl = --upload-pack=touch\n"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := gittest.New(t)
			sha := r.CommitTree("main", r.Object("tree", tree(r)))
			_, err := open(t, nil).Fetch(t.Context(), r.URL, sha)
			wantFault(t, err, "git refuses objects of the repository")
		})
	}
}

func TestOldHarmlessFaultsOfHistoryAreLetThrough(t *testing.T) {
	for name, row := range map[string]struct{ mode, author string }{
		"mode with a zero in front": {"0100644", "a <a@b.c> 1 +0000"},
		"a time zone that is none":  {"100644", "a <a@b.c> 1 +051800"},
		"no space before the date":  {"100644", "a <a@b.c>1 +0000"},
		"no space before the email": {"100644", "a<a@b.c> 1 +0000"},
		"no name before the email":  {"100644", "<a@b.c> 1 +0000"},
	} {
		t.Run(name, func(t *testing.T) {
			r := gittest.New(t)
			tree := r.Object("tree", entry(row.mode, "a", r.Blob("x")))
			sha := r.Object("commit", "tree "+tree+"\nauthor "+row.author+"\ncommitter "+row.author+"\n\nx")
			r.Git("", "update-ref", "refs/heads/main", sha)
			fetch(t, open(t, nil), r.URL, sha)
		})
	}
}

func TestHooksAndConfigurationOfOthersDoNotCount(t *testing.T) {
	home := t.TempDir()
	mark := filepath.Join(home, "mark")
	script := filepath.Join(home, "hook")
	if err := os.WriteFile(script, []byte("#!/bin/sh\ntouch "+mark+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	config := "[core]\n\thooksPath = " + home + "\n\tfsmonitor = " + script + "\n[credential]\n\thelper = !" + script + "\n[url \"file:///nowhere/\"]\n\tinsteadOf = file:///\n"
	if err := os.WriteFile(filepath.Join(home, ".gitconfig"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, hook := range []string{"reference-transaction", "post-checkout", "pre-auto-gc"} {
		if err := os.Symlink(script, filepath.Join(home, hook)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", home)
	t.Setenv("GIT_DIR", "/nowhere")
	t.Setenv("GIT_CONFIG_COUNT", "1")
	t.Setenv("GIT_CONFIG_KEY_0", "core.hooksPath")
	t.Setenv("GIT_CONFIG_VALUE_0", home)
	t.Setenv("GIT_SSH_COMMAND", script)

	r := gittest.New(t)
	commit := fetch(t, open(t, nil), r.URL, r.Commit("main", map[string]gittest.Node{"a": file("1")}))
	if err := commit.Archive(t.Context(), io.Discard); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(mark); !errors.Is(err, os.ErrNotExist) {
		t.Error("a hook or helper of somebody else ran")
	}
}

func TestNothingIsLeftBehind(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	r := gittest.New(t)
	sha := r.Commit("main", map[string]gittest.Node{"a": file("1")})
	c, err := git.Open(git.Settings{AllowFile: true, Timeout: time.Minute, MaxBytes: 256 << 20})
	if err != nil {
		t.Fatal(err)
	}
	folders := func(pattern string) []string {
		t.Helper()
		found, err := filepath.Glob(filepath.Join(os.Getenv("TMPDIR"), pattern))
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	commit, err := c.Fetch(t.Context(), r.URL, sha)
	if err != nil {
		t.Fatal(err)
	}
	if err := commit.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Fetch(t.Context(), r.URL, strings.Repeat("12", 20)); err == nil {
		t.Fatal("there is no such commit")
	}
	if left := folders("*/commit-*"); len(left) > 0 {
		t.Errorf("commits are left: %q", left)
	}

	// A process that was killed leaves its folder; the next one removes it, and none that is in use.
	dead := filepath.Join(os.Getenv("TMPDIR"), "lockstep-initializer-dead")
	if err := os.Mkdir(dead, 0o700); err != nil {
		t.Fatal(err)
	}
	ago := time.Now().Add(-time.Hour)
	for _, folder := range folders("*") {
		if err := os.Chtimes(folder, ago, ago); err != nil {
			t.Fatal(err)
		}
	}
	second, err := git.Open(git.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	if got := len(folders("*")); got != 2 {
		t.Errorf("%d folders, want those of the two clients", got)
	}
	if err := errors.Join(c.Close(), second.Close()); err != nil {
		t.Fatal(err)
	}
	if left := folders("*"); len(left) > 0 {
		t.Errorf("folders are left: %q", left)
	}
}

// server serves one repository by git's own smart HTTP, with TLS, on loopback.
type server struct {
	*httptest.Server
	host string
}

func serve(t *testing.T, r *gittest.Repository, around func(http.Handler) http.Handler) server {
	t.Helper()
	out, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	var handler http.Handler = &cgi.Handler{
		Path:       filepath.Join(strings.TrimSpace(string(out)), "git-http-backend"),
		Env:        []string{"GIT_PROJECT_ROOT=" + filepath.Dir(r.Folder), "GIT_HTTP_EXPORT_ALL=1", "HOME=" + r.Folder},
		InheritEnv: []string{"PATH"},
		Stderr:     io.Discard,
	}
	if around != nil {
		handler = around(handler)
	}
	s := httptest.NewTLSServer(handler)
	t.Cleanup(s.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GIT_SSL_CAINFO", ca)
	return server{s, strings.TrimPrefix(s.URL, "https://")}
}

func TestACommitIsFetchedByHTTPS(t *testing.T) {
	r := gittest.New(t)
	sha := r.Commit("main", map[string]gittest.Node{".ci/workflows/a.yml": file("a")})
	s := serve(t, r, nil)
	c := open(t, func(s *git.Settings) { s.AllowFile = false })
	full, got, err := c.Resolve(t.Context(), s.URL+"/cat", "")
	if err != nil || full != "refs/heads/main" || got != sha {
		t.Fatalf("got %q %q %v", full, got, err)
	}
	files, err := fetch(t, c, s.URL+"/cat", sha).Workflows(t.Context())
	if err != nil || len(files) != 1 {
		t.Errorf("got %q, %v", files, err)
	}
	_, err = c.Fetch(t.Context(), s.URL+"/cat", strings.Repeat("12", 20))
	wantFault(t, err, "the commit does not exist")
	_, err = c.Fetch(t.Context(), s.URL+"/dog", sha)
	wantFault(t, err, "there is no such repository")
}

const token = "ghs_canaryCANARYcanary"

func TestTheTokenGoesToItsHostAlone(t *testing.T) {
	r := gittest.New(t)
	sha := r.Commit("main", map[string]gittest.Node{"a": file("1")})
	asked := 0
	private := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			user, password, ok := q.BasicAuth()
			if ok {
				asked++
			}
			if user != "x-access-token" || password != token {
				w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, q)
		})
	}
	s := serve(t, r, private)
	for name, row := range map[string]struct {
		token, host, fault string
	}{
		"its host":    {token, s.host, ""},
		"another":     {token, "github.com", "asks for a login that the initializer does not have"},
		"no token":    {"", s.host, "asks for a login that the initializer does not have"},
		"wrong token": {"wrong-" + token, s.host, "refuses the initializer's login"},
	} {
		t.Run(name, func(t *testing.T) {
			asked = 0
			c := open(t, func(s *git.Settings) { s.AllowFile, s.Token, s.TokenHost = false, row.token, row.host })
			_, err := c.Fetch(t.Context(), s.URL+"/cat", sha)
			if row.fault == "" {
				if err != nil || asked == 0 {
					t.Errorf("got %v, the token was shown %d times", err, asked)
				}
				return
			}
			wantFault(t, err, row.fault)
			if err != nil && strings.Contains(err.Error(), "canary") {
				t.Errorf("the token is in the message: %v", err)
			}
			if row.host != s.host && asked > 0 {
				t.Error("the token was shown to another host")
			}
		})
	}
}

func TestAServerThatTellsTheTokenBackIsNotQuoted(t *testing.T) {
	r := gittest.New(t)
	s := serve(t, r, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			_, password, ok := q.BasicAuth()
			if !ok {
				w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, "no entry with "+password+"\x1b[2J")
		})
	})
	c := open(t, func(g *git.Settings) { g.Token, g.TokenHost = token, s.host })
	_, err := c.Fetch(t.Context(), s.URL+"/cat", strings.Repeat("12", 20))
	wantFault(t, err, "no entry with *** [2J")
}

func TestTheTokenIsNotWhereOthersSeeIt(t *testing.T) {
	r := gittest.New(t)
	sha := r.Commit("main", map[string]gittest.Node{"a": file("1")})
	looked := false
	s := serve(t, r, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if _, _, ok := q.BasicAuth(); !ok {
				w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			// git waits for us now, with the credential in use.
			looked = true
			for _, pattern := range []string{"/proc/[0-9]*/cmdline", "/proc/[0-9]*/environ", filepath.Join(os.TempDir(), "lockstep-initializer-*", "*"),
				filepath.Join(os.TempDir(), "lockstep-initializer-*", "*", "*")} {
				paths, _ := filepath.Glob(pattern)
				for _, path := range paths {
					if content, err := os.ReadFile(path); err == nil && bytes.Contains(content, []byte(token)) {
						t.Errorf("the token is in %s", path)
					}
				}
			}
			next.ServeHTTP(w, q)
		})
	})
	c := open(t, func(g *git.Settings) { g.Token, g.TokenHost = token, s.host })
	fetch(t, c, s.URL+"/cat", sha)
	if !looked {
		t.Error("the server never saw a credential")
	}
}

func TestFailuresOfTheWayThereAreTriedAgain(t *testing.T) {
	r := gittest.New(t)
	sha := r.Commit("main", map[string]gittest.Node{"a": file("1")})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	status := http.StatusBadGateway
	s := serve(t, r, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if status == 0 {
				panic(http.ErrAbortHandler)
			}
			w.WriteHeader(status)
		})
	})
	s.Config.ErrorLog = nil
	c := open(t, nil)
	for name, row := range map[string]struct {
		url    string
		status int
		want   string
	}{
		"nobody listens": {"https://" + closed + "/octo/cat", 0, "connect"},
		"no such host":   {"https://no-such-host.invalid/octo/cat", 0, "resolve host"},
		"502":            {s.URL + "/cat", http.StatusBadGateway, "502"},
		"503":            {s.URL + "/cat", http.StatusServiceUnavailable, "503"},
		"429":            {s.URL + "/cat", http.StatusTooManyRequests, "429"},
		"hung up":        {s.URL + "/cat", 0, "git fetch"},
	} {
		t.Run(name, func(t *testing.T) {
			status = row.status
			_, err := c.Fetch(t.Context(), row.url, sha)
			wantNoFault(t, err, row.want)
		})
	}
	for name, row := range map[string]struct {
		status int
		want   string
	}{
		"403":                   {http.StatusForbidden, "refuses access"},
		"410":                   {http.StatusGone, "there is no such repository"},
		"200 of something else": {http.StatusOK, "does not speak git"},
	} {
		t.Run(name, func(t *testing.T) {
			status = row.status
			_, err := c.Fetch(t.Context(), s.URL+"/cat", sha)
			wantFault(t, err, row.want)
		})
	}
}

func TestARedirectIsNotFollowed(t *testing.T) {
	r := gittest.New(t)
	sha := r.Commit("main", map[string]gittest.Node{"a": file("1")})
	followed := false
	s := serve(t, r, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if strings.HasPrefix(q.URL.Path, "/cat.git") {
				followed = true
				next.ServeHTTP(w, q)
				return
			}
			http.Redirect(w, q, "/cat.git/info/refs?"+q.URL.RawQuery, http.StatusMovedPermanently)
		})
	})
	_, err := open(t, nil).Fetch(t.Context(), s.URL+"/old", sha)
	wantFault(t, err, "the repository has moved")
	if followed {
		t.Error("the redirect was followed")
	}
}

func TestAServerThatNeverEndsIsLeft(t *testing.T) {
	r := gittest.New(t)
	sha := r.Commit("main", map[string]gittest.Node{"a": file("1")})
	var talks atomic.Int32
	s := serve(t, r, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			talks.Add(1)
			<-q.Context().Done() // until git is dead
			talks.Add(-1)
		})
	})
	c := open(t, func(s *git.Settings) { s.Timeout = time.Second })
	_, err := c.Fetch(t.Context(), s.URL+"/cat", sha)
	wantFault(t, err, "could not be fetched within 1s")
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); talks.Load() > 0; <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("git still talks to the server")
		}
	}
}

func TestTheEndOfTheContextEndsGit(t *testing.T) {
	r := gittest.New(t)
	sha := r.Commit("main", map[string]gittest.Node{"a": file("1")})
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("claim lost")
	gone := make(chan struct{})
	s := serve(t, r, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			cancel(cause)
			<-q.Context().Done()
			close(gone)
		})
	})
	if _, err := open(t, nil).Fetch(ctx, s.URL+"/cat", sha); !errors.Is(err, cause) {
		t.Errorf("got %v, want the cause", err)
	}
	select {
	case <-gone:
	case <-time.After(20 * time.Second):
		t.Error("git still talks to the server")
	}
}
