package rest

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"

	lockstepv1 "github.com/lockstep-ci/lockstep/services/api-gateway/gen/lockstep/v1"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/params"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/watch"
)

// JobLog answers GET /api/v1/jobs/{id}/log: the bytes of one attempt's log as they are stored; the latest attempt's unless
// ?attempt= says which. With ?follow=1 the answer goes on until the job has ended: when the job is tried again, a line
// says so and the next attempt's log follows. An attempt that was named is followed to its own end.
func (a *API) JobLog(w http.ResponseWriter, r *http.Request) error {
	request, err := logRequest(r)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	out := &logText{w: w, control: http.NewResponseController(w)}
	err = a.service.FollowLog(r.Context(), request, out.send)
	if err != nil && out.begun { // too late for a problem: an answer that breaks off is not a whole log
		if !errors.Is(err, watch.ErrClosed) {
			problem.Log(r.Context(), a.log, r.Method+" "+r.URL.Path, err)
		}
		panic(http.ErrAbortHandler)
	}
	return err
}

func logRequest(r *http.Request) (*lockstepv1.FollowLogRequest, error) {
	request := &lockstepv1.FollowLogRequest{JobId: r.PathValue("id"), StoredOnly: true}
	values, err := query(r, "attempt", "follow")
	if err != nil {
		return nil, err
	}
	if text, given := values["attempt"]; given {
		request.From, request.ThisAttemptOnly = &lockstepv1.LogPosition{Attempt: params.Number(text)}, true // 0 is as wrong as what is no number
	}
	if text, given := values["follow"]; given {
		follow, err := strconv.ParseBool(text)
		if err != nil {
			return nil, problem.In("follow", http.StatusBadRequest, "invalid_parameter", "is 1 or 0")
		}
		request.StoredOnly = !follow || r.Method == http.MethodHead
	}
	return request, nil
}

// logText writes a log as its bare bytes.
type logText struct {
	w       http.ResponseWriter
	control *http.ResponseController
	attempt int32 // of the last piece
	begun   bool  // the header has been sent
	wrote   bool  // and something behind it
}

func (t *logText) send(piece *lockstepv1.FollowLogResponse) error {
	t.begun = true
	if t.attempt != 0 && piece.GetAttempt() > t.attempt && t.wrote { // what an attempt without output was is nobody's concern
		if _, err := fmt.Fprintf(t.w, "\n=== attempt %d ===\n", piece.GetAttempt()); err != nil {
			return err
		}
	}
	t.attempt = max(t.attempt, piece.GetAttempt())
	if data := piece.GetData(); len(data) > 0 {
		t.wrote = true
		if _, err := t.w.Write(data); err != nil {
			return err
		}
	}
	return t.control.Flush()
}
