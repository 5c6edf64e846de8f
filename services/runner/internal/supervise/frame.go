package supervise

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// kind is the first byte of a frame.
type kind byte

const (
	// To the supervisor.
	kindStart kind = 'S' // id; the value is the uid (0: the supervisor's own); the text is a command
	kindKill  kind = 'K' // end everything; the value is the grace in milliseconds
	kindPing  kind = 'P'

	// To the runner.
	kindHello   kind = 'h' // the first frame; the value is 1 in a PID namespace
	kindRefused kind = 'r' // id: it could not be started; the value is the errno
	kindOutput  kind = 'o' // id; text
	kindExit    kind = 'x' // id; the value is the exit code
	kindSignal  kind = 'g' // id; the value is the signal that ended the process
	kindKilled  kind = 'k' // the value is 1 if some could not be killed
	kindPong    kind = 'p'
)

// frame is one message. On the wire: kind (1 byte), length of the payload (4 bytes, big endian), payload; the
// payload is id (4 bytes), value (4 bytes), text.
type frame struct {
	kind  kind
	id    uint32 // which process; 0 where it is about all
	value uint32
	text  []byte
}

const (
	headerSize = 5
	fixedSize  = 8 // id and value

	// maxText holds any argument list and environment that Linux would take by default (2 MiB), with room.
	maxText = 4 << 20

	// outputSize is how much output one frame carries at most.
	outputSize = 32 << 10
)

var errBadFrame = errors.New("bad frame")

// frameWriter writes whole frames; several goroutines may share it.
type frameWriter struct {
	mu  sync.Mutex
	w   io.Writer
	buf []byte
}

func (fw *frameWriter) write(f frame) error {
	if len(f.text) > maxText {
		return fmt.Errorf("%w: %d bytes are more than %d", errBadFrame, len(f.text), maxText)
	}
	fw.mu.Lock()
	defer fw.mu.Unlock()
	b := append(fw.buf[:0], byte(f.kind))
	b = binary.BigEndian.AppendUint32(b, uint32(fixedSize+len(f.text)))
	b = binary.BigEndian.AppendUint32(b, f.id)
	b = binary.BigEndian.AppendUint32(b, f.value)
	b = append(b, f.text...)
	fw.buf = b
	_, err := fw.w.Write(b)
	return err
}

// readFrame returns the next frame, io.EOF at the end between two frames, and errBadFrame or
// io.ErrUnexpectedEOF for anything else.
func readFrame(r io.Reader) (frame, error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return frame{}, err
	}
	size := binary.BigEndian.Uint32(header[1:])
	if size < fixedSize || size > fixedSize+maxText {
		return frame{}, fmt.Errorf("%w: payload of %d bytes", errBadFrame, size)
	}
	payload := make([]byte, size)
	if _, err := io.ReadFull(r, payload); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return frame{}, err
	}
	return frame{
		kind:  kind(header[0]),
		id:    binary.BigEndian.Uint32(payload),
		value: binary.BigEndian.Uint32(payload[4:]),
		text:  payload[fixedSize:],
	}, nil
}

// startFrame packs a command. Strings are bytes to Linux, not text, so JSON would not do.
func startFrame(id uint32, c Command) frame {
	b := appendString(nil, c.Dir)
	b = appendStrings(b, c.Args)
	b = appendStrings(b, c.Env)
	return frame{kind: kindStart, id: id, value: c.UID, text: b}
}

func (f frame) command() (Command, error) {
	d := decoder{b: f.text}
	c := Command{UID: f.value, Dir: d.string(), Args: d.strings(), Env: d.strings()}
	if d.bad || len(d.b) > 0 || len(c.Args) == 0 {
		return Command{}, fmt.Errorf("%w: command", errBadFrame)
	}
	return c, nil
}

// grace is that of a kill.
func (f frame) grace() time.Duration { return time.Duration(f.value) * time.Millisecond }

func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

func appendStrings(b []byte, list []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, s := range list {
		b = appendString(b, s)
	}
	return b
}

// decoder takes values off the front of b; after the first bad one all are zero.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) string() string {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.bad, d.b = true, nil
		return ""
	}
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}

func (d *decoder) strings() []string {
	n := d.uvarint()
	if n > uint64(len(d.b)) { // each takes one byte at least
		d.bad, d.b = true, nil
		return nil
	}
	var list []string
	for range n {
		list = append(list, d.string())
	}
	return list
}
