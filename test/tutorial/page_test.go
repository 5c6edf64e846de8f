package tutorial_test

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// root is the repository, seen from this package.
var root = filepath.Join("..", "..")

// block is one fenced block of the tutorial. The words behind the fence say what it is for:
//
//	sql path        a new file
//	sql >> path     the end of a file that is there
//	diff            a change of files that are there
//	sh              commands, in the repository's root
//	sh service name the command that starts a service
//	sql             a query to the database, as its owner
//	text            a picture
type block struct {
	words []string
	text  string
}

// page is the tutorial: its blocks by the heading they stand under.
type page struct {
	sections []string
	blocks   map[string][]block
}

func readPage(t *testing.T) page {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, "docs", "add-a-stage.md"))
	if err != nil {
		t.Fatal(err)
	}
	p := page{blocks: map[string][]block{}}
	section, open := "", false
	for line := range strings.Lines(string(content)) {
		info, fence := strings.CutPrefix(line, "```")
		blocks := p.blocks[section]
		switch {
		case fence && open:
			open = false
		case fence:
			open = true
			p.blocks[section] = append(blocks, block{words: strings.Fields(info)})
		case open:
			blocks[len(blocks)-1].text += line
		case strings.HasPrefix(line, "## "):
			section = strings.TrimSpace(line[3:])
			p.sections = append(p.sections, section)
		}
	}
	return p
}

// copyTree copies the repository, without what is made from it.
func copyTree(t *testing.T, to string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if name == ".git" || name == "bin" {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if entry.IsDir() {
			return os.MkdirAll(filepath.Join(to, name), 0o755)
		}
		if !entry.Type().IsRegular() {
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, name), content, info.Mode().Perm())
	})
	if err != nil {
		t.Fatalf("copy the tree: %v", err)
	}
}

// follow does what the next sections say, in their order.
func (r *reader) follow(sections ...string) {
	r.t.Helper()
	for _, section := range sections {
		if len(r.page.sections) == 0 || r.page.sections[0] != section {
			r.t.Fatalf("the test wants to follow %q, the tutorial goes on with %q", section, r.page.sections)
		}
		r.page.sections = r.page.sections[1:]
		for _, b := range r.page.blocks[section] {
			r.do(b)
		}
	}
}

func (r *reader) do(b block) {
	r.t.Helper()
	switch {
	case len(b.words) == 3 && b.words[1] == ">>":
		path := filepath.Join(r.tree, b.words[2])
		content, err := os.ReadFile(path)
		if err != nil {
			r.t.Fatal(err)
		}
		r.write(path, string(content)+b.text)
	case slices.Equal(b.words, []string{"diff"}):
		r.command(b.text, "git", "apply", "--whitespace=nowarn", "-")
	case slices.Equal(b.words, []string{"sh"}):
		r.command("", "sh", "-euc", b.text)
	case len(b.words) == 3 && b.words[0] == "sh" && b.words[1] == "service":
		r.start(b.words[2], b.text)
	case slices.Equal(b.words, []string{"sql"}):
		r.db.Exec(r.t, b.text)
	case len(b.words) == 2:
		path := filepath.Join(r.tree, b.words[1])
		if _, err := os.Stat(path); err == nil {
			r.t.Fatalf("the tutorial makes %s, which is there already", b.words[1])
		}
		r.write(path, b.text)
	default:
		r.t.Fatalf("a block of the tutorial is %q, which nothing here knows how to follow:\n%s", b.words, b.text)
	}
}

func (r *reader) write(path, content string) {
	r.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// command runs a program in the copy, offline: the modules are those that this tree needs anyway.
func (r *reader) command(input, name string, args ...string) {
	r.t.Helper()
	cmd := exec.CommandContext(r.t.Context(), name, args...)
	cmd.Dir = r.tree
	cmd.Stdin = strings.NewReader(input)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(variable string) bool { // of the make and git that we may be part of
		return strings.HasPrefix(variable, "MAKE") || strings.HasPrefix(variable, "GIT_")
	})
	cmd.Env = append(cmd.Env, "GOPROXY=off", "GIT_CEILING_DIRECTORIES="+filepath.Dir(r.tree),
		"DATABASE_URL="+r.db.URL, "LOCKSTEP_SCANNER_PASSWORD="+r.password)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		r.t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out.String(), input)
	}
}
