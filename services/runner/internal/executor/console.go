package executor

import (
	"fmt"
	"io"
	"sync"
)

// Log is where the output of a job goes.
type Log interface {
	io.Writer
	Offset() int64 // of the next byte
}

// Console puts the output of a job and our own lines into one log. An error of the log is told once, to broken.
type Console struct {
	log    Log
	broken func(error)

	mu      sync.Mutex
	midLine bool
}

// NewConsole writes to log.
func NewConsole(log Log, broken func(error)) *Console { return &Console{log: log, broken: broken} }

// Output takes what steps write.
func (c *Console) Output(p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.write(p)
}

// Note writes a line of ours and returns where it begins.
func (c *Console) Note(format string, args ...any) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.midLine {
		c.write([]byte("\n"))
	}
	begin := c.log.Offset()
	c.write(fmt.Appendf(nil, "lockstep: "+format+"\n", args...))
	return begin
}

func (c *Console) write(p []byte) {
	if len(p) == 0 {
		return
	}
	c.midLine = p[len(p)-1] != '\n'
	if _, err := c.log.Write(p); err != nil && c.broken != nil {
		c.broken(err)
		c.broken = nil
	}
}
