package main

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/service"
	"github.com/lockstep-ci/lockstep/pkg/jobs/source"
	"github.com/lockstep-ci/lockstep/services/initializer/internal/git"
)

// config is read from the environment.
type config struct {
	service.Common
	service.Worker
	Takes         jobs.Status   `envconfig:"TAKES" default:"new" desc:"state of the jobs to claim; another one where a stage of yours comes first"`
	RunnerLabels  []string      `envconfig:"RUNNER_LABELS" default:"ubuntu-latest,linux,self-hosted" desc:"what runs-on may ask for"`
	AllowFileURLs bool          `envconfig:"ALLOW_FILE_URLS" default:"false" desc:"repositories may be folders of this machine; for development"`
	GitInsteadOf  string        `envconfig:"GIT_INSTEAD_OF" desc:"<from>=<to>: URLs that begin with <from> are fetched from <to>"`
	GitToken      string        `envconfig:"GIT_TOKEN" desc:"password of x-access-token at GIT_TOKEN_HOST, for private repositories"`
	GitTokenHost  string        `envconfig:"GIT_TOKEN_HOST" default:"github.com" desc:"the one host that GIT_TOKEN is shown to"`
	GitTimeout    time.Duration `envconfig:"GIT_TIMEOUT" default:"10m" desc:"how long the fetch of a commit may take"`
}

var (
	state = regexp.MustCompile(`^[a-z_]+$`)
	host  = regexp.MustCompile(`^[A-Za-z0-9.-]+(:[0-9]{1,5})?$`)
)

// Validate names the first setting that cannot be, and never the token's value.
func (c config) Validate() error {
	for _, label := range c.RunnerLabels {
		if strings.TrimSpace(label) != label || label == "" {
			return fmt.Errorf("RUNNER_LABELS: %q is not a label", label)
		}
	}
	switch {
	case !state.MatchString(string(c.Takes)):
		return fmt.Errorf("TAKES: %q is not a state", c.Takes)
	case len(c.RunnerLabels) == 0:
		return errors.New("RUNNER_LABELS is empty")
	case strings.ContainsFunc(c.GitToken, func(r rune) bool { return r <= ' ' || r > '~' }):
		return errors.New("GIT_TOKEN: it holds a character that no token has, like a space or an end of line")
	case !host.MatchString(c.GitTokenHost):
		return fmt.Errorf("GIT_TOKEN_HOST: %q is not a host, or a host and a port", c.GitTokenHost)
	case c.GitTimeout < time.Second:
		return fmt.Errorf("GIT_TIMEOUT: %s is less than 1s", c.GitTimeout)
	}
	if c.GitInsteadOf == "" {
		return nil
	}
	from, to, _ := strings.Cut(c.GitInsteadOf, "=")
	if !isURL(from, "https") || !isURL(to, "https") && !isURL(to, "file") {
		return errors.New("GIT_INSTEAD_OF: it is not of the form https://host/=file:///path/ or https://host/=https://other/")
	}
	return nil
}

func isURL(s, scheme string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Scheme == scheme && u.User == nil && (u.Host == "") == (scheme == "file") && strings.HasPrefix(u.Path, "/")
}

// git is what the settings mean for git.
func (c config) git() git.Settings {
	s := git.Settings{
		AllowFile: c.AllowFileURLs, Token: c.GitToken, TokenHost: c.GitTokenHost, Timeout: c.GitTimeout, MaxBytes: source.MaxPackedBytes,
	}
	s.InsteadOf.From, s.InsteadOf.To, _ = strings.Cut(c.GitInsteadOf, "=")
	return s
}
