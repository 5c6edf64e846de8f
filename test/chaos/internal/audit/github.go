package audit

import "time"

// reported is the state on GitHub that a job's state comes to.
func reported(j job) string {
	switch j.Status {
	case "success":
		return "success"
	case "failure":
		return "failure"
	case "error", "cancelled":
		return "error"
	case "skipped":
		if j.Key == "" { // nothing matched
			return "success"
		}
		return "failure"
	}
	return "pending"
}

// auditGitHub: in the end each context shows what the newest run of its commit came to, and on the way it never went back.
func (r *Report) auditGitHub() {
	type context struct{ sha, name string }
	last := map[context]Call{}
	for _, call := range r.history.Calls {
		at := context{call.SHA, call.Context}
		was, told := last[at]
		last[at] = call
		switch {
		case !told:
		case call.Run < was.Run:
			r.found(GitHubBackward, call.At, call.Run, 0, "%q of %.8s: run %d after run %d", call.Context, call.SHA, call.Run, was.Run)
		case call.Run == was.Run && was.State != "pending" && call.State == "pending":
			r.found(GitHubBackward, call.At, call.Run, 0, "%q of %.8s: %s after %s", call.Context, call.SHA, call.State, was.State)
		}
	}
	shas := map[int64]string{}
	for _, one := range r.trail.runs {
		shas[one.ID] = one.SHA
	}
	newest := map[context]job{}
	for _, j := range r.trail.jobs {
		// A job that was never planned, and did not end either, has nothing to tell.
		if at := (context{shas[j.Run], "lockstep/" + j.Name}); at.sha != "" && (j.Key != "" || final(j.Status)) && j.Run >= newest[at].Run {
			newest[at] = j
		}
	}
	for at, j := range newest {
		if got := last[at]; got.State != reported(j) || got.Run != j.Run {
			r.found(GitHubWrong, time.Time{}, j.Run, j.ID, "%q of %.8s is %q by run %d; the job is %s, so it should be %q", at.name, at.sha, got.State, got.Run, j.Status, reported(j))
		}
	}
	r.count("statuses taken by GitHub", len(r.history.Calls))
	r.count("contexts compared with the jobs", len(newest))
}
