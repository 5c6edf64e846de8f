// Package rest is the JSON API under /api/v1: it reads requests strictly, hands them to package api, and writes its messages.
package rest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	lockstepv1 "github.com/lockstep-ci/lockstep/services/api-gateway/gen/lockstep/v1"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/api"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/params"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/watch"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/wire"
)

const (
	runPath       = "/api/v1/runs/"
	replayedField = "Idempotent-Replayed"
)

// API answers requests about runs, jobs and the queue.
type API struct {
	service *api.Service
	hub     *watch.Hub
	origin  string // of PUBLIC_URL
	log     *zap.Logger
}

// New answers by service; events come from hub, for pages of publicURL.
func New(service *api.Service, hub *watch.Hub, publicURL string, log *zap.Logger) *API {
	return &API{service: service, hub: hub, origin: publicURL, log: log}
}

// CreateRun answers POST /api/v1/runs.
func (a *API) CreateRun(w http.ResponseWriter, r *http.Request) error {
	request := &lockstepv1.CreateRunRequest{}
	var err error
	if request.IdempotencyKey, err = idempotencyKey(r); err != nil {
		return err
	}
	fields := map[string]any{"repository": &request.Repository, "ref": &request.Ref, "sha": &request.Sha}
	if err := readObject(w, r, fields); err != nil {
		return err
	}
	answer, err := a.service.CreateRun(r.Context(), request)
	return created(w, answer.GetRun(), answer.GetReplayed(), err)
}

// RerunRun answers POST /api/v1/runs/{id}/rerun.
func (a *API) RerunRun(w http.ResponseWriter, r *http.Request) error {
	key, err := idempotencyKey(r)
	if err != nil {
		return err
	}
	if err := readNothing(w, r); err != nil {
		return err
	}
	answer, err := a.service.RerunRun(r.Context(), &lockstepv1.RerunRunRequest{Id: r.PathValue("id"), IdempotencyKey: key})
	return created(w, answer.GetRun(), answer.GetReplayed(), err)
}

// created answers with a new run, or with the one that the same key has made before: the same answer again.
func created(w http.ResponseWriter, run *lockstepv1.Run, replayed bool, err error) error {
	if err != nil {
		return err
	}
	if replayed {
		w.Header().Set(replayedField, "true")
	}
	w.Header().Set("Location", runPath+run.GetId())
	write(w, http.StatusCreated, wire.JSON(run))
	return nil
}

// CancelRun answers POST /api/v1/runs/{id}/cancel.
func (a *API) CancelRun(w http.ResponseWriter, r *http.Request) error {
	if err := readNothing(w, r); err != nil {
		return err
	}
	answer, err := a.service.CancelRun(r.Context(), &lockstepv1.CancelRunRequest{Id: r.PathValue("id")})
	if err != nil {
		return err
	}
	write(w, http.StatusAccepted, wire.JSON(answer.GetRun()))
	return nil
}

// GetRun answers GET /api/v1/runs/{id}. Its ETag is the version, so that asking again for what has not changed is cheap.
func (a *API) GetRun(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	id := r.PathValue("id")
	if r.Header.Get("If-None-Match") != "" {
		version, err := a.service.Version(r.Context(), id)
		if err != nil {
			return err
		}
		if unchanged(w, r, versionTag(version)) {
			return nil
		}
	}
	answer, err := a.service.GetRun(r.Context(), &lockstepv1.GetRunRequest{Id: id})
	if err != nil {
		return err
	}
	tag(w, versionTag(answer.GetRun().GetVersion()))
	write(w, http.StatusOK, wire.JSON(answer.GetRun()))
	return nil
}

// ListRuns answers GET /api/v1/runs.
func (a *API) ListRuns(w http.ResponseWriter, r *http.Request) error {
	values, err := query(r, "limit", "cursor", "repository", "status", "event", "ref", "pull_request")
	if err != nil {
		return err
	}
	request := &lockstepv1.ListRunsRequest{
		Limit: numbered(values, "limit"), Cursor: given(values, "cursor"), Repository: given(values, "repository"), Status: given(values, "status"),
		Event: given(values, "event"), Ref: given(values, "ref"), PullRequest: numbered(values, "pull_request"),
	}
	answer, err := a.service.ListRuns(r.Context(), request)
	return read(w, r, answer, err)
}

// GetJob answers GET /api/v1/jobs/{id}.
func (a *API) GetJob(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	answer, err := a.service.GetJob(r.Context(), &lockstepv1.GetJobRequest{Id: r.PathValue("id")})
	return read(w, r, answer, err)
}

// ListQueue answers GET /api/v1/queue.
func (a *API) ListQueue(w http.ResponseWriter, r *http.Request) error {
	values, err := query(r, "limit")
	if err != nil {
		return err
	}
	answer, err := a.service.ListQueue(r.Context(), &lockstepv1.ListQueueRequest{Limit: limit(values)})
	return read(w, r, answer, err)
}

// ListWorkers answers GET /api/v1/workers.
func (a *API) ListWorkers(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	answer, err := a.service.ListWorkers(r.Context(), &lockstepv1.ListWorkersRequest{})
	return read(w, r, answer, err)
}

// GetRepositoryStats answers GET /api/v1/repositories/{repository}/stats.
func (a *API) GetRepositoryStats(w http.ResponseWriter, r *http.Request) error {
	values, err := query(r, "window")
	if err != nil {
		return err
	}
	request := &lockstepv1.GetRepositoryStatsRequest{Repository: r.PathValue("repository")}
	if window, given := values["window"]; given {
		request.Window = &window
	}
	answer, err := a.service.GetRepositoryStats(r.Context(), request)
	return read(w, r, answer, err)
}

// limit is the parameter as the service judges it: what is no number is as wrong as 0.
func limit(values map[string]string) *int32 { return numbered(values, "limit") }

// numbered is a parameter as the service judges it; nil: it is not there.
func numbered(values map[string]string, name string) *int32 {
	text, given := values[name]
	if !given {
		return nil
	}
	n := params.Number(text)
	return &n
}

// query returns the parameters, each given once, and refuses those that the route does not know.
var query = params.Read

// idempotencyKey is what the client calls this request; nil: nothing.
func idempotencyKey(r *http.Request) (*string, error) {
	given := r.Header.Values(problem.KeyHeader)
	switch len(given) {
	case 0:
		return nil, nil
	case 1:
		return &given[0], nil
	}
	return nil, problem.In(problem.KeyHeader, http.StatusBadRequest, "invalid_header", "give it once")
}

// read answers with what was read, or with nothing when the client has the same already.
func read(w http.ResponseWriter, r *http.Request, answer proto.Message, err error) error {
	if err != nil {
		return err
	}
	text := wire.JSON(answer)
	sum := sha256.Sum256(text)
	if etag := `W/"` + hex.EncodeToString(sum[:12]) + `"`; !unchanged(w, r, etag) {
		tag(w, etag)
		write(w, http.StatusOK, text)
	}
	return nil
}

func versionTag(version int64) string { return fmt.Sprintf(`W/"%d"`, version) }

func tag(w http.ResponseWriter, etag string) {
	w.Header().Set("ETag", etag)
	w.Header().Set("Cache-Control", "private, no-cache") // keep it, and ask each time
}

// unchanged answers 304 when the client has what the tag names.
func unchanged(w http.ResponseWriter, r *http.Request, etag string) bool {
	for _, held := range strings.Split(strings.Join(r.Header.Values("If-None-Match"), ","), ",") {
		if held = strings.TrimSpace(held); held == "*" || strings.TrimPrefix(held, "W/") == strings.TrimPrefix(etag, "W/") {
			tag(w, etag)
			w.WriteHeader(http.StatusNotModified)
			return true
		}
	}
	return false
}

func write(w http.ResponseWriter, status int, text []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(text, '\n')) // a client that has gone needs no answer
}
