package webhook

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// GitHub's own examples of every event, as npm has them (MIT). They are fetched, not kept here: the registry's checksum holds
// them to what was looked at.
const (
	octokit          = "@octokit/webhooks-examples@7.6.1"
	octokitIntegrity = "sha512-De6U3XB6O3DtCa7bKgCMzTHdeopqqZ6SNivMYJnK65ierKL1AnNIA0tkRYCRS7lwGT792d+Ps1WbfHlso6MynQ=="
)

// examples fetches the package once into the user's cache folder.
func examples(t *testing.T) []byte {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "lockstep")
	kept := filepath.Join(dir, "octokit-webhooks-examples-7.6.1.tgz")
	if text, err := os.ReadFile(kept); err == nil && integrity(text) == octokitIntegrity {
		return text
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	work := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "npm", "pack", "--silent", "--pack-destination", work, octokit).CombinedOutput(); err != nil {
		t.Fatalf("GitHub's examples are not here, and npm does not get them (%v: %s). Install npm and let it reach its registry once, or put the tarball of %s at %s", err, out, octokit, kept)
	}
	packed, err := filepath.Glob(filepath.Join(work, "*.tgz"))
	if err != nil || len(packed) != 1 {
		t.Fatalf("npm left %d files", len(packed))
	}
	text, err := os.ReadFile(packed[0])
	if err != nil {
		t.Fatal(err)
	}
	if got := integrity(text); got != octokitIntegrity {
		t.Fatalf("npm gave %s with the checksum %s, not %s", octokit, got, octokitIntegrity)
	}
	fresh, err := os.CreateTemp(dir, "octokit-") // beside its place, so that it comes there in one step
	if err != nil {
		t.Fatal(err)
	}
	_, err = fresh.Write(text)
	if err := errors.Join(err, fresh.Close(), os.Rename(fresh.Name(), kept)); err != nil {
		t.Fatal(err)
	}
	return text
}

func integrity(text []byte) string {
	sum := sha512.Sum512(text)
	return "sha512-" + base64.StdEncoding.EncodeToString(sum[:])
}

func TestAllOfGitHubsExamplesAreUnderstood(t *testing.T) {
	t.Parallel()
	unzipped, err := gzip.NewReader(bytes.NewReader(examples(t)))
	if err != nil {
		t.Fatal(err)
	}
	wishes := map[string]int{}
	files, payloads := 0, 0
	for entries := tar.NewReader(unzipped); ; {
		entry, err := entries.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		server, is := strings.CutSuffix(strings.TrimPrefix(entry.Name, "package/"), "/index.json")
		if !is {
			continue
		}
		files++
		var events []struct {
			Name     string
			Examples []json.RawMessage
		}
		if err := json.NewDecoder(entries).Decode(&events); err != nil {
			t.Fatalf("%s: %v", entry.Name, err)
		}
		for _, event := range events {
			for i, text := range event.Examples {
				payloads++
				got, err := parse(event.Name, text)
				if err != nil {
					t.Errorf("%s: %s %d: %v", server, event.Name, i, err)
				}
				wishes[fmt.Sprintf("%s %s", event.Name, asks(got))]++
			}
		}
	}
	if files != 6 || payloads < 700 {
		t.Errorf("%d files with %d examples", files, payloads)
	}
	for _, want := range []string{"push run", "pull_request run", "check_run rerun", "check_suite rerun", "workflow_dispatch run", "repository move", "ping nothing", "installation nothing"} {
		if wishes[want] == 0 {
			t.Errorf("no %s among %v", want, wishes)
		}
	}
}

func asks(w wish) string {
	switch {
	case w.ignored != "":
		return "nothing"
	case w.formerly != "":
		return "move"
	case w.rerun != "":
		return "rerun"
	case w.withdraw != 0:
		return "withdraw"
	case w.fork:
		return "fork"
	}
	return "run"
}
