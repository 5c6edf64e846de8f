package gateway

import (
	"net"
	"net/http"
	"net/netip"
	"testing"

	"go.uber.org/zap"
)

// from is a connection that says where it comes from, and remembers that it was closed.
type from struct {
	net.Conn
	addr   string
	closed bool
}

func (f *from) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(f.addr))
}

func (f *from) Close() error {
	f.closed = true
	return nil
}

func TestOneConnectionTooManyIsClosed(t *testing.T) {
	t.Parallel()
	crowd := &crowd{all: 3, each: 2, from: map[netip.Addr]int{}, log: zap.NewNop()}
	var open []*from
	comes := func(addr string, welcome bool) *from {
		t.Helper()
		conn := &from{addr: addr}
		crowd.observe(conn, http.StateNew)
		crowd.observe(conn, http.StateActive)
		if conn.closed == welcome {
			t.Errorf("one of %s is let in: %t, with %d open", addr, !conn.closed, crowd.open)
		}
		if conn.closed {
			crowd.observe(conn, http.StateClosed)
		} else {
			open = append(open, conn)
		}
		return conn
	}
	comes("192.0.2.1:1", true)
	socket := comes("192.0.2.1:2", true)
	comes("192.0.2.1:3", false) // two of this address
	comes("[2001:db8::1]:1", true)
	comes("192.0.2.2:1", false) // three of all
	crowd.observe(socket, http.StateHijacked)
	comes("192.0.2.1:4", true)
	for _, conn := range open {
		if conn != socket {
			crowd.observe(conn, http.StateClosed)
		}
	}
	if crowd.open != 0 || len(crowd.from) != 0 {
		t.Errorf("after all have gone: %d open, from %v", crowd.open, crowd.from)
	}
}
