package main

import "golang.org/x/sys/unix"

// hide makes our memory and environment unreadable to other processes of the same user (prctl(2), PR_SET_DUMPABLE).
func hide() { _ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) }
