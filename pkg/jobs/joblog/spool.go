package joblog

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// spool keeps the log on disk until it is stored: its first half as it comes, of the rest the latest half in a ring.
// What lies between is cut.
type spool struct {
	head, tail *os.File
	half       int64 // bytes of each
	written    int64 // bytes that came in, cut ones too
	sealed     bool
	notice     []byte
}

func newSpool(dir string, limit int64) (*spool, error) {
	s := &spool{half: limit / 2}
	var err error
	if s.head, err = os.OpenFile(filepath.Join(dir, "log.head"), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600); err != nil {
		return nil, fmt.Errorf("make the log's spool: %w", err)
	}
	if s.tail, err = os.OpenFile(filepath.Join(dir, "log.tail"), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600); err != nil {
		s.head.Close()
		return nil, fmt.Errorf("make the log's spool: %w", err)
	}
	return s, nil
}

func (s *spool) write(p []byte) error {
	if n := min(int64(len(p)), s.half-s.written); n > 0 {
		if _, err := s.head.WriteAt(p[:n], s.written); err != nil {
			return fmt.Errorf("spool the log: %w", err)
		}
		s.written += n
		p = p[n:]
	}
	for len(p) > 0 {
		at := (s.written - s.half) % s.half
		n := min(int64(len(p)), s.half-at)
		if _, err := s.tail.WriteAt(p[:n], at); err != nil {
			return fmt.Errorf("spool the log: %w", err)
		}
		s.written += n
		p = p[n:]
	}
	return nil
}

// seal is called when all is written: then the tail can be read too.
func (s *spool) seal() {
	if cut := s.written - 2*s.half; cut > 0 && !s.sealed {
		s.notice = fmt.Appendf(nil, "\n[%d bytes were cut here: of a log over %d bytes the first and the last half are kept]\n", cut, 2*s.half)
	}
	s.sealed = true
}

// readable is how many of the bytes that are to be stored can be read by now.
func (s *spool) readable() int64 {
	if s.sealed {
		return min(s.written, 2*s.half) + int64(len(s.notice))
	}
	return s.headSize()
}

func (s *spool) headSize() int64 { return min(s.written, s.half) }

// readAt fills p from a byte of what is to be stored on; all of it must be readable.
func (s *spool) readAt(p []byte, offset int64) error {
	var oldest int64 // of the ring
	if s.written > 2*s.half {
		oldest = (s.written - s.half) % s.half
	}
	ring := max(0, min(s.written-s.half, s.half))
	for _, part := range []struct {
		from     io.ReaderAt
		at, size int64
	}{
		{s.head, 0, s.headSize()},
		{bytes.NewReader(s.notice), 0, int64(len(s.notice))},
		{s.tail, oldest, ring - oldest},
		{s.tail, 0, oldest},
	} {
		if offset >= part.size {
			offset -= part.size
			continue
		}
		n := min(int64(len(p)), part.size-offset)
		if _, err := part.from.ReadAt(p[:n], part.at+offset); err != nil {
			return fmt.Errorf("read the log's spool: %w", err)
		}
		p, offset = p[n:], 0
	}
	return nil
}

func (s *spool) close() {
	s.head.Close()
	s.tail.Close()
}
