package lab

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/lockstep-ci/lockstep/test/chaos/internal/audit"
)

// repository is a git repository in a folder, which the initializer meets as https://github.com/<name>.
type repository struct {
	name    string
	commits []string
	plan    audit.Plan
}

func (r repository) url() string { return "https://github.com/" + r.name }

// commitsEach is how many commits a repository has: few enough that several runs share one, and so GitHub's contexts.
const commitsEach = 8

const header = "name: ci\non: [push, workflow_dispatch]\njobs:\n"

// repositories makes the work for the system. What the jobs print is random, and holds what a test may print: NUL, broken
// UTF-8, carriage returns, no newline at the end.
func (s *System) makeRepositories(ctx context.Context) error {
	random := rand.New(rand.NewPCG(s.options.Seed, 1))
	noise := func(n int) []byte {
		text := make([]byte, n)
		for i := range text {
			text[i] = byte(random.Uint32())
		}
		return []byte(fmt.Sprintf("<<noise %d>>\x00\xff\xfe\xc3(\r%s<<end of noise>>", n, text))
	}
	job := func(name, needs string, steps ...string) string {
		text := "  " + name + ":\n    runs-on: ubuntu-latest\n"
		if needs != "" {
			text += "    needs: " + needs + "\n"
		}
		return text + "    steps:\n      - " + strings.Join(steps, "\n      - ") + "\n"
	}
	const printIt, fail = "run: cat noise.bin", "run: exit 3"
	// Slow jobs are there to be interrupted, in the middle of their output too.
	const slowly = "run: for part in part.*; do cat $part; sleep 0.1; done"
	success, failure, skipped := audit.PlannedJob{Status: "success"}, audit.PlannedJob{Status: "failure"}, audit.PlannedJob{Status: "skipped"}

	for _, one := range []struct {
		name     string
		noise    int
		parts    int
		workflow string
		status   string
		jobs     func(noise []byte) map[string]audit.PlannedJob
	}{
		{"octo/plain", 5000, 0, job("print", "", printIt), "success", func(noise []byte) map[string]audit.PlannedJob {
			return map[string]audit.PlannedJob{"ci / print": {Status: "success", Prints: noise}}
		}},
		{"octo/failing", 100, 0, job("test", "", printIt, fail) + job("after", "test", printIt), "failure", func(noise []byte) map[string]audit.PlannedJob {
			failure.Prints = noise
			return map[string]audit.PlannedJob{"ci / test": failure, "ci / after": skipped}
		}},
		{"octo/chain", 300, 0, job("a", "", printIt) + job("b", "a", "run: sleep 0.3") + job("c", "[a, b]", printIt), "success", func(noise []byte) map[string]audit.PlannedJob {
			return map[string]audit.PlannedJob{"ci / a": {Status: "success", Prints: noise}, "ci / b": success, "ci / c": {Status: "success", Prints: noise}}
		}},
		{"octo/matrix", 1000, 0, job("fan", "", printIt+"; sleep 0.${{ matrix.n }}") + "    strategy:\n      matrix:\n        n: [1, 2, 3]\n" + job("join", "fan", printIt), "success",
			func(noise []byte) map[string]audit.PlannedJob {
				jobs := map[string]audit.PlannedJob{"ci / join": {Status: "success", Prints: noise}}
				for n := 1; n <= 3; n++ {
					jobs[fmt.Sprintf("ci / fan (%d)", n)] = audit.PlannedJob{Status: "success", Prints: noise}
				}
				return jobs
			}},
		{"octo/slow", 200_000, 20, job("print", "", slowly), "success", func(noise []byte) map[string]audit.PlannedJob {
			return map[string]audit.PlannedJob{"ci / print": {Status: "success", Prints: noise}}
		}},
	} {
		noise := noise(one.noise)
		files := map[string][]byte{".ci/workflows/ci.yml": []byte(header + one.workflow)}
		if one.parts == 0 {
			files["noise.bin"] = noise
		}
		for i := range one.parts {
			files[fmt.Sprintf("part.%02d", i)] = noise[len(noise)*i/one.parts : len(noise)*(i+1)/one.parts]
		}
		r := repository{name: one.name, plan: audit.Plan{Status: one.status, Jobs: one.jobs(noise)}}
		if err := s.makeRepository(ctx, &r, files, commitsEach); err != nil {
			return err
		}
		s.repositories = append(s.repositories, r)
	}
	return nil
}

func (s *System) makeRepository(ctx context.Context, r *repository, files map[string][]byte, commits int) error {
	dir := filepath.Join(s.dir, "github.com", r.name)
	for path, content := range files {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return fmt.Errorf("make repository %s: %w", r.name, err)
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return fmt.Errorf("make repository %s: %w", r.name, err)
		}
	}
	git := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, "git", args...)
		cmd.Dir = dir
		cmd.Env = []string{
			"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "GIT_CONFIG_NOSYSTEM=1",
			"GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=ada@example.com", "GIT_COMMITTER_NAME=Ada", "GIT_COMMITTER_EMAIL=ada@example.com",
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("git %s in %s: %w: %s", args[0], r.name, err, out)
		}
		return strings.TrimSpace(string(out)), nil
	}
	if _, err := git("init", "--quiet", "--initial-branch=main"); err != nil {
		return err
	}
	if _, err := git("add", "--all"); err != nil {
		return err
	}
	for i := range commits {
		if _, err := git("commit", "--quiet", "--allow-empty", fmt.Sprintf("--message=Trick %d", i)); err != nil {
			return err
		}
		head, err := git("rev-parse", "HEAD")
		if err != nil {
			return err
		}
		r.commits = append(r.commits, head)
	}
	return nil
}
