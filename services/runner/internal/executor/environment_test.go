package executor

import (
	"testing"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/services/runner/internal/process"
)

func TestAForkSeesNothingThatTheOperatorNames(t *testing.T) {
	t.Setenv("DEPLOY_KEY", "secret")
	t.Setenv("LANG", "C.UTF-8")
	inherited := Inherited([]string{"DEPLOY_KEY"})
	for trusted, want := range map[bool]string{true: "secret", false: ""} {
		env := environment(&jobs.Job{Trusted: trusted}, "", &process.Box{}, inherited)
		if env["DEPLOY_KEY"] != want || env["LANG"] != "C.UTF-8" || env["PATH"] == "" {
			t.Errorf("trusted %t: %v", trusted, env)
		}
	}
}

func TestRefsAndRepositoriesHaveGitHubsNames(t *testing.T) {
	t.Parallel()
	for ref, want := range map[string]string{
		"refs/heads/main": "main", "refs/heads/a/b": "a/b", "refs/tags/v1": "v1", "refs/pull/7/merge": "7/merge", "main": "main", "": "",
	} {
		if got := refName(ref); got != want {
			t.Errorf("%s is called %s, want %s", ref, got, want)
		}
	}
	for url, want := range map[string]string{
		"https://github.com/acme/widgets": "acme/widgets", "https://git.example.com/a/b/c": "a/b/c",
		"file:///home/me/acme/widgets": "acme/widgets", "file:///srv/acme/widgets.git": "acme/widgets", "": "",
	} {
		if got := repositoryName(url); got != want {
			t.Errorf("%s is called %s, want %s", url, got, want)
		}
	}
}
