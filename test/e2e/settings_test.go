package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// A setting that is missing or cannot be ends the process at once, with one line that names it and no value that might
// be secret. All others are right each time, so that it is this one that is named.
func TestAMissingOrWrongSettingIsNamedInOneLine(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	for service, settings := range map[string][]string{
		"api-gateway": {
			"DATABASE_URL", "DATABASE_URL=no url at all", "LOG_LEVEL=loud", "HTTP_ADDR=nowhere", "PUBLIC_URL=nowhere", "ANONYMOUS_READ=perhaps", "RATE_LIMIT=-1", "TRUSTED_PROXIES=nowhere",
			"GITHUB_OAUTH_CLIENT_ID=an-id-alone", "GITHUB_OAUTH_CLIENT_SECRET=canary-alone", "GITHUB_OAUTH_URL=nowhere", "GITHUB_OAUTH_USERS=octocat:run",
			"ADMIN_TOKEN", "ADMIN_TOKEN=short", "GITHUB_WEBHOOK_SECRET", "GITHUB_WEBHOOK_SECRET=short", "GITHUB_WEBHOOK_SECRET=canary-long-enough-0,short",
		},
		"initializer": {
			"DATABASE_URL", "CONCURRENCY=0", "CONCURRENCY=many", "LEASE=1s", "LEASE=long", "BEAT=0s", "POLL=0s", "OPS_ADDR=nowhere",
			"ALLOW_FILE_URLS=perhaps", "GIT_INSTEAD_OF=nothing", "RUNNER_LABELS=,",
		},
		"runner": {
			"DATABASE_URL", "LISTEN_DATABASE_URL=no url at all", "CONCURRENCY=-1", "LEASE=1s", "RETRY_AFTER=0s", "RETRY_AFTER=6m", "POLL=0s", "EXECUTOR_UNSANDBOXED", "EXECUTOR_UNSANDBOXED=false", "TAKES=Nonsense",
		},
		"github-notifier": {"DATABASE_URL", "CONCURRENCY=0", "POLL=0s", "GITHUB_API_URL=nowhere"},
		"reaper":          {"DATABASE_URL", "UNOWNED_AFTER=0s", "UNOWNED_AFTER=soon", "MAX_FAILURES=0", "MAX_CRASHES=0"},
	} {
		for _, setting := range settings {
			name, value, set := strings.Cut(setting, "=")
			environment := slices.DeleteFunc(s.environment(service), func(one string) bool { return strings.HasPrefix(one, name+"=") })
			if set {
				environment = append(environment, name+"="+value)
			}
			t.Run(service+" "+setting, func(t *testing.T) {
				out, code := runBriefly(t, service, environment)
				if code != 1 {
					t.Errorf("it ended with %d, want 1", code)
				}
				if !strings.HasPrefix(out, service+": ") || !strings.Contains(out, name) || strings.Count(out, "\n") != 1 || !strings.HasSuffix(out, "\n") {
					t.Errorf("it said\n%s\nwant one line that names %s", out, name)
				}
				if strings.Contains(out, "canary") || strings.Contains(out, "lockstep-test") {
					t.Errorf("it said what is secret:\n%s", out)
				}
			})
		}
	}
}

// runBriefly runs a binary that is to end by itself, and returns what it said.
func runBriefly(t *testing.T, service string, environment []string, args ...string) (output string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(binaries, service), args...)
	cmd.Dir, cmd.Env = t.TempDir(), environment
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatalf("run %s: %v", service, err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// The README's table and the binaries' own help must not part.
func TestHelpListsEachSettingAndSoDoesTheREADME(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	helped := map[string]bool{}
	for _, service := range services {
		out, code := runBriefly(t, service, nil, "--help")
		settings := regexp.MustCompile(`(?m)^[A-Z][A-Z_]+\b`).FindAllString(out, -1)
		if code != 0 || !slices.Contains(settings, "DATABASE_URL") {
			t.Errorf("%s --help ended with %d and listed %q:\n%s", service, code, settings, out)
		}
		for _, setting := range settings {
			helped[setting] = true
			if setting != "SETTING" && !bytes.Contains(readme, []byte("`"+setting+"`")) { // SETTING heads the column
				t.Errorf("README.md does not name %s of %s", setting, service)
			}
		}
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `([A-Z][A-Z_]+)`").FindAllSubmatch(readme, -1) {
		if !helped[string(row[1])] {
			t.Errorf("README.md's table has %s, which no service knows", row[1])
		}
	}
}
