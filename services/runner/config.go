package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/pkg/jobs/joblog"
	"github.com/lockstep-ci/lockstep/pkg/jobs/service"
)

// config is read from the environment.
type config struct {
	service.Common
	service.Worker
	Takes       string        `envconfig:"TAKES" default:"initialized" desc:"the state of the jobs to take; another when a stage is put in front of this one"`
	Unsandboxed bool          `envconfig:"EXECUTOR_UNSANDBOXED" desc:"must be true: steps run without a sandbox, and you trust the code"`
	WorkDir     string        `envconfig:"WORK_DIR" desc:"folder for the jobs' work trees; runners of one user may share it; empty: lockstep-runner-<uid> in the system's temporary folder"`
	StepUID     uint32        `envconfig:"STEP_UID" default:"64000" desc:"when the runner is root: the first of the 1000 user and group ids that steps run under, one for each slot"`
	PassEnv     []string      `envconfig:"PASS_ENV" desc:"names of the runner's own variables that steps see, separated by commas, beside PATH, LANG, LC_*, TZ, SSL_CERT_FILE and SSL_CERT_DIR; steps of a fork's pull request see none of these"`
	CancelGrace time.Duration `envconfig:"CANCEL_GRACE" default:"10s" desc:"what steps get between SIGTERM and SIGKILL when their job is cancelled or out of time"`
	LogLimit    int64         `envconfig:"LOG_LIMIT" default:"67108864" desc:"bytes of log that are kept of one attempt: the first and the last half"`
}

var (
	stateName    = regexp.MustCompile(`^[a-z][a-z_]*$`)
	variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

// Validate names the first setting that cannot be.
func (c config) Validate() error {
	switch {
	case !c.Unsandboxed:
		return errors.New("EXECUTOR_UNSANDBOXED: this release runs steps without a sandbox, beside everything else on this machine; set it to true where you trust the code")
	case !stateName.MatchString(c.Takes) || jobs.Status(c.Takes) == jobs.StatusRunning:
		return fmt.Errorf("TAKES: %q is not a state that a runner could take jobs from", c.Takes)
	case c.StepUID < 1 || c.StepUID > 1<<31: // user ids end at 2^32-2
		return fmt.Errorf("STEP_UID: %d is not between 1 and 2147483648", c.StepUID)
	case c.CancelGrace < 0 || c.CancelGrace > time.Hour:
		return fmt.Errorf("CANCEL_GRACE: %s is not between 0s and 1h", c.CancelGrace)
	case c.LogLimit < joblog.MinLimit:
		return fmt.Errorf("LOG_LIMIT: %d is less than %d", c.LogLimit, joblog.MinLimit)
	}
	for _, name := range c.PassEnv {
		switch {
		case !variableName.MatchString(name):
			return fmt.Errorf("PASS_ENV: %q is not the name of a variable", name)
		case name == "DATABASE_URL" || name == "LISTEN_DATABASE_URL":
			return fmt.Errorf("PASS_ENV: %s holds a password, and is not for steps", name)
		}
	}
	return nil
}

// workDir is WORK_DIR or its default.
func (c config) workDir() string {
	if c.WorkDir != "" {
		return c.WorkDir
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("lockstep-runner-%d", os.Geteuid()))
}
