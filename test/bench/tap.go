package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
)

// tap is a TCP proxy on loopback in front of PostgreSQL that sees what passes: how many statements, and how long each
// took. It works for programs that we cannot look into, and knows of a statement what the server knows of it.
type tap struct {
	listener net.Listener
	server   string // address
	loops    sync.WaitGroup

	mu         sync.Mutex
	conns      map[net.Conn]bool
	statements []statement // that have ended
}

// statement is one that the server has answered.
type statement struct {
	sql  string
	rows int           // that it changed or returned
	at   time.Time     // when it came by
	took time.Duration // from its arrival here until the server was ready for the next: the commit too
}

// newTap makes a tap in front of the server that the URL names.
func newTap(databaseURL string) (*tap, error) {
	u, err := url.Parse(databaseURL)
	if err != nil {
		return nil, fmt.Errorf("read URL: %w", err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for connections to PostgreSQL: %w", err)
	}
	t := &tap{listener: listener, server: u.Host, conns: map[net.Conn]bool{}}
	t.loops.Go(t.accept)
	return t, nil
}

// through is the URL, but by way of the tap.
func (t *tap) through(databaseURL string) string {
	u, err := url.Parse(databaseURL)
	if err != nil {
		panic(err) // pgx has parsed it
	}
	u.Host = t.listener.Addr().String()
	query := u.Query()
	query.Set("sslmode", "disable") // what is encrypted cannot be read
	u.RawQuery = query.Encode()
	return u.String()
}

// open opens the queue through the tap.
func (t *tap) open(ctx context.Context, d *database, service string) (*jobs.DB, error) {
	db, err := jobs.Open(ctx, t.through(d.as(service)), jobs.Options{App: service})
	if err != nil {
		return nil, fmt.Errorf("open the queue as %s: %w", service, err)
	}
	return db, nil
}

// seen returns the statements since the last call.
func (t *tap) seen() []statement {
	t.mu.Lock()
	defer t.mu.Unlock()
	seen := t.statements
	t.statements = nil
	return seen
}

// claims are those statements seen that claimed jobs.
func (t *tap) claims() []statement {
	return slices.DeleteFunc(t.seen(), func(s statement) bool {
		return s.rows == 0 || !strings.Contains(s.sql, "UPDATE ci_jobs") || !strings.Contains(s.sql, "SKIP LOCKED")
	})
}

func (t *tap) close() {
	_ = t.listener.Close()
	t.mu.Lock()
	for conn := range t.conns {
		_ = conn.Close()
	}
	t.mu.Unlock()
	t.loops.Wait()
}

func (t *tap) accept() {
	for {
		client, err := t.listener.Accept()
		if err != nil { // closed
			return
		}
		server, err := net.DialTimeout("tcp", t.server, 5*time.Second)
		if err != nil {
			_ = client.Close()
			continue
		}
		t.mu.Lock()
		t.conns[client], t.conns[server] = true, true
		t.mu.Unlock()
		s := &session{tap: t, prepared: map[string]string{}}
		forward := func(from, to net.Conn, startup bool, see func(kind byte, body []byte)) {
			_ = copyMessages(to, from, startup, see) // whichever end went: so does the other
			_ = client.Close()
			_ = server.Close()
			t.mu.Lock()
			delete(t.conns, from)
			t.mu.Unlock()
		}
		t.loops.Go(func() { forward(client, server, true, s.asked) })
		t.loops.Go(func() { forward(server, client, false, s.answered) })
	}
}

// copyMessages passes on the messages of PostgreSQL's protocol 3.0, each a letter, a length and a body. The first one of a
// client has no letter.
func copyMessages(to io.Writer, from io.Reader, startup bool, see func(kind byte, body []byte)) error {
	in, out := bufio.NewReaderSize(from, 1<<16), bufio.NewWriterSize(to, 1<<16)
	for {
		head := make([]byte, 5)
		if startup {
			head = head[:4]
		}
		if _, err := io.ReadFull(in, head); err != nil {
			return err
		}
		length := binary.BigEndian.Uint32(head[len(head)-4:])
		if length < 4 || length > 1<<30 {
			return errors.New("this is not PostgreSQL's protocol")
		}
		body := make([]byte, length-4)
		if _, err := io.ReadFull(in, body); err != nil {
			return err
		}
		if !startup {
			see(head[0], body)
		}
		startup = false
		_, err := out.Write(head)
		if err == nil {
			_, err = out.Write(body)
		}
		if err == nil && in.Buffered() == 0 {
			err = out.Flush()
		}
		if err != nil {
			return err
		}
	}
}

// session is one connection's statements.
type session struct {
	tap *tap

	mu       sync.Mutex
	prepared map[string]string // SQL by the name of the prepared statement
	bound    string            // SQL of the last Bind
	waiting  []asked           // sent, and not answered
}

type asked struct {
	statement
	answered bool
	sync     bool // the end of a group, which the server answers with ReadyForQuery
}

// asked sees what the client sends.
func (s *session) asked(kind byte, body []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch kind {
	case 'P': // Parse: name, SQL
		name, rest := text(body)
		s.prepared[name], _ = text(rest)
	case 'B': // Bind: portal, name
		_, rest := text(body)
		name, _ := text(rest)
		s.bound = s.prepared[name]
	case 'E': // Execute
		s.waiting = append(s.waiting, asked{statement: statement{sql: s.bound, at: time.Now()}})
	case 'Q': // simple query
		sql, _ := text(body)
		s.waiting = append(s.waiting, asked{statement: statement{sql: sql, at: time.Now()}}, asked{sync: true})
	case 'S': // Sync
		s.waiting = append(s.waiting, asked{sync: true})
	}
}

// answered sees what the server sends.
func (s *session) answered(kind byte, body []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch kind {
	case 'C': // CommandComplete: `UPDATE 3`
		tag, _ := text(body)
		for i := range s.waiting {
			if one := &s.waiting[i]; !one.sync && !one.answered {
				one.answered = true
				one.rows, _ = strconv.Atoi(tag[strings.LastIndexByte(tag, ' ')+1:]) // BEGIN has no number
				break
			}
		}
	case 'Z': // ReadyForQuery
		now := time.Now()
		for len(s.waiting) > 0 {
			one := s.waiting[0]
			s.waiting = s.waiting[1:]
			if one.sync {
				break
			}
			one.took = now.Sub(one.at)
			s.tap.mu.Lock()
			s.tap.statements = append(s.tap.statements, one.statement)
			s.tap.mu.Unlock()
		}
	}
}

// text reads a string that ends with a zero byte.
func text(body []byte) (string, []byte) {
	s, rest, _ := bytes.Cut(body, []byte{0})
	return string(s), rest
}
