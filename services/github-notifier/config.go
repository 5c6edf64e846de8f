package main

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/lockstep-ci/lockstep/pkg/jobs/service"
)

// config is read from the environment. Reports are held by their own deadline instead of a worker's beat, so that of
// the workers' settings only two apply.
type config struct {
	service.Common
	Concurrency  int           `envconfig:"CONCURRENCY" default:"4" desc:"reports at once"`
	Poll         time.Duration `envconfig:"POLL" default:"1s" desc:"longest wait between two looks at the table"`
	GitHubAPIURL string        `envconfig:"GITHUB_API_URL" default:"https://api.github.com/" desc:"GitHub's API; GitHub Enterprise Server: https://<host>/api/v3/"`
	GitHubToken  string        `envconfig:"GITHUB_TOKEN" desc:"may write commit statuses; empty: reports end as skipped"`
	PublicURL    string        `envconfig:"PUBLIC_URL" desc:"where people reach the gateway, for the link to the run; empty: no link"`
}

// Validate names the first setting that cannot be, and never the token's value.
func (c config) Validate() error {
	switch {
	case c.Concurrency < 1 || c.Concurrency > 100: // GitHub allows 100 requests at once (its secondary limits)
		return fmt.Errorf("CONCURRENCY: %d is not between 1 and 100", c.Concurrency)
	case c.Poll < 10*time.Millisecond:
		return fmt.Errorf("POLL: %s is less than 10ms", c.Poll)
	case strings.ContainsFunc(c.GitHubToken, func(r rune) bool { return r <= ' ' || r > '~' }):
		return errors.New("GITHUB_TOKEN: it holds a character that no token has, like a space or an end of line")
	}
	if c.PublicURL != "" {
		if u, err := url.Parse(c.PublicURL); err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return errors.New("PUBLIC_URL: it is not of the form https://host or https://host/path")
		}
	}
	return nil
}
