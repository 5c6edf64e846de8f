package jobs_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// wire stands between the library and PostgreSQL and lets statements through one by one, just as the library sends them:
// also those of one batch, which travel together. It knows enough of the protocol (PostgreSQL manual, "Frontend/Backend
// Protocol") to tell where a statement begins and where a transaction ends.
type wire struct {
	listener net.Listener
	server   *pgconn.Config
	armed    atomic.Bool   // there are gates
	quiet    atomic.Bool   // but none for what only reads
	gates    chan gate     // somebody waits at a gate
	open     chan struct{} // one token lets him through
	closed   chan struct{}
	links    sync.WaitGroup
}

// gate is a statement, or the end of a transaction, that is to be let through.
type gate struct {
	what string // the first word of the query's comment, or "commit"
	pid  uint32 // the server's process
}

// newWire listens on a port of its own for connections to the database at url.
func newWire(t testing.TB, database string) *wire {
	t.Helper()
	server, err := pgconn.ParseConfig(database)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{listener: listener, server: server, gates: make(chan gate), open: make(chan struct{}), closed: make(chan struct{})}
	w.links.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			w.links.Go(func() { w.link(client) })
		}
	})
	t.Cleanup(func() {
		close(w.closed)
		_ = listener.Close()
		w.links.Wait()
	})
	return w
}

// through is the URL of the same database by way of this wire.
func (w *wire) through(t testing.TB, database string) string {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = w.listener.Addr().String()
	query := u.Query()
	query.Del("host")
	query.Del("port")
	query.Set("sslmode", "disable")
	u.RawQuery = query.Encode()
	return u.String()
}

// link is one connection.
type link struct {
	*wire
	client, server net.Conn
	names          map[string]string // prepared statements

	mu       sync.Mutex
	moved    *sync.Cond
	pid      uint32
	sent     int  // statements on their way since the last ReadyForQuery
	answered int  // ... that have an answer
	failed   bool // the server ignores everything until the next Sync
	inTx     bool
	ended    bool
}

func (w *wire) link(client net.Conn) {
	defer func() { _ = client.Close() }()
	network, address := pgconn.NetworkAddress(w.server.Host, w.server.Port)
	server, err := net.Dial(network, address)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	l := &link{wire: w, client: client, server: server, names: map[string]string{}}
	l.moved = sync.NewCond(&l.mu)
	var back sync.WaitGroup
	back.Go(func() {
		_ = l.answers()
		_ = client.Close()
		l.mu.Lock()
		l.ended = true
		l.moved.Broadcast()
		l.mu.Unlock()
	})
	back.Go(func() {
		select {
		case <-w.closed:
		case <-l.over():
		}
		_ = client.Close()
		_ = server.Close()
	})
	_ = l.asks()
	_ = server.Close()
	back.Wait()
}

// over is closed when the server has ended the connection.
func (l *link) over() <-chan struct{} {
	c := make(chan struct{})
	go func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		for !l.ended {
			l.moved.Wait()
		}
		close(c)
	}()
	return c
}

// frame reads one message: its type and all of its bytes.
func frame(from io.Reader) (kind byte, message []byte, err error) {
	head := make([]byte, 5)
	if _, err := io.ReadFull(from, head); err != nil {
		return 0, nil, err
	}
	message = make([]byte, 1+binary.BigEndian.Uint32(head[1:]))
	copy(message, head)
	_, err = io.ReadFull(from, message[5:])
	return head[0], message, err
}

// asks passes on what the library sends, and waits at the gates.
func (l *link) asks() error {
	size := make([]byte, 4) // the first message has no type
	if _, err := io.ReadFull(l.client, size); err != nil {
		return err
	}
	start := make([]byte, binary.BigEndian.Uint32(size))
	copy(start, size)
	if _, err := io.ReadFull(l.client, start[4:]); err != nil {
		return err
	}
	if _, err := l.server.Write(start); err != nil {
		return err
	}
	wrote := false // the implicit transaction has done more than read
	for {
		kind, message, err := frame(l.client)
		if err != nil {
			return err
		}
		switch kind {
		case 'P': // Parse
			name, rest, _ := bytes.Cut(message[5:], []byte{0})
			sql, _, _ := bytes.Cut(rest, []byte{0})
			l.names[string(name)] = string(sql)
		case 'B': // Bind: a statement begins
			_, rest, _ := bytes.Cut(message[5:], []byte{0})
			name, _, _ := bytes.Cut(rest, []byte{0})
			sql := l.names[string(name)]
			wrote = wrote || writes.MatchString(sql)
			if !harmless[title(sql)] && (!l.quiet.Load() || wrote) {
				err = l.gate(title(sql))
			}
		case 'E': // Execute. With a Flush behind it the answer does not wait for the batch's end.
			l.mu.Lock()
			l.sent++
			l.mu.Unlock()
			message = append(message, 'H', 0, 0, 0, 4)
		case 'S': // Sync: an implicit transaction ends
			if wrote && !l.transaction() {
				err = l.gate("commit")
			}
			wrote = false
		case 'Q': // a statement without arguments
			sql := strings.ToLower(string(bytes.TrimRight(message[5:], "\x00")))
			if sql == "commit" || sql == "rollback" {
				err = l.gate(sql)
			}
		}
		if err != nil {
			return err
		}
		if _, err := l.server.Write(message); err != nil {
			return err
		}
	}
}

// writes tells statements that change or lock something from those that only read.
var writes = regexp.MustCompile(`\b(UPDATE|INSERT|DELETE|FOR SHARE|ci_admit)\b`)

// harmless reads never need a gate: nothing changes what they see.
var harmless = map[string]bool{"SELECT set_config": true, "SELECT EXISTS": true}

// gate waits until the statements before have an answer, and then to be let through.
func (l *link) gate(what string) error {
	l.mu.Lock()
	for l.answered < l.sent && !l.failed && !l.ended {
		l.moved.Wait()
	}
	failed, pid := l.failed, l.pid
	l.mu.Unlock()
	if failed || !l.armed.Load() {
		return nil
	}
	select {
	case l.gates <- gate{what, pid}:
	case <-l.closed:
		return net.ErrClosed
	}
	select {
	case <-l.open:
		return nil
	case <-l.closed:
		return net.ErrClosed
	}
}

func (l *link) transaction() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.answered < l.sent && !l.failed && !l.ended {
		l.moved.Wait()
	}
	return l.inTx
}

// answers passes on what the server sends.
func (l *link) answers() error {
	for {
		kind, message, err := frame(l.server)
		if err != nil {
			return err
		}
		l.mu.Lock()
		switch kind {
		case 'K': // BackendKeyData
			l.pid = binary.BigEndian.Uint32(message[5:])
		case 'C', 'I', 's': // CommandComplete, EmptyQueryResponse, PortalSuspended
			l.answered++
		case 'E': // ErrorResponse
			l.failed = true
		case 'Z': // ReadyForQuery
			l.sent, l.answered, l.failed, l.inTx = 0, 0, false, message[5] != 'I'
		}
		l.moved.Broadcast()
		l.mu.Unlock()
		if _, err := l.client.Write(message); err != nil {
			return err
		}
	}
}

// title is how a query is called: its comment begins with its name.
func title(sql string) string {
	name, _, found := strings.Cut(strings.TrimPrefix(sql, "-- "), ":")
	if found && strings.HasPrefix(sql, "-- ") {
		return name
	}
	name, _, _ = strings.Cut(strings.Join(strings.Fields(sql), " "), "(")
	return strings.TrimSpace(name)
}
