package jobs_test

import (
	"fmt"
	"testing"

	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
)

// newDatabase gives an example a migrated database of its own. The program that the reader writes has DATABASE_URL.
func newDatabase() (url string, drop func()) {
	e := &example{}
	return jobstest.New(e).URL, func() {
		for i := len(e.cleanups) - 1; i >= 0; i-- {
			e.cleanups[i]()
		}
	}
}

// example stands where jobstest wants a test: what is not here, it does not need.
type example struct {
	testing.TB
	cleanups []func()
}

func (e *example) Helper()                           {}
func (e *example) Cleanup(do func())                 { e.cleanups = append(e.cleanups, do) }
func (e *example) Errorf(format string, args ...any) { fmt.Printf(format+"\n", args...) } // no example expects that
func (e *example) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
func (e *example) Fatal(args ...any)                 { panic(fmt.Sprint(args...)) }
