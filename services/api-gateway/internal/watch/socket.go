package watch

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/zap"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/auth"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/params"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/runs"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/wire"
)

const (
	maxMessage   = 4 << 10          // bytes a client may send at once
	writeLimit   = 10 * time.Second // for one message to a client
	pingEvery    = 20 * time.Second
	pongLimit    = 10 * time.Second
	goodbyeLimit = 2 * time.Second
)

// clientMessage is what a client may say: follow (the log of a job from a byte of an attempt on) or unfollow.
type clientMessage struct {
	Type, JobID     string
	Attempt, Offset int64
}

// Socket serves the WebSocket of the pages.
type Socket struct {
	hub    *Hub
	runs   *runs.Service
	origin string // of PUBLIC_URL
	log    *zap.Logger
}

// NewSocket serves what hub reads. Browsers may come from pages of publicURL, or of the host they connect to.
func NewSocket(hub *Hub, service *runs.Service, publicURL string, log *zap.Logger) *Socket {
	return &Socket{hub: hub, runs: service, origin: publicURL, log: log}
}

// Serve answers GET /api/v1/watch: with ?run= one run, else the list of the latest runs.
func (s *Socket) Serve(w http.ResponseWriter, r *http.Request) error {
	if err := CheckOrigin(r, s.origin); err != nil {
		return err
	}
	values, err := params.Read(r, "run")
	if err != nil {
		return err
	}
	by := auth.From(r.Context())
	open := func() (*Feed, error) { return s.hub.OpenList(by.Repository) }
	if text, given := values["run"]; given {
		run, valid := runs.ParseID(text)
		if !valid {
			return problem.In("run", http.StatusBadRequest, "invalid_parameter", "give the id of a run")
		}
		ctx, cancel := context.WithTimeout(r.Context(), lookLimit)
		repository, err := s.runs.RepositoryOf(ctx, run)
		cancel()
		if err != nil {
			return err
		}
		if !by.Sees(repository) {
			return jobs.ErrNotFound
		}
		open = func() (*Feed, error) { return s.hub.Open(run) }
	}
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		w.Header().Set("Upgrade", "websocket")
		return problem.New(http.StatusUpgradeRequired, "upgrade_required", "connect as a WebSocket")
	}
	if wrong := handshake(r); wrong != "" {
		return problem.In(wrong, http.StatusBadRequest, "invalid_header", "is not what RFC 6455 has in a WebSocket's handshake")
	}
	feed, err := open()
	if err != nil {
		return err
	}
	defer feed.Close()
	taken := &hijacker{ResponseWriter: w}
	conn, err := websocket.Accept(taken, r, &websocket.AcceptOptions{InsecureSkipVerify: true}) // CheckOrigin has judged
	if err != nil {
		return nil // Accept has answered
	}
	defer func() { _ = conn.CloseNow() }()
	conn.SetReadLimit(maxMessage)
	c := &conversation{feed: feed, conn: conn, raw: taken.conn}
	stop := context.AfterFunc(r.Context(), func() {
		c.over.CompareAndSwap(nil, &end{problem.Of(context.Cause(r.Context()))})
		feed.wakeUp()
	})
	defer stop()
	err = c.hold(context.WithoutCancel(r.Context())) // at their end there is something to say
	s.log.Debug("watcher left", zap.Error(err))
	return nil
}

// hijacker keeps the connection that a WebSocket takes over from HTTP.
type hijacker struct {
	http.ResponseWriter
	conn net.Conn
}

func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(h.ResponseWriter).Hijack()
	h.conn = conn
	return conn, buffered, err //nolint:wrapcheck // it goes through
}

// CheckOrigin judges the Origin that browsers send and no page can forge: pages of the public URL may watch, and of the host that
// is connected to. Without one it is no browser, or a page of ours.
func CheckOrigin(r *http.Request, publicURL string) error {
	origins := r.Header.Values("Origin")
	if len(origins) == 0 {
		return nil
	}
	u, err := url.Parse(origins[0])
	if err == nil && len(origins) == 1 && u.Host != "" && (strings.EqualFold(origins[0], publicURL) || strings.EqualFold(u.Host, r.Host)) {
		return nil
	}
	return problem.In("Origin", http.StatusForbidden, "origin_refused", "pages of another site may not ask")
}

// conversation is one connection. What the feed has is written to the connection itself, past the WebSocket library: as whole
// frames that were made once for all watchers, each in one Write, between which the library's own frames (pings, pongs, the
// close) fit. One goroutine writes and one reads; nothing runs on a timer but the ping.
type conversation struct {
	feed *Feed
	conn *websocket.Conn
	raw  net.Conn
	over atomic.Pointer[end] // set by who reads, or when the credentials end
}

// end is why a conversation is over; without a problem the client has gone.
type end struct{ problem *problem.Problem }

// hold serves the connection until either side ends it.
func (c *conversation) hold(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		c.over.Store(&end{c.listen(ctx)})
		c.feed.wakeUp()
	}()
	var ping *time.Timer
	ping = time.AfterFunc(pingEvery, func() {
		if err := pong(ctx, c.conn); err != nil {
			_ = c.conn.CloseNow() // who reads notices
			return
		}
		ping.Reset(pingEvery)
	})
	defer ping.Stop()

	for {
		<-c.feed.ready
		if over := c.over.Load(); over != nil {
			if over.problem != nil {
				frame, _ := framed(problem.Message(over.problem))
				_ = c.write(frame)
				Goodbye(c.conn, websocket.StatusPolicyViolation, over.problem.Code)
			}
			return nil
		}
		select {
		case <-c.feed.closed:
			Goodbye(c.conn, websocket.StatusGoingAway, "the server is stopping: connect again")
			return nil
		default:
		}
		if err := c.tell(); err != nil {
			return err
		}
	}
}

// tell sends what is new.
func (c *conversation) tell() error {
	state, pieces := c.feed.Take()
	if state != nil {
		if err := c.write(state.frame); err != nil {
			return err
		}
	}
	for _, piece := range pieces {
		frame, _ := piece.told()
		if err := c.write(frame); err != nil {
			return err
		}
	}
	return nil
}

// write sends a frame. After an error the connection is of no use: a part of the frame may have gone.
func (c *conversation) write(frame []byte) error {
	_ = c.raw.SetWriteDeadline(time.Now().Add(writeLimit)) // an error comes again with the Write
	_, err := c.raw.Write(frame)
	_ = c.raw.SetWriteDeadline(time.Time{}) // what the library writes has limits of its own
	if err != nil {
		return fmt.Errorf("write to a watcher: %w", err)
	}
	return nil
}

// framed is a text message in one frame as a server sends it (RFC 6455, section 5.2), and the text as a part of that.
func framed(text []byte) (frame, part []byte) {
	const wholeText = 0x81
	head := []byte{wholeText, byte(len(text))}
	switch n := len(text); {
	case n >= 1<<16:
		head[1] = 127
		head = binary.BigEndian.AppendUint64(head, uint64(n))
	case n >= 126:
		head[1] = 126
		head = binary.BigEndian.AppendUint16(head, uint16(n))
	}
	frame = slices.Concat(head, text)
	return frame, frame[len(head):]
}

func pieceMessage(piece *Piece) []byte {
	if piece.Err != nil {
		return problem.Message(problem.In("job_id", http.StatusNotFound, "log_unavailable", piece.Err.Error()))
	}
	return wire.Tagged("log", piece.Message())
}

// listen does what the client says until the connection ends (nil) or it says what cannot be.
func (c *conversation) listen(ctx context.Context) *problem.Problem {
	for {
		kind, text, err := c.conn.Read(ctx)
		if err != nil {
			return nil //nolint:nilerr // the connection has ended, in whatever way
		}
		if kind != websocket.MessageText {
			return problem.New(http.StatusBadRequest, "invalid_message", "messages are JSON text")
		}
		if p := obey(c.feed, text); p != nil {
			return p
		}
	}
}

// handshake returns the first header of a WebSocket's handshake that is wrong, or "".
func handshake(r *http.Request) string {
	key, err := base64.StdEncoding.DecodeString(r.Header.Get("Sec-WebSocket-Key"))
	switch {
	case r.Method != http.MethodGet: // the mux takes HEAD too
		return ":method"
	case !strings.Contains(strings.ToLower(strings.Join(r.Header.Values("Connection"), ",")), "upgrade"):
		return "Connection"
	case r.Header.Get("Sec-WebSocket-Version") != "13":
		return "Sec-WebSocket-Version"
	case err != nil || len(key) != 16 || len(r.Header.Values("Sec-WebSocket-Key")) != 1:
		return "Sec-WebSocket-Key"
	}
	return ""
}

func obey(feed *Feed, text []byte) *problem.Problem {
	var m clientMessage
	fields := map[string]any{"type": &m.Type, "job_id": &m.JobID, "attempt": &m.Attempt, "offset": &m.Offset}
	if params.Object(text, fields) != nil {
		return problem.New(http.StatusBadRequest, "invalid_message", `send {"type":"follow","job_id":"…","attempt":n,"offset":n} or {"type":"unfollow","job_id":"…"}`)
	}
	job, valid := runs.ParseID(m.JobID)
	switch {
	case !valid:
		return problem.In("job_id", http.StatusBadRequest, "invalid_message", "give the id of a job of this run")
	case m.Type == "unfollow":
		feed.Unfollow(job)
		return nil
	case m.Type != "follow":
		return problem.In("type", http.StatusBadRequest, "invalid_message", "is follow or unfollow")
	case m.Attempt < 1 || m.Attempt > math.MaxInt32:
		return problem.In("attempt", http.StatusBadRequest, "invalid_message", "attempts count from 1")
	case m.Offset < 0:
		return problem.In("offset", http.StatusBadRequest, "invalid_message", "offsets count from 0")
	}
	if err := feed.Follow(job, int32(m.Attempt), m.Offset); err != nil {
		return problem.In("job_id", http.StatusBadRequest, "too_many_logs", "unfollow one of "+strconv.Itoa(maxTails)+" before you follow another")
	}
	return nil
}

func pong(ctx context.Context, conn *websocket.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, pongLimit)
	defer cancel()
	return conn.Ping(ctx)
}

// Goodbye closes a WebSocket with a reason, not waiting long for the answer.
func Goodbye(conn *websocket.Conn, code websocket.StatusCode, reason string) {
	done := make(chan struct{})
	go func() { defer close(done); _ = conn.Close(code, reason) }()
	select {
	case <-done:
	case <-time.After(goodbyeLimit):
	}
}
