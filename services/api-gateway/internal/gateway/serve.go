package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	headerLimit   = 5 * time.Second  // for a request's header to arrive
	readLimit     = 30 * time.Second // for all of a request
	writeLimit    = 60 * time.Second // for all of an answer; streams have a limit for each piece instead (package patient)
	idleLimit     = 2 * time.Minute  // between two requests of a connection
	pingAfter     = 20 * time.Second // of silence on an HTTP/2 connection: nothing else notices a client that has gone
	pongLimit     = 10 * time.Second
	shutdownLimit = 10 * time.Second // for requests in flight

	maxHeader     = 32 << 10  // bytes of a request's line and header fields
	maxStreams    = 250       // requests at once on one HTTP/2 connection
	maxStreamBuf  = 64 << 10  // bytes of one HTTP/2 request that wait to be read
	maxBuf        = 256 << 10 // and of all requests of one connection
	maxConns      = 12_000    // connections, those that have become WebSockets apart (package watch limits them)
	maxConnsOfOne = 10_000    // of one address, which may be a proxy's: the rest is for everybody else
	maxUnread     = 128 << 10 // bytes that the kernel keeps for a client that reads slowly; by itself it would keep 4 MB
	complainEvery = time.Minute
)

// Serve answers on listener until ctx ends; then it sends watchers away, finishes the requests in flight and returns nil.
func (g *Gateway) Serve(ctx context.Context, listener net.Listener) error {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true) // gRPC, on the same port
	crowd := &crowd{all: maxConns, each: maxConnsOfOne, from: map[netip.Addr]int{}, log: g.log}
	server := &http.Server{
		Handler:           g.handler,
		ReadHeaderTimeout: headerLimit,
		ReadTimeout:       readLimit,
		WriteTimeout:      writeLimit,
		IdleTimeout:       idleLimit,
		MaxHeaderBytes:    maxHeader,
		Protocols:         &protocols,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: maxStreams, MaxReceiveBufferPerStream: maxStreamBuf, MaxReceiveBufferPerConnection: maxBuf,
			SendPingTimeout: pingAfter, PingTimeout: pongLimit, WriteByteTimeout: writeLimit,
		},
		ConnState:   crowd.observe,
		ConnContext: keepLittle,
		ErrorLog:    zap.NewStdLog(g.log),
	}
	var background sync.WaitGroup
	background.Go(func() { g.hub.Run(ctx) })
	background.Go(func() { g.guard.Run(ctx) })
	background.Go(func() { g.limits.Run(ctx) })

	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve %s: %w", listener.Addr(), err)
	case <-ctx.Done():
	}
	background.Wait()
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownLimit)
	defer cancel()
	if err := server.Shutdown(closing); err != nil {
		g.log.Warn("requests in flight were cut off", zap.Error(err))
		return errors.Join(server.Close(), nil)
	}
	return nil
}

// keepLittle keeps what a watcher reads from being old, and thousands of slow ones from filling the kernel's memory. Through this a
// distant client (100 ms) still reads more than a megabyte a second.
func keepLittle(ctx context.Context, conn net.Conn) context.Context {
	if tcp, is := conn.(*net.TCPConn); is {
		_ = tcp.SetWriteBuffer(maxUnread) // without it everything works too
	}
	return ctx
}

// crowd bounds the connections that are open at once. One too many is closed before anything of it is read.
type crowd struct {
	all, each int // at most, and of one address
	log       *zap.Logger

	mu         sync.Mutex
	open       int
	from       map[netip.Addr]int
	complained time.Time
}

// observe is an http.Server's ConnState: a connection is new once, and then is closed or hijacked once.
func (c *crowd) observe(conn net.Conn, state http.ConnState) {
	step := 0
	switch state {
	case http.StateNew:
		step = 1
	case http.StateClosed, http.StateHijacked:
		step = -1
	default:
		return
	}
	var addr netip.Addr
	if from, err := netip.ParseAddrPort(conn.RemoteAddr().String()); err == nil {
		addr = from.Addr()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open += step
	if c.from[addr] += step; c.from[addr] == 0 {
		delete(c.from, addr)
	}
	if step > 0 && (c.open > c.all || c.from[addr] > c.each) {
		_ = conn.Close()
		if time.Since(c.complained) > complainEvery {
			c.complained = time.Now()
			c.log.Warn("connections are refused: too many are open", zap.Int("open", c.open), zap.Int("of_this_address", c.from[addr]))
		}
	}
}
