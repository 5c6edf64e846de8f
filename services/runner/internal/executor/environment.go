package executor

import (
	"maps"
	"net/url"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/services/runner/internal/process"
)

// passed are the runner's variables that every step sees, where the runner has them. What else it has stays its own.
var passed = regexp.MustCompile(`^(PATH|LANG|LC_[A-Z]+|TZ|SSL_CERT_FILE|SSL_CERT_DIR)$`)

// defaultPath is what a runner without a PATH gives its steps.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Inherited returns those of the runner's own variables that steps see: the fixed list, and what the operator names.
func Inherited(names []string) map[string]string {
	inherited := map[string]string{"PATH": defaultPath}
	for _, variable := range os.Environ() {
		name, value, _ := strings.Cut(variable, "=")
		if passed.MatchString(name) || slices.Contains(names, name) {
			inherited[name] = value
		}
	}
	return inherited
}

// environment is that of every step of a job, before what the workflow adds. What the operator names is for the repository's own
// code: it may be a secret, and what a fork brings does not see it.
func environment(job *jobs.Job, sha string, box *process.Box, inherited map[string]string) map[string]string {
	env := map[string]string{}
	for name, value := range inherited {
		if job.Trusted || passed.MatchString(name) {
			env[name] = value
		}
	}
	maps.Copy(env, map[string]string{
		"CI":                "true",
		"HOME":              box.Home,
		"TMPDIR":            box.Temp,
		"GITHUB_WORKSPACE":  box.Work,
		"GITHUB_SHA":        sha,
		"GITHUB_REF":        job.Ref,
		"GITHUB_REF_NAME":   refName(job.Ref),
		"GITHUB_REPOSITORY": repositoryName(job.Repository),
		"GITHUB_EVENT_NAME": job.Event,
		"GITHUB_ACTOR":      job.Author,
		"LOCKSTEP_RUN_ID":   itoa(job.RunID),
		"LOCKSTEP_JOB_ID":   itoa(job.ID),
	})
	return env
}

// refName is a ref as people write it. GitHub's name of refs/pull/7/merge is 7/merge.
func refName(ref string) string {
	for _, prefix := range []string{"refs/heads/", "refs/tags/", "refs/pull/"} {
		if name, ok := strings.CutPrefix(ref, prefix); ok {
			return name
		}
	}
	return ref
}

// repositoryName is what the initializer expands github.repository to: the path of the URL; of a file URL its last two
// parts.
func repositoryName(repository string) string {
	u, err := url.Parse(repository)
	if err != nil {
		return repository
	}
	if u.Scheme != "file" {
		return strings.Trim(u.Path, "/")
	}
	owner, name := path.Split(path.Clean(u.Path))
	return path.Join(path.Base(owner), strings.TrimSuffix(name, ".git"))
}

// list has the form that processes take, later maps winning.
func list(layers ...map[string]string) []string {
	env := map[string]string{}
	for _, layer := range layers {
		maps.Copy(env, layer)
	}
	var all []string
	for _, name := range slices.Sorted(maps.Keys(env)) {
		all = append(all, name+"="+env[name])
	}
	return all
}
