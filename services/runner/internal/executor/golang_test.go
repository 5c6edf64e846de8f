package executor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAGoVersionFitsWhatSetupGoWouldTake(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		asked string
		fits  string // versions
		not   string
	}{
		{"1.22", "1.22.0 1.22.7", "1.21.9 1.23.0 1.22rc1 2.22.0"},
		{"1.22.x", "1.22.0 1.22.7", "1.23.0"},
		{"1.22.*", "1.22.0", "1.23.0"},
		{"1.22.3", "1.22.3", "1.22.2 1.22.4"},
		{"=1.22.3", "1.22.3", "1.22.4"},
		{"v1.22.3", "1.22.3", "1.22.4"},
		{"go1.22.3", "1.22.3", "1.22.4"},
		{" 1.22 ", "1.22.1", "1.21.1"},
		{"1", "1.0.0 1.99.1", "2.0.0"},
		{"1.x", "1.0.0 1.99.1", "2.0.0"},
		{"*", "1.0.0 2.1.0", "1.27rc1"},
		{"x", "1.0.0", "1.27rc1"},
		{"^1.22", "1.22.0 1.30.1", "1.21.9 2.0.0"},
		{"^1.22.3", "1.22.3 1.30.1", "1.22.2 2.0.0"},
		{"~1.22", "1.22.0 1.22.9", "1.21.9 1.23.0"},
		{"~1.22.3", "1.22.3 1.22.9", "1.22.2 1.23.0"},
		{"~1", "1.0.0 1.99.0", "2.0.0"},
		{">=1.20", "1.20.0 1.26.8 2.0.0", "1.19.9 1.27rc1"},
		{">= 1.20", "1.20.0", "1.19.9"},
		{">1.20", "1.21.0", "1.20.0 1.20.14"},
		{">1.20.3", "1.20.4", "1.20.3"},
		{"<1.22", "1.21.9", "1.22.0"},
		{"<=1.22", "1.22.9 1.0.0", "1.23.0"},
		{"<=1.22.1", "1.22.1", "1.22.2"},
		{">=1.20 <1.23", "1.20.0 1.22.9", "1.19.0 1.23.0"},
		{"1.21 || 1.23", "1.21.5 1.23.1", "1.22.0"},
		{"1.27rc1", "1.27rc1", "1.27.0 1.27rc2"},
		{"1.27.0-rc.1", "1.27rc1", "1.27.0 1.27rc2"},
		{"stable", "1.26.8", "1.27rc1"},
		{"oldstable", "1.26.8", "1.27rc1"},
		{"1.99999999999999999999", "", "1.26.8"},
	} {
		r, err := parseGoRange(row.asked)
		if err != nil {
			t.Errorf("%q: %v", row.asked, err)
			continue
		}
		for want, versions := range map[bool]string{true: row.fits, false: row.not} {
			for v := range strings.FieldsSeq(versions) {
				there, err := parseGoReport("go version go" + v + " linux/amd64")
				if err != nil {
					t.Fatal(err)
				}
				if got := r(there); got != want {
					t.Errorf("%q and Go %s: fits is %t", row.asked, v, got)
				}
			}
		}
	}
}

func TestAGoVersionThatCannotBeReadIsAnError(t *testing.T) {
	t.Parallel()
	for _, asked := range []string{"", "||", "1.21 ||", "latest", "1.2.3.4", ">=1.27rc1", "1.20 - 1.22", "tip", ">x", "-1", "1..2", "^"} {
		if _, err := parseGoRange(asked); err == nil {
			t.Errorf("%q is accepted", asked)
		}
	}
}

func TestWhatGoSaysOfItselfIsRead(t *testing.T) {
	t.Parallel()
	for said, want := range map[string]string{
		"go version go1.26.8 linux/amd64\n":                                              "1.26.8",
		"go version go1.20 darwin/arm64\n":                                               "1.20.0",
		"go version go1.27rc1 linux/amd64\n":                                             "1.27rc1",
		"go version go1.22.1 X:nocoverageredesign linux/amd64\n":                         "1.22.1",
		"go version devel go1.27-0123456789 Mon Nov 2 10:00:00 2026 +0000 linux/amd64\n": "1.27.0",
		"go version go1.25.3-X:nodwarf5 linux/amd64\n":                                   "1.25.3",
	} {
		if got, err := parseGoReport(said); err != nil || got.String() != want {
			t.Errorf("%q: got %s, %v, want %s", said, got, err, want)
		}
	}
	if _, err := parseGoReport("go: command of another kind"); err == nil {
		t.Error("anything is a version")
	}
}

func TestAFileSaysWhichGoItWants(t *testing.T) {
	t.Parallel()
	work := t.TempDir()
	for name, content := range map[string]string{
		"go.mod":             "module m\n\ngo 1.22\n\nrequire x v0.0.0 // indirect\nunknown directive\n",
		"sub/go.mod":         "module m\ngo 1.21rc2\ntoolchain go1.22.1\n",
		"go.work":            "go 1.23.1\nuse .\n",
		".go-version":        "1.22.x\n",
		"none/go.mod":        "module m\n",
		"bad/go.mod":         "module m\ngo one\n",
		"bad/go.work":        "{",
		".tool-versions":     "golang 1.22\n",
		"folder/go.mod/file": "",
	} {
		path := filepath.Join(work, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(work, "bad/.go-version")); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"go.mod": ">=1.22", "sub/go.mod": ">=1.21", "./sub/../go.mod": ">=1.22", "go.work": ">=1.23.1", ".go-version": "1.22.x",
	} {
		if got, err := goVersionFile(work, name); err != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, want)
		}
	}
	for _, name := range []string{"none/go.mod", "bad/go.mod", "bad/go.work", ".tool-versions", "folder/go.mod", "absent/go.mod", "bad/.go-version", "../go.mod"} {
		if got, err := goVersionFile(work, name); err == nil {
			t.Errorf("%s: got %q", name, got)
		}
	}
}
