package graph

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"
	"go.uber.org/zap"

	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/watch"
)

// protocol is https://github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md. Close codes from 4400 on are its own.
const protocol = "graphql-transport-ws"

const (
	initLimit        = 5 * time.Second  // for the client's connection_init
	writeLimit       = 10 * time.Second // for one message to a client
	pingEvery        = 20 * time.Second
	pongLimit        = 10 * time.Second
	maxSockets       = 10_000
	maxSubscriptions = 8   // of one connection
	maxID            = 128 // bytes of what a client calls a subscription
)

const (
	closeInvalid   websocket.StatusCode = 4400
	closeNoInit    websocket.StatusCode = 4401
	closeForbidden websocket.StatusCode = 4403
	closeInitLate  websocket.StatusCode = 4408
	closeTakenID   websocket.StatusCode = 4409
	closeTwoInits  websocket.StatusCode = 4429
)

// message is one of either side.
type message struct {
	Type    string          `json:"type"`
	ID      string          `json:"id,omitempty"`
	Payload json.RawMessage `json:"payload,omitempty"`
}

// connection is one socket. Each subscription has one message under way at most: its stream waits until the client has taken it.
type connection struct {
	handler *Handler
	conn    *websocket.Conn
	ctx     context.Context //nolint:containedctx // of all its subscriptions

	mu     sync.Mutex
	active map[string]context.CancelFunc
	slots  chan struct{} // of those that are active, or tell their last message; the client is not read while all are taken
	all    sync.WaitGroup
}

// socket serves subscriptions.
func (h *Handler) socket(w http.ResponseWriter, r *http.Request) error {
	if err := watch.CheckOrigin(r, h.origin); err != nil {
		return err
	}
	if h.sockets.Add(1); h.sockets.Load() > maxSockets {
		h.sockets.Add(-1)
		return watch.ErrTooMany
	}
	defer h.sockets.Add(-1)
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true, Subprotocols: []string{protocol}}) // CheckOrigin has judged
	if err != nil {
		return nil // Accept has answered
	}
	defer func() { _ = conn.CloseNow() }()
	if conn.Subprotocol() != protocol {
		watch.Goodbye(conn, websocket.StatusPolicyViolation, "speak "+protocol)
		return nil
	}
	conn.SetReadLimit(maxBody)
	ended := context.AfterFunc(r.Context(), func() { watch.Goodbye(conn, closeForbidden, problem.Of(context.Cause(r.Context())).Detail) })
	defer ended()
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context())) // at the credentials' end there is something to say
	c := &connection{handler: h, conn: conn, ctx: ctx, active: map[string]context.CancelFunc{}, slots: make(chan struct{}, 2*maxSubscriptions)}
	go c.ping()
	code, reason := c.converse()
	cancel()
	if code != 0 {
		watch.Goodbye(conn, code, reason)
	}
	_ = conn.CloseNow() // what is being written ends
	c.all.Wait()
	return nil
}

// converse does what the client says, until the connection ends (0) or it says what cannot be.
func (c *connection) converse() (code websocket.StatusCode, reason string) {
	late := time.AfterFunc(initLimit, func() { watch.Goodbye(c.conn, closeInitLate, "send connection_init first") })
	defer late.Stop()
	for greeted := false; ; {
		m, err := c.read()
		switch {
		case errors.Is(err, errNoMessage):
			return closeInvalid, err.Error()
		case err != nil:
			return 0, ""
		}
		switch m.Type {
		case "connection_init":
			if greeted {
				return closeTwoInits, "connection_init was sent before"
			}
			greeted = true
			late.Stop()
			err = c.write(message{Type: "connection_ack"})
		case "ping":
			err = c.write(message{Type: "pong"})
		case "pong":
		case "subscribe":
			switch {
			case !greeted:
				return closeNoInit, "send connection_init first"
			case m.ID == "" || len(m.ID) > maxID:
				return closeInvalid, "subscribe needs an id of at most 128 bytes"
			case !c.subscribe(m):
				return closeTakenID, "there is a subscriber for this id already"
			}
		case "complete":
			c.complete(m.ID)
		default:
			return closeInvalid, "send connection_init, subscribe, complete, ping or pong"
		}
		if err != nil {
			return 0, ""
		}
	}
}

var errNoMessage = errors.New("messages are JSON objects with type, id and payload")

func (c *connection) read() (m message, err error) {
	kind, text, err := c.conn.Read(c.ctx)
	if err != nil {
		return m, err
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if kind != websocket.MessageText || decoder.Decode(&m) != nil || decoder.More() {
		return m, errNoMessage
	}
	return m, nil
}

// subscribe begins a subscription, or refuses one too many; false: its id is taken.
func (c *connection) subscribe(m message) bool {
	select {
	case c.slots <- struct{}{}:
	case <-c.ctx.Done():
		return true
	}
	ctx, cancel := context.WithCancel(c.ctx)
	c.mu.Lock()
	taken, full := c.active[m.ID] != nil, len(c.active) == maxSubscriptions
	if !taken && !full {
		c.active[m.ID] = cancel
	}
	c.mu.Unlock()
	c.all.Go(func() {
		defer func() { cancel(); <-c.slots }()
		switch {
		case taken:
		case full:
			detail := "complete one of " + strconv.Itoa(maxSubscriptions) + " before you subscribe again, or open another connection"
			_ = c.tell("error", m.ID, gqlerror.List{c.handler.present(ctx, problem.New(http.StatusBadRequest, "too_many_subscriptions", detail))})
		default:
			c.serve(ctx, m)
		}
	})
	return !taken
}

// complete ends a subscription, if there is one: its id is free again.
func (c *connection) complete(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cancel := c.active[id]; cancel != nil {
		cancel()
		delete(c.active, id)
	}
}

// serve tells a subscription's results until it ends or the client completes it.
func (c *connection) serve(ctx context.Context, m message) {
	params, err := parseRequest(m.Payload)
	if err != nil {
		c.refuse(m.ID, gqlerror.List{c.handler.present(ctx, err)})
		return
	}
	operation, errs := c.handler.open(ctx, params)
	if errs == nil && operation.Operation.Operation != ast.Subscription {
		errs = gqlerror.List{c.handler.present(ctx, problem.New(http.StatusBadRequest, "no_subscription", "send queries and mutations by POST"))}
	}
	if errs != nil {
		c.refuse(m.ID, errs)
		return
	}
	ctx, end := withEnding(ctx)
	next, ctx := c.handler.exec.DispatchOperation(withLookups(ctx, c.handler.service, operation), operation)
	for {
		answer := next(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case answer == nil && end.err != nil:
			c.refuse(m.ID, gqlerror.List{c.handler.present(ctx, end.err)})
			if errors.Is(end.err, watch.ErrClosed) {
				watch.Goodbye(c.conn, websocket.StatusGoingAway, "the server is stopping: connect again")
			}
			return
		case answer == nil:
			c.complete(m.ID)
			_ = c.write(message{Type: "complete", ID: m.ID})
			return
		case answer.Data == nil && len(answer.Errors) > 0:
			c.refuse(m.ID, answer.Errors)
			return
		}
		if c.tell("next", m.ID, answer) != nil {
			_ = c.conn.CloseNow() // the client takes nothing any more
			return
		}
	}
}

// refuse ends a subscription with what is wrong.
func (c *connection) refuse(id string, errs gqlerror.List) {
	c.complete(id)
	_ = c.tell("error", id, errs)
}

func (c *connection) tell(kind, id string, payload any) error {
	text, err := json.Marshal(payload)
	if err != nil {
		return err
	}
	return c.write(message{Type: kind, ID: id, Payload: text})
}

func (c *connection) write(m message) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.ctx, writeLimit)
	defer cancel()
	return c.conn.Write(ctx, websocket.MessageText, text)
}

// ping notices a client that has gone.
func (c *connection) ping() {
	ticker := time.NewTicker(pingEvery)
	defer ticker.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-ticker.C:
		}
		ctx, cancel := context.WithTimeout(c.ctx, pongLimit)
		err := c.conn.Ping(ctx)
		cancel()
		if err != nil {
			c.handler.log.Debug("subscriber left", zap.Error(err))
			_ = c.conn.CloseNow()
			return
		}
	}
}
