package executor_test

import "golang.org/x/sys/unix"

func init() {
	hide = func() {
		if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
			panic(err)
		}
	}
}
