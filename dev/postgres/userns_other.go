//go:build !linux

package postgres

import "syscall"

// enterUserNamespace does nothing: only Linux has user namespaces. The server then says what it does not like.
func (account) enterUserNamespace(*syscall.SysProcAttr) {}
