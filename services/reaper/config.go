package main

import (
	"fmt"
	"time"

	"github.com/lockstep-ci/lockstep/pkg/jobs/service"
)

// config is read from the environment.
type config struct {
	service.Common
	UnownedAfter time.Duration `envconfig:"UNOWNED_AFTER" default:"1h" desc:"how long a job may be held from psql, without a worker"`
	MaxFailures  int           `envconfig:"MAX_FAILURES" default:"5" desc:"infrastructure failures of one stage before a job ends as error"`
	MaxCrashes   int           `envconfig:"MAX_CRASHES" default:"3" desc:"workers of one stage that die with a job before it ends as error"`
}

// Validate names the first setting that cannot be.
func (c config) Validate() error {
	switch {
	case c.UnownedAfter <= 0:
		return fmt.Errorf("UNOWNED_AFTER: %s is not more than 0", c.UnownedAfter)
	case c.MaxFailures < 1:
		return fmt.Errorf("MAX_FAILURES: %d is less than 1", c.MaxFailures)
	case c.MaxCrashes < 1:
		return fmt.Errorf("MAX_CRASHES: %d is less than 1", c.MaxCrashes)
	}
	return nil
}
