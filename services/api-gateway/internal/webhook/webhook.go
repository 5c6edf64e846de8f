// Package webhook accepts what GitHub posts.
package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	_ "embed" // for the queries
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/approvals"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/repositories"
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
	db           *jobs.DB
	repositories *repositories.Service
	approvals    *approvals.Service
	secrets      [][]byte
	app          int64         // GitHub's number of our App; 0: any
	large        chan struct{} // one token for each larger body in memory
	deliveries   *prometheus.CounterVec
	log          *zap.Logger
}

// New takes deliveries that are signed with any of the secrets: several while an old one is being replaced. app is GitHub's
// number of the App whose deliveries are taken; 0: those of any App that knows a secret.
func New(db *jobs.DB, secrets []string, app int64, log *zap.Logger) *Receiver {
	r := &Receiver{
		db: db, repositories: repositories.New(db.Pool()), approvals: approvals.New(db),
		app: app, large: make(chan struct{}, largeBodies), deliveries: counter(db.Metrics()), log: log,
	}
	for _, secret := range secrets {
		r.secrets = append(r.secrets, []byte(secret))
	}
	return r
}

var deliveryID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,100}$`)

// Receive answers 202 with what the delivery has led to, the same for one that comes again: {run_id}, {approval_id}, {moved_to},
// {withdrawn}, or {ignored} with the reason.
func (rc *Receiver) Receive(w http.ResponseWriter, r *http.Request) error {
	event := r.Header.Get("X-GitHub-Event")
	kind, told, err := rc.receive(w, r, event)
	rc.count(event, kind, err)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	_ = json.NewEncoder(w).Encode(map[string]string{kind: told}) // GitHub needs the status only
	return nil
}

// receive checks the signature over the bytes as they came, and only then reads the event.
func (rc *Receiver) receive(w http.ResponseWriter, r *http.Request, event string) (kind, told string, err error) {
	signatures := r.Header.Values("X-Hub-Signature-256")
	if len(signatures) != 1 {
		return "", "", unsigned()
	}
	body, err := rc.read(w, r)
	if err != nil {
		return "", "", err
	}
	if !rc.signed(body, signatures[0]) {
		return "", "", unsigned()
	}
	delivery := r.Header.Get("X-GitHub-Delivery")
	switch {
	case !deliveryID.MatchString(delivery):
		return "", "", problem.In("X-GitHub-Delivery", http.StatusBadRequest, "invalid_header", "send the id of the delivery")
	case event == "":
		return "", "", problem.In("X-GitHub-Event", http.StatusBadRequest, "invalid_header", "send the name of the event")
	}
	text, err := payloadOf(r, body)
	if err != nil {
		return "", "", err
	}
	wanted, err := parse(event, text)
	if err != nil {
		return "", "", problem.New(http.StatusUnprocessableEntity, "invalid_payload", err.Error())
	}
	if wanted.ignored == "" {
		if err := rc.fromItsHook(r.Header, wanted); err != nil {
			return "", "", err
		}
	}
	kind, told, err = rc.grant(r.Context(), delivery, wanted)
	if err == nil {
		rc.log.Info("delivery accepted", zap.String("delivery_id", delivery), zap.String("event", clip(event, 100)),
			zap.String("repository", wanted.repository), zap.String(kind, told))
	}
	return kind, told, err
}

// What a delivery has led to, as the answer, the log and the metric name it.
const (
	madeRun   = "run_id"
	madeAsk   = "approval_id"
	moved     = "moved_to"
	withdrawn = "withdrawn"
	ignored   = "ignored"
)

// grant does what a delivery asks for.
func (rc *Receiver) grant(ctx context.Context, delivery string, wanted wish) (kind, told string, err error) {
	if wanted.ignored != "" {
		return ignored, wanted.ignored, nil
	}
	if wanted.formerly != "" {
		done, err := rc.repositories.Move(ctx, wanted.formerly, wanted.repository, wanted.githubID)
		if err == nil && !done {
			return ignored, wanted.formerly + " is not known here as that repository", nil
		}
		return moved, wanted.repository, err
	}
	known, err := rc.repositories.Meet(ctx, wanted.repository, wanted.githubID)
	if err != nil {
		return "", "", err
	}
	switch {
	case wanted.rerun != "":
		return rc.rerun(ctx, delivery, wanted)
	case wanted.withdraw != 0:
		done, err := rc.approvals.Withdraw(ctx, wanted.repository, wanted.withdraw, wanted.at)
		if err == nil && !done {
			return ignored, fmt.Sprintf("nothing waits for pull request %d", wanted.withdraw), nil
		}
		return withdrawn, fmt.Sprintf("pull request %d", wanted.withdraw), err
	}
	// No hash of the request: what comes later under the same id is the first delivery's run, whatever it says.
	wanted.run.Principal, wanted.run.IdempotencyKey = principal, delivery
	if wanted.fork {
		return rc.fork(ctx, wanted, known.ForkPolicy)
	}
	return rc.run(ctx, wanted.run)
}

func (rc *Receiver) run(ctx context.Context, run jobs.NewRun) (kind, told string, err error) {
	enqueued, err := rc.db.Enqueue(ctx, run)
	return madeRun, strconv.FormatInt(enqueued.RunID, 10), err
}

// fork does what the repository's policy says about a stranger's code. What the delivery has led to before comes first: a policy
// may have changed meanwhile.
func (rc *Receiver) fork(ctx context.Context, wanted wish, policy string) (kind, told string, err error) {
	fork := approvals.Fork{Run: wanted.run, At: wanted.at}
	before, err := rc.before(ctx, wanted.run.IdempotencyKey)
	switch {
	case err != nil:
		return "", "", err
	case before.approval != nil:
		asked, err := rc.approvals.Get(ctx, *before.approval)
		if err != nil {
			return "", "", err
		}
		return tell(&asked)
	case before.run != nil:
		return madeRun, strconv.FormatInt(*before.run, 10), nil
	}
	if policy == repositories.ForksAsk {
		asked, err := rc.approvals.Ask(ctx, fork)
		if err != nil {
			return "", "", err
		}
		return tell(&asked)
	}
	if err := rc.approvals.Supersede(ctx, fork); err != nil {
		return "", "", err
	}
	if policy == repositories.ForksRun {
		return rc.run(ctx, wanted.run)
	}
	return ignored, fmt.Sprintf("pull request %d comes from a fork; fork_policy is %s", wanted.run.PullRequest, policy), nil
}

func tell(asked *approvals.Approval) (kind, told string, err error) {
	switch {
	case asked.Status == approvals.Waiting:
		return madeAsk, strconv.FormatInt(asked.ID, 10), nil
	case asked.Status == approvals.Approved && asked.RunID != nil:
		return madeRun, strconv.FormatInt(*asked.RunID, 10), nil
	}
	return ignored, asked.Told(), nil
}

// rerun runs the newest run of a commit again, with its trust.
func (rc *Receiver) rerun(ctx context.Context, delivery string, wanted wish) (kind, told string, err error) {
	var newest *int64
	err = rc.db.Pool().QueryRow(ctx, newestRun, pgx.NamedArgs{"repository": wanted.repository, "sha": wanted.rerun}).Scan(&newest)
	if err != nil {
		return "", "", fmt.Errorf("find newest run of commit %s: %w", wanted.rerun, err)
	}
	if newest == nil {
		return ignored, "no run of commit " + wanted.rerun + " has been reported", nil
	}
	again, err := rc.db.Rerun(ctx, *newest, principal, delivery, nil, wanted.sender)
	return madeRun, strconv.FormatInt(again.RunID, 10), err
}

// earlier is what a delivery has led to when it came before.
type earlier struct{ run, approval *int64 }

func (rc *Receiver) before(ctx context.Context, delivery string) (e earlier, err error) {
	err = rc.db.Pool().QueryRow(ctx, delivered, pgx.NamedArgs{"principal": principal, "delivery_id": delivery}).Scan(&e.run, &e.approval)
	if err != nil {
		return e, fmt.Errorf("look for delivery %s: %w", delivery, err)
	}
	return e, nil
}

var (
	//go:embed queries/delivered.sql
	delivered string
	//go:embed queries/newest_run.sql
	newestRun string
)

// fromItsHook compares who sent a delivery with the repository that it is about: the hook of one repository must not speak for
// another. The headers are not signed, so this finds what is set up wrongly; whom to trust is decided by the secret. Servers
// older than the headers send none.
func (rc *Receiver) fromItsHook(header http.Header, wanted wish) error {
	kind, id := header.Get("X-GitHub-Hook-Installation-Target-Type"), header.Get("X-GitHub-Hook-Installation-Target-ID")
	if kind == "" && id == "" {
		return nil
	}
	var expected []int64
	switch kind {
	case "repository":
		expected = []int64{wanted.githubID}
	case "organization":
		expected = []int64{wanted.organization, wanted.owner}
	case "business":
		expected = []int64{wanted.enterprise}
	case "integration":
		if wanted.installation == 0 {
			return problem.In("installation.id", http.StatusUnprocessableEntity, "wrong_hook", "an App's delivery names the installation")
		}
		if expected = []int64{rc.app}; rc.app == 0 {
			return nil
		}
	}
	for _, n := range expected {
		if n > 0 && id == strconv.FormatInt(n, 10) {
			return nil
		}
	}
	return problem.In("X-GitHub-Hook-Installation-Target-ID", http.StatusUnprocessableEntity, "wrong_hook",
		fmt.Sprintf("this hook is that of %s %s, and the payload is of another one's", clip(kind, 40), clip(id, 40)))
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
