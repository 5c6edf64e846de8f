package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/lockstep-ci/lockstep/migrations"
)

// fences are the statements that end a claim or write under one. Each names the claim's token.
var fences = []string{
	"pkg/jobs/queries/fail.sql",
	"pkg/jobs/queries/fence.sql",
	"pkg/jobs/queries/finish.sql",
	"pkg/jobs/queries/release.sql",
	"pkg/jobs/joblog/queries/append.sql",
	"services/initializer/internal/initialize/queries/take.sql",
	"services/runner/internal/run/queries/steps.sql",
}

var byToken = regexp.MustCompile(`(\b[a-z]+\.)?claim_token = (@token|[a-z]+\.token)\b`)

// BuildUnfenced builds the services as they would be without a fence, from the sources at root: whoever writes under a
// claim asks only whether the job is held, not by whom. Those that write under no claim are taken from binaries. An error
// names a statement in which there was no fence to remove: then the list above is out of date.
func BuildUnfenced(ctx context.Context, root, binaries, into string) error {
	replace := map[string]string{}
	for i, name := range fences {
		path := filepath.Join(root, name)
		text, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("remove the fence: %w", err)
		}
		if !byToken.Match(text) {
			return fmt.Errorf("remove the fence: %s names no claim_token", name)
		}
		weak := filepath.Join(into, fmt.Sprintf("%d.sql", i))
		if err := os.WriteFile(weak, byToken.ReplaceAll(text, []byte("${1}claim_token IS NOT NULL")), 0o600); err != nil {
			return fmt.Errorf("remove the fence: %w", err)
		}
		replace[path] = weak
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return fmt.Errorf("remove the fence: %w", err)
	}
	file := filepath.Join(into, "overlay.json")
	if err := os.WriteFile(file, overlay, 0o600); err != nil {
		return fmt.Errorf("remove the fence: %w", err)
	}
	for _, service := range migrations.Services {
		if holders[service] {
			continue
		}
		if err := os.Symlink(filepath.Join(binaries, service), filepath.Join(into, service)); err != nil {
			return fmt.Errorf("take over %s: %w", service, err)
		}
	}
	return Build(ctx, root, into, slices.Collect(maps.Keys(holders)), "-overlay="+file)
}

// holders are the services that hold claims.
var holders = map[string]bool{"initializer": true, "runner": true}

// Build builds services of the workspace at root as `make build` does, and so from the same build cache.
func Build(ctx context.Context, root, into string, services []string, flags ...string) error {
	args := append([]string{"build", "-trimpath", "-o", into + string(filepath.Separator)}, flags...)
	for _, service := range services {
		args = append(args, "./services/"+service)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the services: %w\n%s", err, out)
	}
	return nil
}
