package git

import "syscall"

// ownGroup puts git into a process group of its own, and has it killed should this process die.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
