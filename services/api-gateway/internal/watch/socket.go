package watch

import (
	"bytes"
	"context"
	"encoding/json"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/zap"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
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
	Type    string `json:"type"`
	JobID   string `json:"job_id"`
	Attempt int64  `json:"attempt"`
	Offset  int64  `json:"offset"`
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
	if !s.mayCome(r) {
		return problem.In("Origin", http.StatusForbidden, "origin_refused", "pages of another site may not watch")
	}
	var run int64
	if text, given := r.URL.Query()["run"]; given {
		var valid bool
		if run, valid = runs.ParseID(text[0]); !valid {
			return problem.In("run", http.StatusBadRequest, "invalid_parameter", "give the id of a run")
		}
		ctx, cancel := context.WithTimeout(r.Context(), lookLimit)
		found, err := s.runs.Versions(ctx, []int64{run})
		cancel()
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return jobs.ErrNotFound
		}
	}
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		w.Header().Set("Upgrade", "websocket")
		return problem.New(http.StatusUpgradeRequired, "upgrade_required", "connect as a WebSocket")
	}
	feed, err := s.hub.Open(run)
	if err != nil {
		return err
	}
	defer feed.Close()
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true}) // mayCome has judged the origin
	if err != nil {
		return nil // Accept has answered
	}
	defer func() { _ = conn.CloseNow() }()
	conn.SetReadLimit(maxMessage)
	s.converse(context.WithoutCancel(r.Context()), conn, feed) // a hijacked request's context is nobody's
	return nil
}

// mayCome judges the Origin that browsers send and no page can forge. Without one it is no browser.
func (s *Socket) mayCome(r *http.Request) bool {
	origins := r.Header.Values("Origin")
	if len(origins) == 0 {
		return true
	}
	u, err := url.Parse(origins[0])
	return err == nil && len(origins) == 1 && u.Host != "" &&
		(strings.EqualFold(origins[0], s.origin) || strings.EqualFold(u.Host, r.Host))
}

// converse serves one connection until either side ends it.
func (s *Socket) converse(ctx context.Context, conn *websocket.Conn, feed *Feed) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wrong := make(chan *problem.Problem, 1)
	go func() {
		defer cancel()
		if p := listen(ctx, conn, feed); p != nil {
			wrong <- p
			<-ctx.Done() // converse says why, then ends
		}
	}()

	ping := time.NewTicker(pingEvery)
	defer ping.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-feed.Closed():
			goodbye(conn, websocket.StatusGoingAway, "the server is stopping: connect again")
			return
		case p := <-wrong:
			_ = write(ctx, conn, problem.Message(p))
			goodbye(conn, websocket.StatusPolicyViolation, p.Code)
			return
		case <-ping.C:
			err = pong(ctx, conn)
		case <-feed.Ready():
			err = tell(ctx, conn, feed)
		}
		if err != nil {
			s.log.Debug("watcher left", zap.Error(err))
			return
		}
	}
}

// tell sends what is new.
func tell(ctx context.Context, conn *websocket.Conn, feed *Feed) error {
	state, pieces := feed.Take()
	if state != nil {
		if err := write(ctx, conn, state.JSON); err != nil {
			return err
		}
	}
	for _, piece := range pieces {
		if err := write(ctx, conn, pieceMessage(piece)); err != nil {
			return err
		}
	}
	return nil
}

func pieceMessage(piece Piece) []byte {
	if piece.Err != nil {
		return problem.Message(problem.In("job_id", http.StatusNotFound, "log_unavailable", piece.Err.Error()))
	}
	return wire.Tagged("log", piece.Message())
}

// listen does what the client says until the connection ends (nil) or it says what cannot be.
func listen(ctx context.Context, conn *websocket.Conn, feed *Feed) *problem.Problem {
	for {
		kind, text, err := conn.Read(ctx)
		if err != nil {
			return nil //nolint:nilerr // the connection has ended, in whatever way
		}
		if kind != websocket.MessageText {
			return problem.New(http.StatusBadRequest, "invalid_message", "messages are JSON text")
		}
		if p := obey(feed, text); p != nil {
			return p
		}
	}
}

func obey(feed *Feed, text []byte) *problem.Problem {
	var m clientMessage
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&m); err != nil || decoder.More() {
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

func write(ctx context.Context, conn *websocket.Conn, text []byte) error {
	ctx, cancel := context.WithTimeout(ctx, writeLimit)
	defer cancel()
	return conn.Write(ctx, websocket.MessageText, text)
}

func pong(ctx context.Context, conn *websocket.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, pongLimit)
	defer cancel()
	return conn.Ping(ctx)
}

// goodbye closes with a reason, not waiting long for the answer.
func goodbye(conn *websocket.Conn, code websocket.StatusCode, reason string) {
	done := make(chan struct{})
	go func() { defer close(done); _ = conn.Close(code, reason) }()
	select {
	case <-done:
	case <-time.After(goodbyeLimit):
	}
}
