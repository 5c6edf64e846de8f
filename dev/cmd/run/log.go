package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"
)

const (
	logLimit    = 16 << 20 // bytes of one log file; the one before it is kept as .old
	shownLines  = 3        // warnings of one service on the terminal, in
	shownWindow = 10 * time.Second
)

// serviceLog writes what a service says to a file, and its warnings and errors briefly to the terminal.
type serviceLog struct {
	name, path string

	mu     sync.Mutex
	file   *os.File
	size   int
	line   []byte // the unfinished one
	window time.Time
	shown  int // in the window
}

func openLog(name, path string) (*serviceLog, error) {
	log := &serviceLog{name: name, path: path}
	return log, log.rotate()
}

func (l *serviceLog) rotate() error {
	if l.file != nil {
		_ = l.file.Close()
	}
	if err := os.Rename(l.path, l.path+".old"); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("keep the old log of %s: %w", l.name, err)
	}
	file, err := os.OpenFile(l.path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open log of %s: %w", l.name, err)
	}
	l.file, l.size = file, 0
	return nil
}

// Write never fails: a service must not block or end because of its log.
func (l *serviceLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size > logLimit {
		if err := l.rotate(); err != nil {
			tell("%v", err)
		}
	}
	n, err := l.file.Write(p)
	if err != nil {
		l.show("log: " + err.Error())
	}
	l.size += n
	for rest := p; len(rest) > 0; {
		line, after, ended := bytes.Cut(rest, []byte("\n"))
		l.line = append(l.line, line[:min(len(line), 1<<16-len(l.line))]...)
		if ended {
			if text := brief(l.line); text != "" {
				l.show(text)
			}
			l.line = l.line[:0]
		}
		rest = after
	}
	return len(p), nil
}

// brief is what is shown of a line: nothing of a debug or info message, message and error of others, and the
// beginning of what is no message, such as a panic.
func brief(line []byte) string {
	var entry struct{ Level, Msg, Error string }
	if err := json.Unmarshal(line, &entry); err != nil {
		return printable(string(line[:min(len(line), 200)]))
	}
	switch entry.Level {
	case "debug", "info":
		return ""
	}
	text := entry.Level + ": " + entry.Msg
	if entry.Error != "" {
		text += ": " + entry.Error
	}
	return printable(text[:min(len(text), 300)])
}

func (l *serviceLog) show(text string) {
	if now := time.Now(); now.Sub(l.window) > shownWindow {
		l.window, l.shown = now, 0
	}
	l.shown++
	switch {
	case l.shown <= shownLines:
		tell("%s: %s", l.name, text)
	case l.shown == shownLines+1:
		tell("%s: more in %s", l.name, l.path)
	}
}

func (l *serviceLog) close() { _ = l.file.Close() }
