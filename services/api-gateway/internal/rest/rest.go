// Package rest is the JSON API under /api/v1.
package rest

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/auth"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/runs"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/watch"
)

const (
	maxBody       = 64 << 10 // bytes of a request
	defaultLimit  = 20       // runs of a page
	maxLimit      = 100
	maxKey        = 255 // characters of an Idempotency-Key
	runPath       = "/api/v1/runs/"
	replayedField = "Idempotent-Replayed"
)

// API answers requests about runs and logs.
type API struct {
	runs *runs.Service
	hub  *watch.Hub
	pool *pgxpool.Pool
	log  *zap.Logger
}

// New answers from service; logs are read from the pool, and followed through hub.
func New(service *runs.Service, hub *watch.Hub, pool *pgxpool.Pool, log *zap.Logger) *API {
	return &API{runs: service, hub: hub, pool: pool, log: log}
}

// CreateRun answers POST /api/v1/runs.
func (a *API) CreateRun(w http.ResponseWriter, r *http.Request) error {
	key, err := idempotencyKey(r)
	if err != nil {
		return err
	}
	var request runs.Request
	err = readObject(w, r, map[string]*string{"repository": &request.Repository, "ref": &request.Ref, "sha": &request.SHA})
	if err != nil {
		return err
	}
	run, replayed, err := a.runs.Create(r.Context(), request, auth.Principal, key)
	return a.created(w, run, replayed, err)
}

// Rerun answers POST /api/v1/runs/{id}/rerun.
func (a *API) Rerun(w http.ResponseWriter, r *http.Request) error {
	key, err := idempotencyKey(r)
	if err != nil {
		return err
	}
	id, err := pathID(r)
	if err != nil {
		return err
	}
	if err := readNothing(w, r); err != nil {
		return err
	}
	run, replayed, err := a.runs.Rerun(r.Context(), id, auth.Principal, key)
	return a.created(w, run, replayed, err)
}

// created answers with a new run, or with the one that the same key has made before: the same answer again.
func (a *API) created(w http.ResponseWriter, run runs.Run, replayed bool, err error) error {
	var invalid *runs.Invalid
	switch {
	case errors.As(err, &invalid):
		return problem.In(invalid.Field, http.StatusUnprocessableEntity, "invalid_field", invalid.Reason)
	case err != nil:
		return err
	}
	if replayed {
		w.Header().Set(replayedField, "true")
	} else {
		a.log.Info("run accepted", zap.String("run_id", run.ID), zap.String("repository", run.Repository), zap.String("event", run.Event))
	}
	w.Header().Set("Location", runPath+run.ID)
	return write(w, http.StatusCreated, run)
}

// Cancel answers POST /api/v1/runs/{id}/cancel. What nobody holds has ended when it returns; a worker ends the rest.
func (a *API) Cancel(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	if err := readNothing(w, r); err != nil {
		return err
	}
	run, err := a.runs.Cancel(r.Context(), id)
	if err != nil {
		return err
	}
	a.log.Info("run to be cancelled", zap.String("run_id", run.ID))
	return write(w, http.StatusAccepted, run)
}

// GetRun answers GET /api/v1/runs/{id}.
func (a *API) GetRun(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	if _, err := query(r); err != nil {
		return err
	}
	run, err := a.runs.Get(r.Context(), id)
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, run)
}

// page is the answer to a list.
type page struct {
	Runs       []runs.Run `json:"runs"`
	NextCursor *string    `json:"next_cursor"` // of the page behind this one; null: there is none
}

// ListRuns answers GET /api/v1/runs, the newest run first.
func (a *API) ListRuns(w http.ResponseWriter, r *http.Request) error {
	values, err := query(r, "limit", "cursor")
	if err != nil {
		return err
	}
	limit, before := defaultLimit, int64(math.MaxInt64)
	if text, given := values["limit"]; given {
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 || limit > maxLimit {
			return problem.In("limit", http.StatusBadRequest, "invalid_parameter", "give a number from 1 to "+strconv.Itoa(maxLimit))
		}
	}
	if text, given := values["cursor"]; given {
		var valid bool
		if before, valid = decodeCursor(text); !valid {
			return problem.In("cursor", http.StatusBadRequest, "invalid_parameter", "give a next_cursor of an earlier answer")
		}
	}
	found, err := a.runs.Latest(r.Context(), before, limit+1)
	if err != nil {
		return err
	}
	answer := page{Runs: found}
	if len(found) > limit {
		answer.Runs = found[:limit]
		next := encodeCursor(found[limit-1].ID)
		answer.NextCursor = &next
	}
	return write(w, http.StatusOK, answer)
}

// A cursor is the id of the last run of a page. It is opaque to clients, so that it may become something else.
const cursorPrefix = "runs:"

func encodeCursor(id string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(cursorPrefix + id))
}

func decodeCursor(text string) (int64, bool) {
	plain, err := base64.RawURLEncoding.Strict().DecodeString(text)
	id, ours := strings.CutPrefix(string(plain), cursorPrefix)
	if err != nil || !ours {
		return 0, false
	}
	return runs.ParseID(id)
}

func pathID(r *http.Request) (int64, error) {
	id, valid := runs.ParseID(r.PathValue("id"))
	if !valid {
		return 0, jobs.ErrNotFound
	}
	return id, nil
}

// query returns the parameters, each given once, and refuses those that this route does not know: nothing is ignored.
func query(r *http.Request, known ...string) (map[string]string, error) {
	parsed, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, problem.New(http.StatusBadRequest, "invalid_query", "the query cannot be read")
	}
	values := map[string]string{}
	for name, given := range parsed {
		switch {
		case !slices.Contains(known, name):
			return nil, problem.In(name, http.StatusBadRequest, "unknown_parameter", "this route knows no such parameter")
		case len(given) > 1:
			return nil, problem.In(name, http.StatusBadRequest, "invalid_parameter", "give it once")
		}
		values[name] = given[0]
	}
	return values, nil
}

// idempotencyKey is what the client calls this request; empty: nothing.
func idempotencyKey(r *http.Request) (string, error) {
	given := r.Header.Values("Idempotency-Key")
	if len(given) == 0 {
		return "", nil
	}
	unprintable := func(c rune) bool { return c <= ' ' || c > '~' }
	if len(given) > 1 || given[0] == "" || len(given[0]) > maxKey || strings.ContainsFunc(given[0], unprintable) {
		return "", problem.In("Idempotency-Key", http.StatusBadRequest, "invalid_header", "give 1 to "+strconv.Itoa(maxKey)+" visible ASCII characters, once")
	}
	return given[0], nil
}

func write(w http.ResponseWriter, status int, answer any) error {
	text, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(text, '\n')) // a client that has gone needs no answer
	return nil
}
