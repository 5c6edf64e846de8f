package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"time"
)

// watcher is one client. It speaks as little of its protocol as a watcher needs: the clients share the machine with what is
// measured.
type watcher struct {
	kind    string // socket, stream or call
	addr    string
	run     int64
	page    int
	follows int64 // a job of the run; 0: none
	attempt int
	began   time.Time

	conn     net.Conn
	done     chan struct{} // closed when it hears no more
	err      error         // why; read it when done is closed
	version  atomic.Int64
	log      atomic.Pointer[logSum]
	seen     []sighting // read it when done is closed
	messages atomic.Int64
}

// sighting is when a version was seen first.
type sighting struct {
	version int64
	at      time.Duration
}

// come connects, and returns when it is being served.
func (w *watcher) come(ctx context.Context) error {
	request := map[string]string{
		"socket": "GET /api/v1/watch?run=%d HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
		"stream": "GET /api/v1/runs/%d/events" + w.logs() + " HTTP/1.1\r\n",
		"call":   "POST /lockstep.v1.RunService/WatchRun?%d HTTP/1.1\r\nContent-Type: application/connect+proto\r\nConnect-Protocol-Version: 1\r\n",
	}[w.kind]
	request = fmt.Sprintf(request, w.run) + "Host: " + w.addr + "\r\nAuthorization: Bearer " + fleetToken + "\r\n"
	body := ""
	if w.kind == "call" {
		id := strconv.FormatInt(w.run, 10)
		body = envelope("\x0a" + string(rune(len(id))) + id) // WatchRunRequest{id}
		request += fmt.Sprintf("Content-Length: %d\r\n", len(body))
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", w.addr)
	if err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	w.conn = conn
	if _, err := io.WriteString(conn, request+"\r\n"+body); err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	buffered := bufio.NewReader(conn)
	response, err := http.ReadResponse(buffered, nil) //nolint:bodyclose // leave closes the connection, which is all there is to close
	if err != nil {
		return fmt.Errorf("watch by %s: %w", w.kind, err)
	}
	if response.StatusCode != http.StatusOK && response.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("watch by %s: answered with %s", w.kind, response.Status)
	}
	if w.kind == "socket" && w.follows != 0 {
		follow := fmt.Sprintf(`{"type":"follow","job_id":"%d","attempt":%d,"offset":0}`, w.follows, w.attempt)
		if err := w.say(1, []byte(follow)); err != nil {
			return err
		}
	}
	go func() {
		defer close(w.done)
		switch w.kind {
		case "socket":
			w.err = w.hearSocket(buffered)
		case "stream":
			w.err = w.hearStream(bufio.NewReaderSize(response.Body, 16<<10))
		default:
			w.err = w.hearCall(response.Body)
		}
	}()
	return nil
}

func (w *watcher) logs() string {
	if w.follows == 0 {
		return ""
	}
	return fmt.Sprintf("?logs=%d", w.follows)
}

// saw takes a version down.
func (w *watcher) saw(version int64) {
	w.messages.Add(1)
	if version > w.version.Load() {
		w.seen = append(w.seen, sighting{version, time.Since(w.began)})
		w.version.Store(version)
	}
}

// heard takes down what a JSON message says.
func (w *watcher) heard(text []byte) error {
	if bytes.HasPrefix(text, []byte(`{"type":"run"`)) {
		_, rest, _ := bytes.Cut(text, []byte(`"version":`)) // it comes before what could hold the same word
		digits := rest[:max(0, bytes.IndexByte(rest, ','))]
		version, err := strconv.ParseInt(string(digits), 10, 64)
		if err != nil {
			return fmt.Errorf("a run without its version: %.300s", text)
		}
		w.saw(version)
		return nil
	}
	var m struct {
		Type   string
		Offset int64
		Data   []byte
		Ended  bool
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return fmt.Errorf("read message %.300s: %w", text, err)
	}
	if m.Type != "log" {
		return fmt.Errorf("a message of no use: %.300s", text)
	}
	w.messages.Add(1)
	log := logSum{}
	if before := w.log.Load(); before != nil {
		log = *before
	}
	if m.Offset != log.size {
		return fmt.Errorf("a piece of log from byte %d on after %d bytes", m.Offset, log.size)
	}
	log.add(m.Data)
	log.ended = m.Ended
	w.log.Store(&log)
	return nil
}

// hearSocket reads frames (RFC 6455, section 5.2) as a server sends them: unmasked, and each a whole message.
func (w *watcher) hearSocket(from *bufio.Reader) error {
	var payload []byte
	for {
		head, err := from.Peek(2)
		if err != nil {
			return gone(err)
		}
		kind, size, length := head[0]&0xf, int(head[1]), 0
		switch size {
		case 126:
			length = 2
		case 127:
			length = 8
		}
		if head, err = from.Peek(2 + length); err != nil {
			return gone(err)
		}
		switch length {
		case 2:
			size = int(binary.BigEndian.Uint16(head[2:]))
		case 8:
			size = int(binary.BigEndian.Uint64(head[2:]))
		}
		_, _ = from.Discard(2 + length)
		payload = slices.Grow(payload[:0], size)[:size]
		if _, err := io.ReadFull(from, payload); err != nil {
			return gone(err)
		}
		switch kind {
		case 1:
			err = w.heard(payload)
		case 8:
			return errors.New("the gateway has closed the socket")
		case 9:
			err = w.say(10, payload)
		}
		if err != nil {
			return err
		}
	}
}

// say sends a frame of at most 125 bytes, masked with zeros.
func (w *watcher) say(kind byte, payload []byte) error {
	if _, err := w.conn.Write(append([]byte{0x80 | kind, 0x80 | byte(len(payload)), 0, 0, 0, 0}, payload...)); err != nil {
		return gone(err)
	}
	return nil
}

// hearStream reads server-sent events.
func (w *watcher) hearStream(from *bufio.Reader) error {
	for {
		line, err := from.ReadBytes('\n')
		if err != nil {
			return gone(err)
		}
		data, is := bytes.CutPrefix(bytes.TrimSuffix(line, []byte("\n")), []byte("data: "))
		if !is || string(data) == "{}" { // the data of the end
			continue
		}
		if err := w.heard(data); err != nil {
			return err
		}
	}
}

// hearCall reads the messages of a Connect stream: a byte of flags, four of length, WatchRunResponse{run: Run{version = 13}}.
func (w *watcher) hearCall(from io.Reader) error {
	var head [5]byte
	var payload []byte
	for {
		if _, err := io.ReadFull(from, head[:]); err != nil {
			return gone(err)
		}
		size := int(binary.BigEndian.Uint32(head[1:]))
		payload = slices.Grow(payload[:0], size)[:size]
		if _, err := io.ReadFull(from, payload); err != nil {
			return gone(err)
		}
		if head[0]&2 != 0 { // the end of the stream
			return nil
		}
		_, n := binary.Uvarint(payload[1:])
		version, err := versionIn(payload[1+n:])
		if err != nil {
			return err
		}
		w.saw(version)
	}
}

// versionIn finds field 13 in a message of protobuf's.
func versionIn(message []byte) (int64, error) {
	for len(message) > 0 {
		tag, n := binary.Uvarint(message)
		message = message[max(n, 0):]
		value, n := binary.Uvarint(message)
		switch {
		case n <= 0:
			return 0, errors.New("a run that cannot be read")
		case tag == 13<<3:
			return int64(value), nil
		case tag&7 == 2: // a length and so many bytes
			n += int(value)
		}
		message = message[min(n, len(message)):]
	}
	return 0, errors.New("a run without its version")
}

// envelope is a message of a Connect stream.
func envelope(message string) string {
	return string(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))) + message
}

// gone is nil for the end of a connection that we have closed, or that has said all.
func gone(err error) error {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) {
		return nil
	}
	return fmt.Errorf("watch: %w", err)
}

// crowd is all watchers.
type crowd []*watcher

// told is how many messages all of them have taken.
func (c crowd) told() (n int64) {
	for _, w := range c {
		n += w.messages.Load()
	}
	return n
}

// leave ends all of them. It returns the first trouble that one had.
func (c crowd) leave() error {
	for _, w := range c {
		if w.conn != nil {
			_ = w.conn.Close()
		}
	}
	for _, w := range c {
		if w.conn == nil {
			continue
		}
		<-w.done
		if w.err != nil {
			return fmt.Errorf("a %s: %w", w.kind, w.err)
		}
	}
	return nil
}

// last is how long each change took to the last of its watchers, in ms; one that somebody never saw took for ever.
func (c crowd) last(changes []change) []float64 {
	watching := map[int64][]*watcher{}
	for _, w := range c {
		watching[w.run] = append(watching[w.run], w)
	}
	var took []float64
	for _, change := range changes {
		latest := change.at
		for _, w := range watching[change.run] {
			i, _ := slices.BinarySearchFunc(w.seen, change.version, func(s sighting, version int64) int { return int(s.version - version) })
			if i == len(w.seen) {
				latest = 1 << 62
				break
			}
			latest = max(latest, w.seen[i].at)
		}
		took = append(took, inMs(latest-change.at))
	}
	return took
}
