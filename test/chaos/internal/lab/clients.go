package lab

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/lockstep-ci/lockstep/test/chaos/internal/audit"
)

const (
	clients   = 3
	oneCall   = 5 * time.Second // after that the outcome is unknown, and the call is made again
	cancelOne = 12              // in so many runs
)

// load lets clients ask for runs until ctx ends. Each then goes on until its last request has been answered, or until
// patience ends.
func (s *System) load(ctx, patience context.Context) *sync.WaitGroup {
	var all sync.WaitGroup
	for n := range clients {
		random := rand.New(rand.NewPCG(s.options.Seed, uint64(100+n)))
		all.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				s.ask(patience, random, fmt.Sprintf("chaos-%d-%d-%d", s.options.Seed, n, i))
				pause(ctx, between(random.Float64(), 700*time.Millisecond, 1700*time.Millisecond))
			}
		})
	}
	all.Go(func() { s.watch(ctx, rand.New(rand.NewPCG(s.options.Seed, 99))) })
	for _, p := range s.gateways() {
		all.Go(func() { s.probe(ctx, p) })
	}
	return &all
}

// reading is what a log was read of.
type reading struct {
	job     int64
	attempt int
}

// watch reads the logs of jobs as they are written: what a client was shown once must stay.
func (s *System) watch(ctx context.Context, random *rand.Rand) {
	for pause(ctx, 150*time.Millisecond) {
		s.mu.Lock()
		latest := s.requests[max(0, len(s.requests)-8):] // the others have ended
		var run int64
		if len(latest) > 0 {
			if answers := latest[random.IntN(len(latest))].Answers; len(answers) > 0 {
				run = answers[len(answers)-1].Run
			}
		}
		s.mu.Unlock()
		var state struct {
			Jobs []struct {
				ID      int64 `json:"id,string"`
				Attempt int   `json:"attempt"`
			} `json:"jobs"`
		}
		code, text, err := s.call(ctx, http.MethodGet, s.anyGateway(random), fmt.Sprintf("/api/v1/runs/%d", run), nil, nil)
		if err != nil || code != http.StatusOK || json.Unmarshal(text, &state) != nil {
			continue
		}
		for _, j := range state.Jobs {
			if j.Attempt == 0 {
				continue
			}
			at := time.Now()
			if code, text, err := s.call(ctx, http.MethodGet, s.anyGateway(random), logPath(j.ID, j.Attempt), nil, nil); err == nil && code == http.StatusOK {
				s.mu.Lock()
				s.reads[reading{j.ID, j.Attempt}] = &audit.Read{At: at, Job: j.ID, Attempt: j.Attempt, Seen: text}
				s.mu.Unlock()
			}
		}
	}
}

func logPath(job int64, attempt int) string {
	return fmt.Sprintf("/api/v1/jobs/%d/log?attempt=%d", job, attempt)
}

// probe notes when a gateway is ready.
func (s *System) probe(ctx context.Context, p *place) {
	for pause(ctx, 100*time.Millisecond) {
		if code, _, err := s.call(ctx, http.MethodGet, p, "/readyz", nil, nil); err == nil && code == http.StatusOK {
			s.mu.Lock()
			s.ready = append(s.ready, audit.Ready{At: time.Now(), Place: p.name})
			s.mu.Unlock()
		}
	}
}

// ask is one request, and what follows of it.
func (s *System) ask(patience context.Context, random *rand.Rand, key string) {
	repo := s.repositories[random.IntN(len(s.repositories))]
	commit := repo.commits[random.IntN(len(repo.commits))]
	request := &audit.Request{Key: key, Principal: "github", Repository: repo.url()}
	if random.IntN(2) == 0 {
		request.Principal = "admin"
	}
	cancels := random.IntN(cancelOne) == 0
	s.mu.Lock()
	s.requests = append(s.requests, request)
	s.mu.Unlock()

	run := s.submit(patience, random, request, commit)
	if run != 0 && random.IntN(4) == 0 { // GitHub redelivers, and people press the button twice
		s.submit(patience, random, request, commit)
	}
	if run == 0 || !cancels {
		return
	}
	s.mu.Lock()
	request.Cancelled = true
	s.mu.Unlock()
	for patience.Err() == nil {
		code, _, err := s.call(patience, http.MethodPost, s.anyGateway(random), fmt.Sprintf("/api/v1/runs/%d/cancel", run), nil, nil)
		if err == nil && code == http.StatusAccepted {
			s.mu.Lock()
			request.CancelledAt = time.Now()
			s.mu.Unlock()
		}
		if err == nil && code < 500 {
			return
		}
		pause(patience, 100*time.Millisecond)
	}
}

func (s *System) anyGateway(random *rand.Rand) *place {
	gateways := s.gateways()
	return gateways[random.IntN(len(gateways))]
}

// submit sends a request again and again until it is answered, with the same key, now to this gateway and now to that.
func (s *System) submit(patience context.Context, random *rand.Rand, request *audit.Request, commit string) (run int64) {
	for patience.Err() == nil {
		path, header := "/api/v1/runs", map[string]string{"Idempotency-Key": request.Key}
		body := encode(map[string]string{"repository": request.Repository, "sha": commit})
		if request.Principal == "github" {
			path, body = "/webhooks/github", pushPayload(request.Repository, commit)
			header = map[string]string{"X-GitHub-Event": "push", "X-GitHub-Delivery": request.Key, "X-Hub-Signature-256": sign(body)}
		}
		code, text, err := s.call(patience, http.MethodPost, s.anyGateway(random), path, body, header)
		if err == nil {
			answer := audit.Answer{At: time.Now(), Code: code, Text: string(text)}
			var accepted struct {
				ID    string `json:"id"`
				RunID string `json:"run_id"`
			}
			if code/100 == 2 && json.Unmarshal(text, &accepted) == nil {
				answer.Run, _ = strconv.ParseInt(accepted.ID+accepted.RunID, 10, 64) // one of them is empty
			}
			s.mu.Lock()
			request.Answers = append(request.Answers, answer)
			s.mu.Unlock()
			if code < 500 && code != http.StatusTooManyRequests {
				return answer.Run
			}
		}
		pause(patience, 100*time.Millisecond)
	}
	return 0
}

// call makes one call to a gateway. An error means that its outcome is not known.
func (s *System) call(ctx context.Context, method string, to *place, path string, body []byte, header map[string]string) (code int, text []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, oneCall)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, "http://"+to.address+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer "+adminToken)
	for name, value := range header {
		request.Header.Set(name, value)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = response.Body.Close() }()
	text, err = io.ReadAll(response.Body)
	return response.StatusCode, text, err
}

func sign(payload []byte) string {
	mac := hmac.New(sha256.New, []byte(webhookSecret))
	mac.Write(payload)
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}

// pushPayload is what GitHub says of a push, as far as anybody looks at it.
func pushPayload(repository, commit string) []byte {
	name := repository[len("https://github.com/"):]
	return encode(map[string]any{
		"ref": "refs/heads/main", "before": "0000000000000000000000000000000000000000", "after": commit, "deleted": false,
		"head_commit": map[string]string{"id": commit, "message": "Trick"}, "sender": map[string]any{"login": "ada", "id": 1},
		"repository": map[string]any{"id": 1 + crc32.ChecksumIEEE([]byte(name)), "full_name": name, "html_url": repository},
	})
}

func encode(value any) []byte {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err) // maps of strings
	}
	return text
}

// readLogs reads every job's log, as a client would.
func (s *System) readLogs(ctx context.Context) error {
	conn, err := s.server.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	rows, err := conn.Query(ctx, "SELECT id FROM ci_jobs WHERE attempt > 0 ORDER BY id")
	if err != nil {
		return fmt.Errorf("list jobs: %w", err)
	}
	var jobs []int64
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return fmt.Errorf("list jobs: %w", err)
		}
		jobs = append(jobs, id)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("list jobs: %w", err)
	}
	gateways := s.gateways()
	for i, id := range jobs {
		code, text, err := s.call(ctx, http.MethodGet, gateways[i%len(gateways)], fmt.Sprintf("/api/v1/jobs/%d/log", id), nil, nil)
		if err != nil || code != http.StatusOK {
			return fmt.Errorf("read the log of job %d: %d %w", id, code, err)
		}
		s.logs[id] = text
	}
	for at, read := range s.reads {
		code, text, err := s.call(ctx, http.MethodGet, gateways[0], logPath(at.job, at.attempt), nil, nil)
		if err != nil || code != http.StatusOK {
			return fmt.Errorf("read the log of job %d attempt %d: %d %w", at.job, at.attempt, code, err)
		}
		read.Final = text
	}
	return nil
}
