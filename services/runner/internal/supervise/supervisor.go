package supervise

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// lostGrace is what processes get between SIGTERM and SIGKILL when the job is over or the runner is gone.
	lostGrace = time.Second

	// killBound is how long SIGKILL is repeated before the rest counts as unkillable (a process in
	// uninterruptible sleep dies when the kernel lets go of it).
	killBound = 10 * time.Second

	killEvery = 10 * time.Millisecond

	flushBound = 5 * time.Second
)

// Exit codes of the supervisor itself.
const (
	exitClean       = 0
	exitLeftovers   = 3 // some processes could not be killed
	exitNoNamespace = 4 // from inside: the namespaces cannot be set up here, do without
)

// Main is `runner supervise`: it serves one runner on stdin and stdout, and returns the exit code.
func Main(args []string) int {
	flags := flag.NewFlagSet("supervise", flag.ContinueOnError)
	silence := flags.Duration("silence", 40*time.Second, "end everything when the runner has not pinged for this long")
	shared := flags.Bool("shared", false, "stay in the machine's PID namespace")
	inside := flags.Bool("inside", false, "this is the process inside the new namespaces")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	switch {
	case *inside:
		if err := furnishNamespaces(); err != nil {
			return exitNoNamespace
		}
	case !*shared:
		if code, ok := enterNamespaces(append(args, "-inside")); ok {
			return code
		}
	}
	s := &supervisor{
		isolated: *inside,
		silence:  *silence,
		out:      frameWriter{w: os.Stdout},
		pongs:    make(chan struct{}, 1),
		mains:    map[int]*process{},
	}
	if err := s.serve(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "supervise:", err)
		return 1
	}
	if s.leftovers {
		return exitLeftovers
	}
	return exitClean
}

// supervisor is owned by the one goroutine of serve, save for out.
type supervisor struct {
	isolated bool // process 1 of a PID namespace
	silence  time.Duration
	out      frameWriter
	pongs    chan struct{}

	mains     map[int]*process // by pid: the processes started on command that still run
	started   []*process       // all since the last kill; their output may be open still
	leftovers bool
}

// process is one that was started on command. Its goroutine relay sends its output and its exit.
type process struct {
	id     uint32
	pid    int
	output *os.File
	exited chan unix.WaitStatus // takes one
	over   chan struct{}        // closed when nobody is left who could write more
	sent   chan struct{}        // closed when all was sent
}

// serve obeys until stdin ends or falls silent, then kills what is left.
func (s *supervisor) serve(stdin io.Reader) error {
	// Death signals are bound to the thread that started a process, and so is no_new_privs.
	runtime.LockOSThread()

	// Caught, not ignored: what is ignored stays so in the children. The runner decides when a job ends, also
	// when a terminal or systemd signals everybody.
	signal.Notify(make(chan os.Signal, 1), unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE, unix.SIGUSR1, unix.SIGUSR2)
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	unix.Umask(0o022)
	if err := prepare(); err != nil {
		return err
	}

	hello := frame{kind: kindHello}
	if s.isolated {
		hello.value = 1
	}
	_ = s.out.write(hello) // fails only when the runner is gone, and stdin tells that too

	commands := make(chan frame)
	go func() {
		defer close(commands)
		for {
			f, err := readFrame(stdin)
			if err != nil {
				return // the end; a broken frame is as good as a runner that is gone
			}
			commands <- f
		}
	}()
	go func() {
		for range s.pongs {
			_ = s.out.write(frame{kind: kindPong})
		}
	}()

	silent := time.NewTimer(s.silence)
	for {
		select {
		case <-children:
			s.reap()
		case <-silent.C:
			s.killAll(lostGrace, children, nil)
			return nil // nobody reads what is still to be sent
		case f, ok := <-commands:
			if !ok {
				s.killAll(lostGrace, children, nil)
				s.flush()
				return nil
			}
			silent.Reset(s.silence)
			switch f.kind {
			case kindPing:
				s.pong()
			case kindStart:
				s.start(f)
			case kindKill:
				s.killAll(f.grace(), children, commands)
				go s.reportKilled(s.started, s.leftovers)
				s.started = nil
			}
		}
	}
}

// start runs a command as the leader of its own session, so without a terminal.
func (s *supervisor) start(f frame) {
	p := &process{id: f.id, exited: make(chan unix.WaitStatus, 1), over: make(chan struct{}), sent: make(chan struct{})}
	refuse := func(err error) {
		var errno syscall.Errno
		if !errors.As(err, &errno) {
			errno = unix.EINVAL
		}
		go func() { _ = s.out.write(frame{kind: kindRefused, id: f.id, value: uint32(errno)}) }()
	}
	c, err := f.command()
	if err != nil {
		refuse(err)
		return
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		refuse(err)
		return
	}
	defer null.Close()
	// Only our end is non-blocking: programs do not expect EAGAIN from their stdout.
	var ends [2]int
	if err := newPipe(ends[:]); err != nil {
		refuse(err)
		return
	}
	defer unix.Close(ends[1])
	p.output = os.NewFile(uintptr(ends[0]), "output")

	attr := &syscall.ProcAttr{
		Dir:   c.Dir,
		Env:   c.Env,
		Files: []uintptr{null.Fd(), uintptr(ends[1]), uintptr(ends[1])},
		Sys:   processAttributes(),
	}
	if c.UID != 0 {
		attr.Sys.Credential = &syscall.Credential{Uid: c.UID, Gid: c.UID} // and no other groups
	}
	pid, err := forkExec(c, attr)
	if err != nil {
		p.output.Close()
		refuse(err)
		return
	}
	p.pid = pid
	s.mains[pid] = p
	s.started = append(s.started, p)
	go s.relay(p)
}

// forkExec looks the program up as execvp(3) does: in PATH of the command's own environment, on behalf of its
// own user, passing over what this user may not run.
func forkExec(c Command, attr *syscall.ProcAttr) (pid int, err error) {
	program := c.Args[0]
	if strings.Contains(program, "/") {
		return syscall.ForkExec(program, c.Args, attr)
	}
	err = unix.ENOENT
	for _, dir := range filepath.SplitList(lookup(c.Env, "PATH")) {
		if !filepath.IsAbs(dir) {
			continue
		}
		pid, e := syscall.ForkExec(filepath.Join(dir, program), c.Args, attr)
		switch {
		case e == nil:
			return pid, nil
		case errors.Is(e, unix.EACCES):
			err = e
		case errors.Is(e, unix.ENOENT), errors.Is(e, unix.ENOTDIR):
		default:
			return 0, e
		}
	}
	return 0, err
}

func lookup(env []string, name string) string {
	for i := len(env) - 1; i >= 0; i-- { // the last one holds
		if value, ok := strings.CutPrefix(env[i], name+"="); ok {
			return value
		}
	}
	return ""
}

// relay sends what comes out of p until it ends, then what was in the pipe at that moment, then the exit, then
// whatever its background processes still write.
func (s *supervisor) relay(p *process) {
	defer close(p.sent)
	defer p.output.Close()
	send := func(b []byte) {
		_ = s.out.write(frame{kind: kindOutput, id: p.id, text: b}) // fails only when the runner is gone
	}
	eof := p.copy(send)
	status := <-p.exited
	p.drain(send)
	f := frame{kind: kindExit, id: p.id, value: uint32(status.ExitStatus())}
	if status.Signaled() {
		f.kind, f.value = kindSignal, uint32(status.Signal())
	}
	_ = s.out.write(f)

	_ = p.output.SetReadDeadline(time.Time{})
	for !eof {
		select {
		case <-p.over:
			p.drain(send)
			return
		default:
			eof = p.copy(send)
		}
	}
}

// copy hands on the output until its end, or until interrupt.
func (p *process) copy(send func([]byte)) (eof bool) {
	buf := make([]byte, outputSize)
	for {
		n, err := p.output.Read(buf)
		if n > 0 {
			send(buf[:n])
		}
		if err != nil {
			return !errors.Is(err, os.ErrDeadlineExceeded)
		}
	}
}

// drain hands on what is in the pipe now, and never waits: background processes may write for ever.
func (p *process) drain(send func([]byte)) {
	raw, err := p.output.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		n, err := unix.IoctlGetInt(int(fd), unread)
		for err == nil && n > 0 {
			buf := make([]byte, min(n, outputSize))
			var m int
			if m, err = unix.Read(int(fd), buf); m > 0 {
				send(buf[:m])
				n -= m
			} else {
				break
			}
		}
	})
}

// interrupt ends a copy.
func (p *process) interrupt() { _ = p.output.SetReadDeadline(time.Unix(1, 0)) }

// reap takes every child that ended, ours and those orphaned to us, and says whether none is left.
func (s *supervisor) reap() (none bool) {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return !s.strays() // ECHILD
		case pid == 0:
			return false
		default:
			if p, ok := s.mains[pid]; ok {
				delete(s.mains, pid)
				p.exited <- status
				p.interrupt()
			}
		}
	}
}

// killAll ends every process of the job: SIGTERM, then after the grace SIGKILL until none is left.
func (s *supervisor) killAll(grace time.Duration, children <-chan os.Signal, commands <-chan frame) {
	if grace > 0 {
		s.signalAll(unix.SIGTERM)
		s.signalAll(unix.SIGCONT) // a stopped process does not see the first
	}
	s.leftovers = !s.await(grace, children, commands) && !s.slay(children)
	for _, p := range s.started {
		close(p.over)
		p.interrupt()
	}
}

// await gives the processes time to end by themselves, and says whether they did. A second kill command may
// shorten the grace, and the end of the commands does.
func (s *supervisor) await(grace time.Duration, children <-chan os.Signal, commands <-chan frame) (none bool) {
	over := time.NewTimer(grace)
	defer over.Stop()
	for !s.reap() {
		select {
		case <-children:
		case <-over.C:
			return false
		case f, ok := <-commands:
			switch {
			case !ok:
				commands = nil
				over.Reset(lostGrace)
			case f.kind == kindKill:
				over.Reset(f.grace())
			case f.kind == kindPing:
				s.pong()
			}
		}
	}
	return true
}

// slay repeats SIGKILL, since what it has not seen yet may fork, and says whether nothing is left.
func (s *supervisor) slay(children <-chan os.Signal) (none bool) {
	again := time.NewTicker(killEvery)
	defer again.Stop()
	bound := time.After(killBound)
	for !s.reap() {
		s.signalAll(unix.SIGKILL)
		select {
		case <-children:
		case <-again.C:
		case <-bound:
			return false
		}
	}
	return true
}

// reportKilled says that a kill is done, after all output and exits it caused.
func (s *supervisor) reportKilled(started []*process, leftovers bool) {
	f := frame{kind: kindKilled}
	if leftovers {
		f.value = 1 // and their exits may never come
	} else {
		for _, p := range started {
			<-p.sent
		}
	}
	_ = s.out.write(f)
}

// flush waits until all output was sent. A runner that died lets the writes fail; one that was stopped reads
// nothing, and is not waited for.
func (s *supervisor) flush() {
	bound := time.After(flushBound)
	for _, p := range s.started {
		select {
		case <-p.sent:
		case <-bound:
			return
		}
	}
}

// pong answers a ping, unless an answer is on its way.
func (s *supervisor) pong() {
	select {
	case s.pongs <- struct{}{}:
	default:
	}
}
