package audit

import (
	"slices"
	"strings"
	"time"
)

// aftermath is how long after a fault of the database a service may still be busy with it.
const aftermath = 5 * time.Second

// auditProcesses: who is told to stop does so in order, and at nobody's cost; nobody ends by himself.
func (r *Report) auditProcesses() {
	graceful := 0
	for _, p := range r.history.Processes {
		switch {
		case p.Ended.IsZero() || p.Killed:
			continue
		case p.Told.IsZero():
			r.found(ProcessEnded, p.Ended, 0, 0, "%s with status %d, untold: %s", p.Login, p.Code, p.Said)
			continue
		case p.Code != 0:
			r.found(ProcessEnded, p.Ended, 0, 0, "%s with status %d when told to stop: %s", p.Login, p.Code, p.Said)
		}
		if slices.ContainsFunc(r.history.Faults, func(f Fault) bool {
			return (f.Database || f.Login == p.Login && f.Kind != "SIGTERM") && f.Began.Before(p.Ended) && f.Ended.Add(aftermath).After(p.Told)
		}) {
			continue // it could not put its things in order
		}
		graceful++
		mine := map[int64]bool{}
		for _, w := range r.trail.workers {
			if !w.Dead && w.Login == p.Login {
				mine[w.Worker] = true
			}
		}
		for _, m := range r.trail.moves {
			if !held(m.Before.Status) || !mine[m.Before.Worker] || m.At.Before(p.Told) {
				continue
			}
			if m.After.Failures > m.Before.Failures || m.After.Crashes > m.Before.Crashes {
				r.found(StopCosts, m.At, m.After.Run, m.After.ID, "%s was told to stop: failures %d → %d, crashes %d → %d (%s)", p.Login,
					m.Before.Failures, m.After.Failures, m.Before.Crashes, m.After.Crashes, m.After.Reason)
			}
		}
	}
	r.count("processes", len(r.history.Processes))
	r.count("graceful stops with the database in reach", graceful)
}

// measure finds out how long it took after faults: until a job of a process that was hit was in somebody's hands again, or
// ended, or a gateway that was hit is ready; and, after a fault of database or network, until any job moved again and any
// gateway is ready.
func (r *Report) measure() {
	claims := r.trail.claims()
	byJob := map[int64][]move{}
	for _, m := range r.trail.moves {
		byJob[m.After.ID] = append(byJob[m.After.ID], m)
	}
	times := map[string][]time.Duration{}
	took := func(what string, d time.Duration) { times[what] = append(times[what], d) }
	for _, f := range r.history.Faults {
		if f.Database {
			if i := slices.IndexFunc(r.trail.moves, func(m move) bool { return m.At.After(f.Ended) }); i >= 0 {
				took(f.Kind+" is over → any job moves", r.trail.moves[i].At.Sub(f.Ended))
			}
			if i := slices.IndexFunc(r.history.Ready, func(one Ready) bool { return one.At.After(f.Ended) }); i >= 0 {
				took(f.Kind+" is over → a gateway is ready", r.history.Ready[i].At.Sub(f.Ended))
			}
		}
		if f.Login == "" {
			continue
		}
		if i := slices.IndexFunc(r.history.Ready, func(one Ready) bool {
			return one.At.After(f.Began) && strings.HasPrefix(f.Login, one.Place+"_")
		}); i >= 0 {
			took(f.Kind+" → that gateway is ready", r.history.Ready[i].At.Sub(f.Began))
		}
		for _, c := range claims {
			if c.login != f.Login || c.at.After(f.Began) || len(c.ends) == 0 || c.ends[0].At.Before(f.Began) {
				continue
			}
			for _, m := range byJob[c.job] {
				if m.At.After(f.Began) && (held(m.After.Status) || final(m.After.Status)) {
					took(f.Kind+" → its job is held again, or has ended", m.At.Sub(f.Began))
					break
				}
			}
		}
	}
	ended := map[string]time.Time{}
	for _, p := range r.history.Processes {
		ended[p.Login] = p.Ended
	}
	zombies := 0
	for _, c := range claims {
		if gone := ended[c.login]; len(c.ends) > 0 && r.trail.services[c.ends[0].Login] == "reaper" && (gone.IsZero() || gone.After(c.ends[0].At)) {
			zombies++
		}
	}
	r.count("claims taken from a process that lived on", zombies)
	for _, what := range slices.Sorted(keys(times)) {
		slices.Sort(times[what])
		r.Recovery = append(r.Recovery, Recovery{what, times[what]})
	}
	r.count("faults", len(r.history.Faults))
}
