package postgres

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// account is whom a server runs as. PostgreSQL refuses to run as root, and its initdb a user without a name.
type account struct {
	name     string
	uid, gid int  // as this process sees them: the owner of the data folder
	switched bool // needs SysProcAttr.Credential
	userns   bool // runs in a user namespace where this user is called nobody (Linux)
}

// accounts lists whom a server could run as here, best first.
func accounts() []account {
	self := account{uid: os.Geteuid(), gid: os.Getegid()}
	renamed := self
	renamed.name, renamed.userns = "nobody, in a user namespace", true
	if self.uid != 0 {
		named, err := user.LookupId(strconv.Itoa(self.uid))
		if err != nil {
			self.name = "uid " + strconv.Itoa(self.uid)
			return []account{renamed, self}
		}
		self.name = named.Username
		return []account{self}
	}
	var all []account
	for _, name := range []string{"postgres", "nobody"} {
		found, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.Atoi(found.Uid)
		if err != nil {
			continue
		}
		gid, err := strconv.Atoi(found.Gid)
		if err != nil {
			continue
		}
		all = append(all, account{name: name, uid: uid, gid: gid, switched: true})
	}
	return append(all, renamed)
}

// command is a program of the server, to be run as the account. It inherits nothing of our environment, which
// holds what a database has no business with.
func (a account) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "TZ=UTC"}
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	switch {
	case a.switched:
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)} // ids come from the passwd file
	case a.userns:
		a.enterUserNamespace(cmd.SysProcAttr)
	}
	return cmd
}

// version runs the server binary in the folder bin as each account until one can, and returns that account and the
// major version: 15 for "postgres (PostgreSQL) 15.18". suits may turn an account down.
func version(ctx context.Context, bin string, suits func(account) bool) (account, int, error) {
	if _, err := os.Stat(filepath.Join(bin, "initdb")); err != nil {
		return account{}, 0, fmt.Errorf("no initdb in %s", bin)
	}
	lacked := fmt.Errorf("nobody here may run %s", bin)
	for _, a := range accounts() {
		if !suits(a) {
			continue
		}
		out, err := a.command(ctx, filepath.Join(bin, "postgres"), "--version").CombinedOutput()
		if err != nil {
			lacked = fmt.Errorf("run %s as %s: %w %s", filepath.Join(bin, "postgres"), a.name, err, firstLine(string(out)))
			continue
		}
		_, number, _ := strings.Cut(string(out), "(PostgreSQL) ")
		digits := number[:len(number)-len(strings.TrimLeft(number, "0123456789"))] // "18beta1" and "15.18" alike
		major, err := strconv.Atoi(digits)
		if err != nil {
			return account{}, 0, fmt.Errorf("%s has an unknown version: %s", bin, firstLine(string(out)))
		}
		if major < oldest {
			return account{}, 0, fmt.Errorf("%s is PostgreSQL %d, at least %d is needed", bin, major, oldest)
		}
		return a, major, nil
	}
	return account{}, 0, lacked
}

func anyAccount(account) bool { return true }

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}
