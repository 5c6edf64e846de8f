// Package guard cleans up after a process that had no chance to do so itself, because it was killed with
// SIGKILL or ran out of memory.
package guard

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
)

// Guard is a small shell that waits for this process to die: it reads from a pipe whose only other end is here,
// so that the kernel wakes it whatever the end was. (Linux' PR_SET_PDEATHSIG would need no shell, but it is bound
// to a thread, and other systems do not have it.)
type Guard struct {
	cmd  *exec.Cmd
	pipe io.Closer
}

// Start makes a guard that runs the shell script when this process dies; args are $1, $2 … in it. The guard leads
// a process group of its own, which children join by Join: `kill -KILL 0` in the script ends them all.
func Start(script string, args ...string) (*Guard, error) {
	cmd := exec.Command("/bin/sh", append([]string{"-c", "read -r _\n" + script, "guard"}, args...)...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin"}
	for _, name := range []string{"HOME", "DOCKER_HOST", "XDG_RUNTIME_DIR"} { // how a container engine is reached
		cmd.Env = append(cmd.Env, name+"="+os.Getenv(name))
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C in a terminal must not end the guard first
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("make pipe of guard: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start guard: %w", err)
	}
	return &Guard{cmd: cmd, pipe: pipe}, nil
}

// Join puts the process that attr is for into the guard's process group.
func (g *Guard) Join(attr *syscall.SysProcAttr) {
	attr.Setpgid, attr.Pgid = true, g.cmd.Process.Pid
}

// End ends the guard, whose script does not run then, and with SIGKILL whatever is left in its process group.
func (g *Guard) End() {
	_ = syscall.Kill(-g.cmd.Process.Pid, syscall.SIGKILL)
	_ = g.cmd.Wait()
	_ = g.pipe.Close()
}
