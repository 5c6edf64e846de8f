package postgres

import "syscall"

// enterUserNamespace makes a process see itself as 65534, nobody on every Linux, while it is the account to
// everybody else. This also gives a name to a user who is not in the passwd file.
func (a account) enterUserNamespace(attr *syscall.SysProcAttr) {
	const nobody = 65534
	attr.Cloneflags = syscall.CLONE_NEWUSER
	attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: nobody, HostID: a.uid, Size: 1}}
	attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: nobody, HostID: a.gid, Size: 1}}
}
