package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"
	"unicode"
)

const (
	look       = 250 * time.Millisecond // between two looks at the run
	lastOfLogs = 15 * time.Second       // for the rest of the logs, after the run has ended
)

// show starts a run and prints its jobs' states and logs as they come, then what to do next.
func show(ctx context.Context, api *client, what repository, dir string) error {
	started, err := api.start(ctx, what)
	if err != nil {
		return err
	}
	say("run %s of %s", started.ID, what.url)
	say("page:  %s", started.URL)
	say("token: %s (sign in with it on the page, or send it to the API)", api.token)
	ended, err := follow(ctx, api, started.ID)
	if err != nil {
		return err
	}
	say("")
	say("page:  %s", ended.URL)
	say("token: %s (sign in with it on the page, or send it to the API)", api.token)
	say("your own repository, from another terminal:")
	say(`  curl -sS -X POST -H 'Authorization: Bearer %s' -H 'Content-Type: application/json' -d '{"repository": "https://github.com/owner/name"}' %s/api/v1/runs`, api.token, api.base)
	say("data and logs: %s", dir)
	say("serving %s until Ctrl-C", api.base)
	say("run %s: %s", ended.ID, ended.Status)
	return nil
}

// follow prints what changes until the run has ended.
func follow(ctx context.Context, api *client, id string) (run, error) {
	logs, cancel := context.WithCancel(ctx)
	defer cancel()
	var printing sync.WaitGroup
	statuses, opened := map[string]string{}, map[string]bool{}
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		now, err := api.get(ctx, id)
		if err != nil {
			return run{}, err
		}
		for _, j := range now.Jobs {
			if statuses[j.ID] != j.Status {
				statuses[j.ID] = j.Status
				if j.Reason == "" {
					say("%s: %s", j.Name, j.Status)
				} else {
					say("%s: %s (%s)", j.Name, j.Status, j.Reason)
				}
			}
			if !opened[j.ID] && len(j.Steps) > 0 && (j.Status == "running" || final(j.Status)) {
				opened[j.ID] = true
				printing.Go(func() { printLog(logs, api, id, j) })
			}
		}
		if final(now.Status) {
			time.AfterFunc(lastOfLogs, cancel)
			printing.Wait()
			return now, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return run{}, ctx.Err()
		}
	}
}

// printLog prints a job's log until the job has ended. After a broken connection it reads on where it was.
func printLog(ctx context.Context, api *client, runID string, j job) {
	printed := int64(0)
	for ctx.Err() == nil {
		n, err := printLogFrom(ctx, api, j, printed)
		printed += n
		if err == nil && ended(ctx, api, runID, j.ID) {
			return
		}
		select {
		case <-time.After(retryPause):
		case <-ctx.Done():
		}
	}
}

// ended says whether the job has: else its log has more to come.
func ended(ctx context.Context, api *client, runID, jobID string) bool {
	now, err := api.get(ctx, runID)
	if err != nil {
		return false
	}
	for _, j := range now.Jobs {
		if j.ID == jobID {
			return final(j.Status)
		}
	}
	return true
}

// printLogFrom prints the log after its first skip bytes, and returns how many it printed.
func printLogFrom(ctx context.Context, api *client, j job, skip int64) (n int64, err error) {
	log, err := api.log(ctx, j.ID)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	if _, err := io.CopyN(io.Discard, log, skip); err != nil {
		if errors.Is(err, io.EOF) { // nothing new
			err = nil
		}
		return 0, err
	}
	lines := bufio.NewReaderSize(log, 1<<16)
	for {
		line, err := lines.ReadSlice('\n') // a longer line is printed in parts
		if errors.Is(err, bufio.ErrBufferFull) {
			err = nil
		}
		if len(line) > 0 && (err == nil || errors.Is(err, io.EOF)) {
			n += int64(len(line))
			say("%s | %s", j.Name, printable(strings.TrimRight(string(line), "\r\n")))
		}
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// escape is a terminal's control sequence (ECMA-48) or the start of a string for it, such as a window title.
var (
	escape = regexp.MustCompile("\x1b(\\[[0-?]*[ -/]*[@-~]|[\\]PX^_][^\x07\x1b]*(\x07|\x1b\\\\)?|.)?")
	colour = regexp.MustCompile("^\x1b\\[[0-9;:]*m$")
)

// printable is a line as a terminal may have it: colours stay; what moves the cursor, sets the title or is no text
// goes, for a job's output must not write over other lines.
func printable(line string) string {
	var out strings.Builder
	text := func(s string) {
		for _, r := range s {
			if r == '\t' || unicode.IsPrint(r) {
				out.WriteRune(r)
			}
		}
	}
	end, coloured := 0, false
	for _, at := range escape.FindAllStringIndex(line, -1) {
		text(line[end:at[0]])
		end = at[1]
		if sequence := line[at[0]:at[1]]; colour.MatchString(sequence) {
			out.WriteString(sequence)
			coloured = true
		}
	}
	text(line[end:])
	if coloured {
		out.WriteString("\x1b[0m")
	}
	return out.String()
}

var output sync.Mutex

// say prints one line of the run, on standard output.
func say(format string, args ...any) {
	output.Lock()
	defer output.Unlock()
	_, _ = fmt.Fprintf(os.Stdout, format+"\n", args...)
}
