package supervise

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// ErrSupervisorLost means that the supervisor ended or fell silent before it was asked to: nothing is known
// of its processes but that they are dead. It is an infrastructure failure, never a result.
var ErrSupervisorLost = errors.New("supervisor lost")

// Options of a session.
type Options struct {
	// Silence is how long either end waits for a sign of life of the other: the supervisor then ends all
	// processes, the runner ends the supervisor. Pings go out eight times as often. At least 100 ms.
	Silence time.Duration
	// Output takes what the processes write, stdout and stderr as one. It is called from one goroutine, must not
	// keep the slice, and holds up the job while it does not return.
	Output func(p []byte)
	// Shared keeps the job in the machine's PID namespace, as happens by itself where none can be had.
	Shared bool
	// Hold, if any, is a file that stays open while the supervisor lives, also when the runner does not: whoever
	// gets a lock on it knows that the job's processes are gone.
	Hold *os.File
}

// Command is a process to start.
type Command struct {
	Args []string // the first is looked up in the PATH of Env
	Env  []string // all of it: nothing is inherited
	Dir  string
	UID  uint32 // and gid, without further groups; 0 stays as the runner is

	// Output takes what is written until the process itself ends, in place of Options.Output.
	Output func(p []byte)
}

// Exit is how a process ended.
type Exit struct {
	Code   int            // 0 to 255; 128 + Signal when a signal ended it, as shells have it
	Signal syscall.Signal // 0 when it exited
}

// startBound is how long a supervisor may take to say hello.
const startBound = 30 * time.Second

// Session is the runner's end of one supervisor.
type Session struct {
	options  Options
	cmd      *exec.Cmd
	stdin    io.WriteCloser
	in       frameWriter
	crash    tail
	isolated bool

	ended chan struct{} // closed when the supervisor's stdout ended and it was reaped
	close sync.Once

	mu      sync.Mutex
	closing bool
	nextID  uint32
	running map[uint32]*Process
	killed  chan error // of the Kill under way
	err     error      // set before ended is closed
}

// Process is a command that was started.
type Process struct {
	program string
	output  func([]byte)
	done    chan struct{}
	exit    Exit
	err     error
}

// Start starts a supervisor. The caller must Close the session.
func Start(o Options) (*Session, error) {
	if err := adopt(); err != nil {
		return nil, err
	}
	s := &Session{
		options: o,
		ended:   make(chan struct{}),
		running: map[uint32]*Process{},
	}
	args := []string{"runner", "supervise", "-silence", o.Silence.String()}
	if o.Shared {
		args = append(args, "-shared")
	}
	// In a process group of its own, a terminal's Ctrl-C does not reach it. Its environment is empty:
	// steps may be able to see it.
	s.cmd = &exec.Cmd{
		Path: self, Args: args, Env: []string{}, Dir: "/",
		Stderr:      &s.crash,
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
		WaitDelay:   flushBound,
	}
	if o.Hold != nil {
		s.cmd.ExtraFiles = []*os.File{o.Hold}
	}
	var err error
	if s.stdin, err = s.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start supervisor: %w", err)
	}
	s.in.w = s.stdin
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start supervisor: %w", err)
	}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start supervisor: %w", err)
	}
	alive := make(chan struct{}, 1)
	hello := make(chan struct{})
	go s.ping()
	go s.watch(alive)
	go s.read(stdout, hello, alive)
	select {
	case <-hello:
		return s, nil
	case <-s.ended:
		return nil, errors.Join(s.err, s.Close())
	}
}

// Isolated says whether the job has a PID namespace of its own.
func (s *Session) Isolated() bool { return s.isolated }

// Start starts a process. That the program cannot be started is told by Wait.
func (s *Session) Start(c Command) *Process {
	p := &Process{program: c.Args[0], output: c.Output, done: make(chan struct{})}
	if p.output == nil {
		p.output = s.options.Output
	}
	s.mu.Lock()
	s.nextID++
	id := s.nextID
	s.running[id] = p
	s.mu.Unlock()
	if err := s.in.write(startFrame(id, c)); err != nil {
		if errors.Is(err, errBadFrame) {
			s.refuse(id, syscall.E2BIG)
		} else {
			s.finish(id, Exit{}, fmt.Errorf("%w: send command: %w", ErrSupervisorLost, err))
		}
	}
	select {
	case <-s.ended:
		s.finish(id, Exit{}, s.err)
	default: // read will see p when it ends
	}
	return p
}

// StartError says why a program could not be started. Err is a syscall.Errno: ENOENT when it, its
// interpreter or its folder is not there.
type StartError struct {
	Program string
	Err     error
}

func (e *StartError) Error() string { return fmt.Sprintf("start %s: %v", e.Program, e.Err) }

func (e *StartError) Unwrap() error { return e.Err }

// Done is closed when the process has ended and all it wrote before has been handed to Options.Output.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for Done. The error is a *StartError when the program could not be started, and
// ErrSupervisorLost when nobody can know how it ended.
func (p *Process) Wait() (Exit, error) {
	<-p.done
	return p.exit, p.err
}

// Kill ends every process of the job, those in the background too: SIGTERM, and SIGKILL after the grace. It
// returns when none is left; the session can then be used on. One Kill at a time.
func (s *Session) Kill(ctx context.Context, grace time.Duration) error {
	killed := make(chan error, 1)
	s.mu.Lock()
	s.killed = killed
	s.mu.Unlock()
	if err := s.in.write(frame{kind: kindKill, value: uint32(grace.Milliseconds())}); err != nil {
		return fmt.Errorf("%w: send kill: %w", ErrSupervisorLost, err)
	}
	select {
	case err := <-killed:
		return err
	case <-s.ended:
		return s.err
	case <-ctx.Done():
		return fmt.Errorf("kill the job's processes: %w", context.Cause(ctx))
	}
}

// Close ends the job: whatever still runs is killed. It returns when nothing is left, or says that something is.
func (s *Session) Close() error {
	s.close.Do(func() {
		s.mu.Lock()
		s.closing = true
		s.mu.Unlock()
		_ = s.stdin.Close()
		limit := time.AfterFunc(lostGrace+killBound+2*flushBound, s.terminate)
		<-s.ended
		limit.Stop()
	})
	// A supervisor that is lost cannot have cleaned up.
	err := killOrphans()
	if s.cmd.ProcessState.ExitCode() == exitLeftovers {
		err = errors.Join(err, errors.New("some processes of the job could not be killed"))
	}
	return err
}

// terminate ends the supervisor by force. In a PID namespace that kills the job.
func (s *Session) terminate() { _ = s.cmd.Process.Kill() }

func (s *Session) ping() {
	tick := time.NewTicker(s.options.Silence / 8)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			_ = s.in.write(frame{kind: kindPing}) // read notices that the supervisor is gone
		case <-s.ended:
			return
		}
	}
}

// watch ends a supervisor that no longer answers: a step may have stopped it.
func (s *Session) watch(alive <-chan struct{}) {
	silent := time.NewTimer(max(s.options.Silence, startBound)) // a busy machine starts processes slowly
	defer silent.Stop()
	for {
		select {
		case <-alive:
			silent.Reset(s.options.Silence)
		case <-silent.C:
			s.terminate()
			return
		case <-s.ended:
			return
		}
	}
}

// read obeys the supervisor's frames until they end.
func (s *Session) read(stdout io.Reader, hello, alive chan<- struct{}) {
	var err error
	for {
		var f frame
		if f, err = readFrame(stdout); err != nil {
			break
		}
		select {
		case alive <- struct{}{}:
		default:
		}
		switch f.kind {
		case kindHello:
			if hello != nil {
				s.isolated = f.value == 1
				close(hello)
				hello = nil
			}
		case kindOutput:
			s.output(f.id)(f.text)
		case kindExit:
			s.finish(f.id, Exit{Code: int(f.value)}, nil)
		case kindSignal:
			s.finish(f.id, Exit{Code: 128 + int(f.value), Signal: syscall.Signal(f.value)}, nil)
		case kindRefused:
			s.refuse(f.id, syscall.Errno(f.value))
		case kindKilled:
			s.finishKill(f.value)
		}
	}
	if !errors.Is(err, io.EOF) {
		s.terminate() // it no longer speaks our language
	}
	_ = s.cmd.Wait() // ProcessState tells

	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closing:
		s.err = fmt.Errorf("%w: the session was closed", ErrSupervisorLost)
	default:
		s.err = fmt.Errorf("%w: %w; it ended with %s%s", ErrSupervisorLost, err, s.cmd.ProcessState, s.crash.text())
	}
	for id, p := range s.running {
		delete(s.running, id)
		p.err = s.err
		close(p.done)
	}
	close(s.ended)
}

// output is who takes the output of a process; what comes after its end is its children's.
func (s *Session) output(id uint32) func([]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.running[id]; ok {
		return p.output
	}
	return s.options.Output
}

// finish ends the wait for a process, once.
func (s *Session) finish(id uint32, exit Exit, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.running[id]
	if !ok {
		return
	}
	delete(s.running, id)
	p.exit, p.err = exit, err
	close(p.done)
}

// refuse ends the wait for a process that could not be started.
func (s *Session) refuse(id uint32, why syscall.Errno) {
	s.mu.Lock()
	p, ok := s.running[id]
	s.mu.Unlock()
	if ok {
		s.finish(id, Exit{}, &StartError{Program: p.program, Err: why})
	}
}

func (s *Session) finishKill(leftovers uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.killed == nil {
		return
	}
	var err error
	if leftovers != 0 {
		err = errors.New("some processes of the job could not be killed")
	}
	s.killed <- err
	s.killed = nil
}

// tail keeps the end of what a crashing supervisor says.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailSize = 2 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	t.buf = t.buf[max(0, len(t.buf)-tailSize):]
	return len(p), nil
}

func (t *tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if said := bytes.TrimSpace(t.buf); len(said) > 0 {
		return "; it said: " + string(said)
	}
	return ""
}
