package audit

import (
	"strings"
	"time"
)

// legal are the transitions that a job may make.
var legal = map[string]string{
	"":             "new initialized blocked failure",
	"new":          "initializing cancelled",
	"initializing": "initialized blocked failure error skipped cancelled new",
	"initialized":  "running cancelled",
	"running":      "success failure error cancelled initialized blocked",
	"blocked":      "new initialized error skipped cancelled",
}

// holds is the state in which each service holds jobs.
var holds = map[string]string{"initializer": "initializing", "runner": "running"}

// claim is one claim, by its token.
type claim struct {
	job, run int64
	attempt  int
	login    string // whose
	worker   int64
	at       time.Time
	ends     []move // of which there may be one
}

// claims replays the moves: each entry into a state in which jobs are held is a claim.
func (t *trail) claims() map[string]*claim {
	all := map[string]*claim{}
	for _, m := range t.moves {
		if c := all[m.Before.Token]; m.Before.Token != "" && c != nil && m.After.Token != m.Before.Token {
			c.ends = append(c.ends, m)
		}
		if m.After.Token != "" && m.After.Token != m.Before.Token && all[m.After.Token] == nil {
			all[m.After.Token] = &claim{job: m.After.ID, run: m.After.Run, attempt: m.After.Attempt, login: m.Login, worker: m.After.Worker, at: m.At}
		}
	}
	return all
}

// auditMoves replays every job on its own.
func (r *Report) auditMoves() {
	registered := map[int64]string{}
	for _, w := range r.trail.workers {
		if !w.Dead {
			registered[w.Worker] = w.Login
		}
	}
	last, tokens, claims := map[int64]job{}, map[string]bool{}, 0
	planner := map[int64]string{} // run → login of the initializer that holds it
	for _, m := range r.trail.moves {
		was, is := last[m.After.ID], m.After
		last[is.ID] = is
		bad := func(kind Kind, format string, args ...any) { r.found(kind, m.At, is.Run, is.ID, format, args...) }

		if m.Before.Status != was.Status || m.Before.Token != was.Token || m.Before.Attempt != was.Attempt {
			bad(IllegalMove, "it was left as %s, attempt %d, and is moved from %s, attempt %d", was.Status, was.Attempt, m.Before.Status, m.Before.Attempt)
		}
		if m.Before.Status == is.Status || !contains(legal[m.Before.Status], is.Status) {
			bad(IllegalMove, "from %q to %q by %s", m.Before.Status, is.Status, m.Login)
		}
		if held(is.Status) != (is.Token != "") {
			bad(IllegalMove, "it is %s, with claim token %q", is.Status, is.Token)
		}
		service := r.trail.services[m.Login]
		switch {
		case held(is.Status):
			claims++
			if held(m.Before.Status) {
				bad(HeldTwice, "claimed by %s (worker %d) while worker %d held it", m.Login, is.Worker, m.Before.Worker)
			}
			if tokens[is.Token] {
				bad(HeldTwice, "token %s was given twice", is.Token)
			}
			tokens[is.Token] = true
			if is.Attempt != m.Before.Attempt+1 {
				bad(HeldTwice, "the claim is attempt %d, after attempt %d", is.Attempt, m.Before.Attempt)
			}
			if holds[service] != is.Status || registered[is.Worker] != m.Login {
				bad(HeldTwice, "%s (%s) claimed it for worker %d of %s", m.Login, service, is.Worker, registered[is.Worker])
			}
		case held(m.Before.Status):
			if is.Attempt != m.Before.Attempt {
				bad(IllegalMove, "the end of a claim made attempt %d of %d", is.Attempt, m.Before.Attempt)
			}
			if owner := registered[m.Before.Worker]; service != "reaper" && m.Login != owner {
				bad(StaleWrite, "%s ended a claim of %s (attempt %d, worker %d) with %s", m.Login, owner, m.Before.Attempt, m.Before.Worker, is.Status)
			}
			if service == "reaper" {
				r.auditReaping(m)
			}
		case m.Before.Status == "" && is.Status != "new":
			if planner[is.Run] != m.Login {
				bad(StaleWrite, "%s planned a job into run %d while the plan was in the hands of %q", m.Login, is.Run, planner[is.Run])
			}
		}
		if is.Status == "initializing" {
			planner[is.Run] = m.Login
		} else if m.Before.Status == "initializing" {
			delete(planner, is.Run)
		}
	}

	// What is now, and what the services' own record says, must be what the moves come to.
	for _, j := range r.trail.jobs {
		if was := last[j.ID]; was.Status != j.Status || was.Token != j.Token || was.Attempt != j.Attempt {
			r.found(IllegalMove, time.Time{}, j.Run, j.ID, "it is %s, attempt %d, and its last move was to %s, attempt %d", j.Status, j.Attempt, was.Status, was.Attempt)
		}
	}
	recorded := map[string]int{}
	for _, e := range r.trail.ended {
		recorded[e.Token]++
	}
	for token, c := range r.trail.claims() {
		if len(c.ends) > 1 {
			r.found(MovedTwice, c.ends[1].At, c.run, c.job, "the claim of attempt %d was ended %d times", c.attempt, len(c.ends))
		}
		if recorded[token] != len(c.ends) {
			r.found(MovedTwice, c.at, c.run, c.job, "attempt %d ended %d times, and has %d rows in ci_attempts", c.attempt, len(c.ends), recorded[token])
		}
		delete(recorded, token)
	}
	for _, e := range r.trail.ended {
		if recorded[e.Token] > 0 {
			r.found(MovedTwice, time.Time{}, r.trail.runOf[e.Job], e.Job, "ci_attempts has attempt %d, which nobody claimed", e.Attempt)
		}
	}
	r.count("transitions", len(r.trail.moves))
	r.count("claims", claims)
}

// auditReaping: a job may be taken from a worker that is dead, or from one that has missed the job's deadline.
func (r *Report) auditReaping(m move) {
	if !m.Before.DeadlineAt.IsZero() && m.Before.DeadlineAt.Before(m.At) {
		return
	}
	for _, w := range r.trail.workers {
		if w.Worker == m.Before.Worker && w.Dead && !w.At.After(m.At) {
			if r.trail.services[w.Login] == "reaper" && w.Silent < w.Lease {
				r.found(LivingReaped, w.At, m.After.Run, m.After.ID, "worker %d was marked dead %.3f s after its beat, with a lease of %.3f s", w.Worker, w.Silent, w.Lease)
			}
			return
		}
	}
	r.found(LivingReaped, m.At, m.After.Run, m.After.ID, "worker %d was not dead", m.Before.Worker)
}

// auditNeeds: a job starts when all it needs has succeeded, and only then; it starts no more once its run is cancelled.
func (r *Report) auditNeeds() {
	type place struct {
		run           int64
		workflow, key string
	}
	members, succeeded, places := map[place][]int64{}, map[int64]int64{}, map[int64]place{}
	for _, j := range r.trail.jobs {
		p := place{j.Run, j.Workflow, j.Key}
		members[p], places[j.ID] = append(members[p], j.ID), p
	}
	for _, m := range r.trail.moves {
		if m.After.Status == "success" && succeeded[m.After.ID] == 0 {
			succeeded[m.After.ID] = m.Seq
		}
	}
	cancelled := map[int64]time.Time{}
	for _, request := range r.history.Requests {
		for _, a := range request.Answers {
			if a.Run != 0 && !request.CancelledAt.IsZero() {
				cancelled[a.Run] = request.CancelledAt
			}
		}
	}
	dependents := 0
	for _, m := range r.trail.moves {
		if !held(m.After.Status) {
			continue
		}
		if at, is := cancelled[m.After.Run]; is && m.At.After(at) {
			r.found(CancelIgnored, m.At, m.After.Run, m.After.ID, "claimed %s after the client was told that the run is cancelled", m.At.Sub(at))
		}
		if m.After.Status != "running" || len(m.After.Needs) == 0 {
			continue
		}
		dependents++
		for _, key := range m.After.Needs {
			needed := members[place{m.After.Run, m.After.Workflow, key}]
			if len(needed) == 0 {
				r.found(EarlyStart, m.At, m.After.Run, m.After.ID, "it needs %q, which is not there", key)
			}
			for _, id := range needed {
				if seq := succeeded[id]; seq == 0 || seq > m.Seq {
					r.found(EarlyStart, m.At, m.After.Run, m.After.ID, "it needs job %d (%s), which had not succeeded", id, key)
				}
			}
		}
	}
	r.count("starts of dependents", dependents)
}

func contains(words, word string) bool {
	for one := range strings.FieldsSeq(words) {
		if one == word {
			return true
		}
	}
	return false
}
