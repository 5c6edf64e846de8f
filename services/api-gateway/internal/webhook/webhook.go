// Package webhook accepts what GitHub posts.
package webhook

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
)

const (
	principal   = "github" // whose idempotency keys the delivery ids are
	maxBody     = 25 << 20 // bytes; GitHub sends no more (docs.github.com, webhook payload cap)
	smallBody   = 1 << 20  // bytes; nearly every delivery
	largeBodies = 4        // larger ones read at once
	largeWait   = 5 * time.Second
)

// Receiver answers POST /webhooks/github.
type Receiver struct {
	db      *jobs.DB
	secrets [][]byte
	large   chan struct{} // one token for each larger body in memory
	log     *zap.Logger
}

// New takes deliveries that are signed with any of the secrets: several while an old one is being replaced.
func New(db *jobs.DB, secrets []string, log *zap.Logger) *Receiver {
	r := &Receiver{db: db, large: make(chan struct{}, largeBodies), log: log}
	for _, secret := range secrets {
		r.secrets = append(r.secrets, []byte(secret))
	}
	return r
}

var deliveryID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,100}$`)

// Receive checks the signature over the bytes as they came, then reads the event, then makes one durable insert, and
// answers 202: {run_id}, the same for a delivery that comes again, or {ignored} with the reason.
func (rc *Receiver) Receive(w http.ResponseWriter, r *http.Request) error {
	signatures := r.Header.Values("X-Hub-Signature-256")
	if len(signatures) != 1 {
		return unsigned()
	}
	body, err := rc.read(w, r)
	if err != nil {
		return err
	}
	if !rc.signed(body, signatures[0]) {
		return unsigned()
	}
	delivery, event := r.Header.Get("X-GitHub-Delivery"), r.Header.Get("X-GitHub-Event")
	switch {
	case !deliveryID.MatchString(delivery):
		return problem.In("X-GitHub-Delivery", http.StatusBadRequest, "invalid_header", "send the id of the delivery")
	case event == "":
		return problem.In("X-GitHub-Event", http.StatusBadRequest, "invalid_header", "send the name of the event")
	}
	payload, err := payloadOf(r, body)
	if err != nil {
		return err
	}
	run, ignored, err := parse(event, payload)
	if err != nil {
		return problem.New(http.StatusUnprocessableEntity, "invalid_payload", err.Error())
	}
	log := rc.log.With(zap.String("delivery_id", delivery), zap.String("event", event))
	if ignored != "" {
		log.Info("delivery ignored", zap.String("reason", ignored))
		return accepted(w, map[string]string{"ignored": ignored})
	}

	// No hash of the request: what comes later under the same id is the first delivery's run, whatever it says.
	run.Principal, run.IdempotencyKey = principal, delivery
	enqueued, err := rc.db.Enqueue(r.Context(), run)
	if err != nil {
		return err
	}
	log.Info("delivery accepted", zap.Int64("run_id", enqueued.RunID), zap.String("repository", run.Repository), zap.Bool("again", enqueued.Existing))
	return accepted(w, map[string]string{"run_id": strconv.FormatInt(enqueued.RunID, 10)})
}

func unsigned() error {
	return problem.In("X-Hub-Signature-256", http.StatusUnauthorized, "bad_signature", "sign the body with the webhook's secret, by HMAC-SHA-256")
}

// signed compares in constant time with each secret's signature. GitHub's older header is SHA-1 and is not read.
func (rc *Receiver) signed(body []byte, signature string) bool {
	good := false
	for _, secret := range rc.secrets {
		mac := hmac.New(sha256.New, secret)
		mac.Write(body)
		want := "sha256=" + hex.EncodeToString(mac.Sum(nil))
		good = hmac.Equal([]byte(want), []byte(signature)) || good
	}
	return good
}

// read returns the whole body. Who sends it is not known before: a flood of large ones waits for one another, and
// what is small never waits for them.
func (rc *Receiver) read(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	limited := http.MaxBytesReader(w, r.Body, maxBody)
	var body bytes.Buffer
	_, err := io.CopyN(&body, limited, smallBody)
	if err == nil { // there may be more
		select {
		case rc.large <- struct{}{}:
			defer func() { <-rc.large }()
		case <-time.After(largeWait):
			return nil, problem.New(http.StatusServiceUnavailable, "busy", "too many large deliveries at once; try again")
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
		_, err = io.Copy(&body, limited)
	}
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, err
	case err != nil && !errors.Is(err, io.EOF):
		return nil, problem.New(http.StatusBadRequest, "incomplete_body", "the body did not arrive")
	}
	return body.Bytes(), nil
}

// payloadOf is the JSON in a body of either content type that a webhook can have.
func payloadOf(r *http.Request, body []byte) ([]byte, error) {
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch kind {
	case "application/json":
		return body, nil
	case "application/x-www-form-urlencoded":
		form, err := url.ParseQuery(string(body))
		if err != nil || len(form["payload"]) != 1 {
			return nil, problem.In("payload", http.StatusBadRequest, "invalid_payload", "the form has not one field named payload")
		}
		return []byte(form.Get("payload")), nil
	}
	return nil, problem.In("Content-Type", http.StatusUnsupportedMediaType, "unsupported_media_type", "send application/json")
}

func accepted(w http.ResponseWriter, answer map[string]string) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	_ = json.NewEncoder(w).Encode(answer) // GitHub needs the status only
	return nil
}
