package audit

import (
	"net/http"
	"slices"
	"time"
)

// auditRuns compares what clients were promised with what there is.
func (r *Report) auditRuns() {
	type identity struct{ principal, key string }
	byKey, byID := map[identity][]run{}, map[int64]run{}
	for _, one := range r.trail.runs {
		id := identity{one.Principal, one.Key}
		byKey[id] = append(byKey[id], one)
		byID[one.ID] = one
	}
	accepted, lost, doubled := 0, 0, 0
	asked := map[identity]bool{}
	for _, request := range r.history.Requests {
		id := identity{request.Principal, request.Key}
		asked[id] = true
		var runs []int64
		for _, a := range request.Answers {
			if a.Run == 0 && a.Code >= 400 && a.Code < 500 && a.Code != http.StatusTooManyRequests {
				r.found(RunRefused, a.At, 0, 0, "request %s for %s: %d %s", request.Key, request.Repository, a.Code, a.Text)
			}
			if a.Run == 0 || slices.Contains(runs, a.Run) {
				continue
			}
			runs = append(runs, a.Run)
			if _, there := byID[a.Run]; !there {
				lost++
				r.found(RunLost, a.At, a.Run, 0, "request %s was answered with %d and run %d, which is not there", request.Key, a.Code, a.Run)
			} else if there := byKey[id]; len(there) == 0 || there[0].ID != a.Run {
				r.found(RunLost, a.At, a.Run, 0, "request %s was answered with run %d, which is another request's", request.Key, a.Run)
			}
		}
		switch {
		case len(runs) == 0:
			r.found(RunUnanswered, time.Time{}, 0, 0, "request %s for %s", request.Key, request.Repository)
		default:
			accepted++
		}
		if len(runs) > 1 || len(byKey[id]) > 1 {
			doubled++
			r.found(RunDoubled, request.Answers[0].At, runs[0], 0, "request %s was answered with runs %v and made %d", request.Key, runs, len(byKey[id]))
		}
		if len(runs) > 0 {
			r.auditResult(byID[runs[0]], request)
		}
	}
	for _, one := range r.trail.runs {
		if !asked[identity{one.Principal, one.Key}] {
			r.found(RunInvented, one.CreatedAt, one.ID, 0, "key %q of %q", one.Key, one.Principal)
		}
	}
	r.count("runs accepted", accepted)
	r.count("runs lost", lost)
	r.count("runs doubled", doubled)
}

// auditResult compares how a run ended with its plan.
func (r *Report) auditResult(one run, request Request) {
	if one.ID == 0 {
		return
	}
	if !final(one.Status) {
		r.found(RunStuck, time.Time{}, one.ID, 0, "it is %s", one.Status)
		return
	}
	plan, known := r.history.Plans[one.Repository]
	if !known {
		return
	}
	if one.Status != plan.Status && !(request.Cancelled && one.Status == "cancelled") {
		r.found(RunWrong, time.Time{}, one.ID, 0, "run of %s: %s, want %s", one.Repository, one.Status, plan.Status)
	}
	seen := map[string]bool{}
	for _, j := range r.trail.jobs {
		if j.Run != one.ID {
			continue
		}
		want, known := plan.Jobs[j.Name]
		switch {
		case !final(j.Status):
			r.found(RunStuck, time.Time{}, one.ID, j.ID, "the run has ended, and its job %q is %s", j.Name, j.Status)
		case request.Cancelled && (j.Status == "cancelled" || j.Status == "skipped"):
		case !known, seen[j.Name]:
			r.found(RunWrong, time.Time{}, one.ID, j.ID, "job %q is not in the plan, or there twice", j.Name)
		case j.Status != want.Status:
			r.found(RunWrong, time.Time{}, one.ID, j.ID, "job %q: %s (%s), want %s", j.Name, j.Status, j.Reason, want.Status)
		}
		seen[j.Name] = true
	}
	for name := range plan.Jobs {
		if !seen[name] && one.Status != "cancelled" {
			r.found(RunWrong, time.Time{}, one.ID, 0, "job %q was never made", name)
		}
	}
}
