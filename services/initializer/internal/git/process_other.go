//go:build !linux

package git

import "syscall"

// ownGroup puts git into a process group of its own.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
