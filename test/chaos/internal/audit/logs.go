package audit

import (
	"bytes"
	"crypto/sha256"
	"time"
)

// tolerance is how late, in seconds, a row of a step or log may be written: it is checked against the claim as of the
// beginning of its statement, and the statement takes its time.
const tolerance = 2

// auditWrites: rows of steps and logs are written by the process that holds, or just held, the attempt they are of.
func (r *Report) auditWrites() {
	type attempt struct {
		job     int64
		attempt int
	}
	owner := map[attempt]string{}
	for _, c := range r.trail.claims() {
		owner[attempt{c.job, c.attempt}] = c.login
	}
	late := 0
	for _, w := range r.trail.writes {
		run := r.trail.runOf[w.Job]
		if by := owner[attempt{w.Job, w.Attempt}]; by != w.Login {
			r.found(StaleWrite, w.At, run, w.Job, "%s wrote %s %d into attempt %d, which was %q's", w.Login, w.What, w.Number, w.Attempt, by)
		}
		if w.Late == nil {
			continue
		}
		late++
		if *w.Late > tolerance {
			r.found(StaleWrite, w.At, run, w.Job, "%s wrote %s %d of attempt %d %.1f s after that attempt had ended", w.Login, w.What, w.Number, w.Attempt, *w.Late)
		}
	}
	r.count("rows of steps and logs", len(r.trail.writes))
	r.count("of those that met the end of their claim on the way", late)
}

// auditLogs: what was stored stays stored, and what a job that ended printed is served as it was printed.
func (r *Report) auditLogs() {
	type place struct {
		job             int64
		attempt, number int
	}
	stored, bytesStored := map[place]string{}, int64(0)
	next := map[place]int64{} // byte behind the chunk
	for _, c := range r.trail.chunks {
		stored[place{c.Job, c.Attempt, c.Number}] = c.Digest
		next[place{c.Job, c.Attempt, c.Number}] = c.Offset + c.Bytes
		bytesStored += c.Bytes
		if want := next[place{c.Job, c.Attempt, c.Number - 1}]; c.Offset != want {
			r.found(LogLost, time.Time{}, r.trail.runOf[c.Job], c.Job, "attempt %d: chunk %d begins at byte %d, and the one before it ends at %d", c.Attempt, c.Number, c.Offset, want)
		}
	}
	for _, w := range r.trail.writes {
		if w.What != "log" {
			continue
		}
		if digest := stored[place{w.Job, w.Attempt, w.Number}]; digest != w.Digest {
			r.found(LogLost, w.At, r.trail.runOf[w.Job], w.Job, "attempt %d: chunk %d was stored as %s and is now %q", w.Attempt, w.Number, w.Digest, digest)
		}
	}
	for _, read := range r.history.Reads {
		if !bytes.HasPrefix(read.Final, read.Seen) {
			r.found(LogLost, read.At, r.trail.runOf[read.Job], read.Job, "attempt %d: a client was shown %d bytes, and of those the log begins with %d",
				read.Attempt, len(read.Seen), difference(read.Final, read.Seen))
		}
	}
	r.count("logs read while they were written", len(r.history.Reads))
	repositories := map[int64]string{}
	for _, one := range r.trail.runs {
		repositories[one.ID] = one.Repository
	}
	compared, missing := 0, 0
	for _, j := range r.trail.jobs {
		want := r.history.Plans[repositories[j.Run]].Jobs[j.Name].Prints
		if want == nil || (j.Status != "success" && j.Status != "failure") {
			continue
		}
		compared++
		if log, n := r.history.Logs[j.ID], bytes.Count(r.history.Logs[j.ID], want); n != 1 {
			missing++
			r.found(LogLost, time.Time{}, j.Run, j.ID, "its log of %d bytes holds what it printed (%d bytes, sha256 %.4x…) %d times; first difference at byte %d of that",
				len(log), len(want), sha256.Sum256(want), n, difference(log, want))
		}
	}
	r.count("bytes of log stored", int(bytesStored))
	r.count("logs compared with what was printed", compared)
	r.count("logs with bytes missing or altered", missing)
}

// difference is how much of want is to be found somewhere in log.
func difference(log, want []byte) int {
	low, high := 0, len(want)
	for low < high {
		middle := (low + high + 1) / 2
		if bytes.Contains(log, want[:middle]) {
			low = middle
		} else {
			high = middle - 1
		}
	}
	return low
}
