package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

// follower is a client that watches a run, follows the log of its job, or does both, and comes back where it stopped, to the next
// gateway, whenever a connection ends before there is nothing more to tell.
type follower struct {
	name     string
	look     func(f *follower, ctx context.Context, addr string) (over bool, err error)
	gateways []string
	run, job string
	attempt  int

	connections, told atomic.Int64 // told: messages

	// Read them when follow has returned.
	log       []byte
	logEnded  bool
	version   int64 // of the run, as it was told last
	statuses  []string
	lastEvent string
	ends      []error // of connections
}

// followers are one of each kind.
func (s *system) followers(r run, j job, gateways ...string) []*follower {
	var all []*follower
	for name, look := range map[string]func(*follower, context.Context, string) (bool, error){
		"WebSocket": (*follower).bySocket, "server-sent events": (*follower).byEvents,
		"Connect's FollowLog": (*follower).byFollowLog, "Connect's WatchRun": (*follower).byWatchRun,
	} {
		all = append(all, &follower{name: name, look: look, gateways: gateways, run: r.ID, job: j.ID, attempt: j.Attempt})
	}
	return all
}

// follow lets all of them follow. wait waits until each has been told all, or what it was told cannot be.
func (s *system) follow(all []*follower) (wait func()) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Minute)
	var running sync.WaitGroup
	for _, f := range all {
		running.Go(func() { f.follow(ctx) })
	}
	return func() {
		s.t.Helper()
		running.Wait()
		if err := ctx.Err(); err != nil {
			s.t.Errorf("followers did not come to the end: %v", err)
		}
		cancel()
		for _, f := range all {
			if err := f.ends[len(f.ends)-1]; err != nil {
				s.t.Errorf("%s: %v; all its connections: %v", f.name, err, f.ends)
			}
		}
	}
}

// wrong is what no other connection would make good.
type wrong struct{ error }

func (f *follower) follow(ctx context.Context) {
	for i := 0; ; i++ {
		over, err := f.look(f, ctx, f.gateways[i%len(f.gateways)])
		if !over && err == nil {
			err = io.ErrUnexpectedEOF
		}
		f.ends = append(f.ends, err)
		if over || ctx.Err() != nil || errors.As(err, &wrong{}) {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// message is what WebSocket and server-sent events tell.
type message struct {
	Type string
	Run  struct {
		Version int64
		Status  string
	}
	Offset int64
	Data   []byte
	Ended  bool
}

func (f *follower) hear(text []byte) error {
	var m message
	if err := json.Unmarshal(text, &m); err != nil {
		return wrong{fmt.Errorf("read %.200s: %w", text, err)}
	}
	switch m.Type {
	case "run":
		return f.sees(m.Run.Version, m.Run.Status)
	case "log":
		return f.reads(m.Offset, m.Data, m.Ended)
	}
	return wrong{fmt.Errorf("a message of type %s: %.200s", m.Type, text)}
}

// sees takes a state down. Only a WebSocket, which has no position of its own in the run, may tell the newest once more.
func (f *follower) sees(version int64, status string) error {
	if version < f.version || version == f.version && f.name != "WebSocket" {
		return wrong{fmt.Errorf("version %d after %d", version, f.version)}
	}
	f.version, f.statuses = version, append(f.statuses, status)
	f.told.Add(1)
	return nil
}

func (f *follower) final() bool {
	return len(f.statuses) > 0 && slices.Contains([]string{"success", "failure", "error", "cancelled", "skipped"}, f.statuses[len(f.statuses)-1])
}

func (f *follower) reads(offset int64, data []byte, ended bool) error {
	if offset != int64(len(f.log)) {
		return wrong{fmt.Errorf("a piece of log from byte %d on after %d bytes", offset, len(f.log))}
	}
	f.log, f.logEnded = append(f.log, data...), ended
	f.told.Add(1)
	return nil
}

func (f *follower) bySocket(ctx context.Context, addr string) (over bool, err error) {
	conn, _, err := websocket.Dial(ctx, "ws://"+addr+"/api/v1/watch?run="+f.run, //nolint:bodyclose // Dial's response has none to close
		&websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + adminToken}}})
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.CloseNow() }()
	conn.SetReadLimit(1 << 20)
	f.connections.Add(1)
	if !f.logEnded {
		ask := encode(map[string]any{"type": "follow", "job_id": f.job, "attempt": f.attempt, "offset": len(f.log)})
		if err := conn.Write(ctx, websocket.MessageText, ask); err != nil {
			return false, err
		}
	}
	for !f.logEnded || !f.final() {
		_, text, err := conn.Read(ctx)
		if err != nil {
			return false, err
		}
		if err := f.hear(text); err != nil {
			return false, err
		}
	}
	return true, nil
}

func (f *follower) byEvents(ctx context.Context, addr string) (over bool, err error) {
	response, err := f.open(ctx, http.MethodGet, addr, "/api/v1/runs/"+f.run+"/events?logs="+f.job, nil, "Last-Event-ID", f.lastEvent)
	if err != nil {
		return false, err
	}
	defer func() { _ = response.Body.Close() }()
	lines, kind := bufio.NewScanner(response.Body), ""
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ": ")
		switch name {
		case "event":
			kind = value
		case "id":
			f.lastEvent = value
		case "data":
			if kind == "end" {
				return true, nil
			}
			if err := f.hear([]byte(value)); err != nil {
				return false, err
			}
		}
	}
	return false, lines.Err()
}

func (f *follower) byFollowLog(ctx context.Context, addr string) (over bool, err error) {
	request := map[string]any{"jobId": f.job, "from": map[string]any{"attempt": f.attempt, "offset": strconv.Itoa(len(f.log))}, "thisAttemptOnly": true}
	return f.call(ctx, addr, "/lockstep.v1.JobService/FollowLog", request, func(text []byte) error {
		var m struct {
			Offset int64 `json:",string"`
			Data   []byte
			Ended  bool
		}
		if err := json.Unmarshal(text, &m); err != nil {
			return wrong{err}
		}
		return f.reads(m.Offset, m.Data, m.Ended)
	})
}

func (f *follower) byWatchRun(ctx context.Context, addr string) (over bool, err error) {
	request := map[string]any{"id": f.run, "afterVersion": strconv.FormatInt(f.version, 10)}
	return f.call(ctx, addr, "/lockstep.v1.RunService/WatchRun", request, func(text []byte) error {
		var m struct {
			Run struct {
				Version int64 `json:",string"`
				Status  string
			}
		}
		if err := json.Unmarshal(text, &m); err != nil {
			return wrong{err}
		}
		return f.sees(m.Run.Version, m.Run.Status)
	})
}

// call reads a stream of Connect's: of each message a byte of flags, four of length, and JSON.
func (f *follower) call(ctx context.Context, addr, procedure string, request any, hear func([]byte) error) (over bool, err error) {
	const lastMessage = 2 // flag
	body := encode(request)
	body = append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(body))), body...)
	response, err := f.open(ctx, http.MethodPost, addr, procedure, body, "Content-Type", "application/connect+json")
	if err != nil {
		return false, err
	}
	defer func() { _ = response.Body.Close() }()
	for from := bufio.NewReader(response.Body); ; {
		var head [5]byte
		if _, err := io.ReadFull(from, head[:]); err != nil {
			return false, err
		}
		text := make([]byte, binary.BigEndian.Uint32(head[1:]))
		if _, err := io.ReadFull(from, text); err != nil {
			return false, err
		}
		if head[0] == lastMessage {
			if bytes.Contains(text, []byte(`"error"`)) {
				return false, errors.New(string(text))
			}
			return true, nil
		}
		if err := hear(text); err != nil {
			return false, err
		}
	}
}

func (f *follower) open(ctx context.Context, method, addr, path string, body []byte, header ...string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://"+addr+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+adminToken)
	for i := 0; i+1 < len(header); i += 2 {
		if header[i+1] != "" {
			request.Header.Set(header[i], header[i+1])
		}
	}
	response, err := http.DefaultClient.Do(request)
	if err == nil && response.StatusCode != http.StatusOK {
		_ = response.Body.Close()
		return nil, fmt.Errorf("answered with %s", response.Status)
	}
	if err == nil {
		f.connections.Add(1)
	}
	return response, err
}
