package source_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
	"github.com/lockstep-ci/lockstep/pkg/jobs/source"
)

const repository = "https://github.com/octo/cat"

var tree = strings.Repeat("0a", 20)

// as connects under a service's own role: its grants must be enough, and no superuser is there to hide that.
func as(t *testing.T, db *jobstest.Database, service string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), db.As(service))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func archive(t *testing.T, headers []tar.Header, contents ...string) func(io.Writer) error {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i, h := range headers {
		content := ""
		if i < len(contents) {
			content = contents[i]
		}
		h.Size = int64(len(content))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return func(w io.Writer) error {
		_, err := w.Write(b.Bytes())
		return err
	}
}

// contents reads a folder: "mode content", "-> target" or "folder" by path.
func contents(t *testing.T, folder string) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == folder {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(folder, path)
		switch {
		case d.IsDir():
			got[name] = "folder"
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(path)
			got[name] = "-> " + target
			return err
		default:
			content, err := os.ReadFile(path)
			got[name] = fmt.Sprintf("%v %s", info.Mode(), content)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestWhatIsStoredIsUnpacked(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	noise := make([]byte, 3<<20) // more than one chunk, whatever the compression
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	id, err := source.Store(t.Context(), as(t, db, "initializer"), repository, tree, archive(t, []tar.Header{
		{Name: "pax_global_header", Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": tree}},
		{Name: "go.mod", Mode: 0o644},
		{Name: "run", Mode: 0o775},
		{Name: "secret", Mode: 0o600},
		{Name: "root", Mode: 0o4777},
		{Name: "big/noise", Mode: 0o644},
		{Name: "module/", Mode: 0o755, Typeflag: tar.TypeDir},
		{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"},
		{Name: "a\nb\xff", Mode: 0o644, Format: tar.FormatGNU},
	}, "", "module m", "#!/bin/sh", "s", "r", string(noise)))
	if err != nil {
		t.Fatal(err)
	}
	if n := jobstest.Value[int64](t, db, "SELECT count(*) FROM ci_source_chunks WHERE source_id = $1", id); n != 4 {
		t.Errorf("%d chunks of at most 1 MiB, want 4", n)
	}
	folder := t.TempDir()
	if err := source.Unpack(t.Context(), as(t, db, "runner"), id, folder); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"go.mod": "-rw-r--r-- module m", "run": "-rwxr-xr-x #!/bin/sh", "secret": "-rw-r--r-- s", "root": "-rwxr-xr-x r",
		"big": "folder", "big/noise": "-rw-r--r-- " + string(noise), "module": "folder", "link": "-> /etc/passwd", "a\nb\xff": "-rw-r--r-- ",
	}
	if got := contents(t, folder); !cmp.Equal(want, got) {
		delete(want, "big/noise")
		delete(got, "big/noise")
		t.Errorf("tree differs (-want +got):\n%s", cmp.Diff(want, got))
	}
}

func TestOneTreeIsStoredOnce(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	pool := as(t, db, "initializer")
	pack := archive(t, []tar.Header{{Name: "a", Mode: 0o644}}, "x")

	// All have packed before anyone stores.
	const n = 8
	var packed, done sync.WaitGroup
	packed.Add(n)
	ids := make([]int64, n)
	for i := range ids {
		done.Go(func() {
			var err error
			ids[i], err = source.Store(t.Context(), pool, repository, tree, func(w io.Writer) error {
				packed.Done()
				packed.Wait()
				return pack(w)
			})
			if err != nil {
				t.Errorf("store: %v", err)
			}
		})
	}
	done.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Errorf("ids differ: %v", ids)
		}
	}
	if got := jobstest.Value[string](t, db, "SELECT count(*) || ' ' || (SELECT count(*) FROM ci_source_chunks) FROM ci_sources"); got != "1 1" {
		t.Errorf("sources and chunks: %s, want 1 1", got)
	}

	again, err := source.Store(t.Context(), pool, repository, tree, func(io.Writer) error { return errors.New("packed again") })
	if err != nil || again != ids[0] {
		t.Errorf("got %d, %v: want the first", again, err)
	}
	other, err := source.Store(t.Context(), pool, repository+"2", tree, pack)
	if err != nil || other == ids[0] {
		t.Errorf("got %d, %v: another repository has its own", other, err)
	}
}

func TestNothingOfAFailedStoreIsKept(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	pool := as(t, db, "initializer")
	broken := errors.New("git has died")
	if _, err := source.Store(t.Context(), pool, repository, tree, func(w io.Writer) error {
		_, err := w.Write(make([]byte, 1<<20))
		return errors.Join(err, broken)
	}); !errors.Is(err, broken) {
		t.Errorf("got %v, want the error of pack", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := source.Store(ctx, pool, repository, tree, func(io.Writer) error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the end of the context", err)
	}
	if n := jobstest.Value[int64](t, db, "SELECT count(*) FROM ci_sources"); n != 0 {
		t.Errorf("%d sources are left", n)
	}
}

func TestNothingIsWrittenOutsideTheFolder(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	pool := as(t, db, "initializer")
	outside := t.TempDir()
	up := func(name string) string { return "../" + name }
	for name, headers := range map[string][]tar.Header{
		"upwards":                  {{Name: up("x"), Mode: 0o644}},
		"upwards from below":       {{Name: "a/../../x", Mode: 0o644}},
		"a folder upwards":         {{Name: up("x/"), Typeflag: tar.TypeDir}},
		"absolute":                 {{Name: outside + "/x", Mode: 0o644}},
		"through a link":           {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: outside}, {Name: "l/x", Mode: 0o644}},
		"through a relative link":  {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "l/x", Mode: 0o644}},
		"through two links":        {{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "."}, {Name: "l", Typeflag: tar.TypeSymlink, Linkname: "a/.."}, {Name: "l/x", Mode: 0o644}},
		"a folder through a link":  {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: outside}, {Name: "l/x/", Typeflag: tar.TypeDir}},
		"a link through a link":    {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: outside}, {Name: "l/x", Typeflag: tar.TypeSymlink, Linkname: "/"}},
		"over a link":              {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: outside + "/x"}, {Name: "l", Mode: 0o644}},
		"over a file":              {{Name: "x", Mode: 0o644}, {Name: "x", Mode: 0o644}},
		"hard link":                {{Name: "l", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"}},
		"device":                   {{Name: "d", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}},
		"pipe":                     {{Name: "p", Typeflag: tar.TypeFifo}},
		"git's own folder":         {{Name: ".git/config", Mode: 0o644}},
		"git's own folder, odd":    {{Name: "sub/.GiT/config", Mode: 0o644}},
		"git's own folder, a link": {{Name: ".git", Typeflag: tar.TypeSymlink, Linkname: "x"}},
		"a very long name":         {{Name: strings.Repeat("n", 300), Mode: 0o644}},
		"a very long path":         {{Name: strings.Repeat("n/", 3000) + "x", Mode: 0o644}},
	} {
		t.Run(name, func(t *testing.T) {
			id, err := source.Store(t.Context(), pool, repository+"/"+strings.ReplaceAll(name, " ", "-"), tree, archive(t, headers))
			if err != nil {
				t.Fatal(err)
			}
			parent := t.TempDir()
			folder := filepath.Join(parent, "work")
			if err := os.Mkdir(folder, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := source.Unpack(t.Context(), pool, id, folder); err == nil {
				t.Error("it was unpacked")
			}
			for _, where := range []string{parent, outside} {
				entries, err := os.ReadDir(where)
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range entries {
					if e.Name() != "work" {
						t.Errorf("%s appeared outside the folder", e.Name())
					}
				}
			}
		})
	}
}

func TestWhatIsNotWhatWasStoredIsRefused(t *testing.T) {
	t.Parallel()
	noise := make([]byte, 2<<20)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]string{
		"a bit":                   "UPDATE ci_source_chunks SET data = set_byte(data, 1000, get_byte(data, 1000) # 1) WHERE seq = 1",
		"a chunk is gone":         "DELETE FROM ci_source_chunks WHERE seq = 1",
		"the last chunk is short": "UPDATE ci_source_chunks SET data = substr(data, 1, 10) WHERE seq = 2",
		"bytes behind the end":    "UPDATE ci_source_chunks SET data = data || '\\x00'::bytea WHERE seq = 2",
		"another sum":             "UPDATE ci_sources SET sha256 = sha256('x')",
		"not complete":            "UPDATE ci_sources SET sha256 = NULL",
		"gone":                    "DELETE FROM ci_sources",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := jobstest.New(t)
			id, err := source.Store(t.Context(), db.Pool, repository, tree, archive(t, []tar.Header{{Name: "a", Mode: 0o644}}, string(noise)))
			if err != nil {
				t.Fatal(err)
			}
			db.Exec(t, spoil)
			err = source.Unpack(t.Context(), db.Pool, id, t.TempDir())
			if err == nil {
				t.Error("it was unpacked")
			}
			if missing := name == "gone" || name == "not complete"; missing != errors.Is(err, source.ErrNotFound) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestWhatIsNoTarFileIsRefused(t *testing.T) {
	t.Parallel()
	db := jobstest.New(t)
	id, err := source.Store(t.Context(), db.Pool, repository, tree, func(w io.Writer) error {
		_, err := w.Write(bytes.Repeat([]byte("no tar "), 1000))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := source.Unpack(t.Context(), db.Pool, id, t.TempDir()); err == nil {
		t.Error("it was unpacked")
	}
}
