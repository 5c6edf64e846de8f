package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"
)

// withGateways runs do on a database of its own that so many gateways serve.
func withGateways(ctx context.Context, b *bench, n int, do func(*database, *fleet) error) error {
	_, err := within(ctx, b.server.migrated, func(d *database) (_ struct{}, err error) {
		f := &fleet{}
		defer func() { err = errors.Join(err, f.stop()) }()
		for range n {
			if err := f.start(b, "api-gateway", d.as("api-gateway")); err != nil {
				return struct{}{}, err
			}
		}
		if err := f.ready(ctx); err != nil {
			return struct{}{}, err
		}
		return struct{}{}, errors.Join(do(d, f), f.alive())
	})
	return err
}

// webhooks is part (i): how long GitHub waits for the answer to a push.
func webhooks(ctx context.Context, b *bench, t *table) error {
	took := t.latencies(fmt.Sprintf("ours: %d deliveries a second, one gateway, from the request to the answer", b.size.deliveryRate), nil, atMost(50), nil)
	lost := t.row("runs", atMost(0), "… answered with 202, and not in the table afterwards")
	return b.rounds(func() error {
		return withGateways(ctx, b, 1, func(d *database, f *fleet) error {
			hook := newHook(f)
			defer hook.close()
			// Connections open and plans are made before anything counts.
			if _, err := openLoop(ctx, b.size.deliveryRate, b.size.deliverFor/10, func(i int64) error {
				_, _, err := hook.post(ctx, 0, newDelivery("warm", i))
				return err
			}); err != nil {
				return err
			}
			var mu sync.Mutex
			var ms []float64
			runs := map[string]bool{}
			n, err := openLoop(ctx, b.size.deliveryRate, b.size.deliverFor, func(i int64) error {
				run, waited, err := hook.post(ctx, 0, newDelivery("delivery", i))
				mu.Lock()
				defer mu.Unlock()
				ms, runs[run] = append(ms, inMs(waited)), true
				return err
			})
			if err != nil {
				return err
			}
			took.addAll(ms)
			stored, err := value[int](ctx, d, "SELECT count(*) FROM ci_runs WHERE idempotency_key LIKE 'delivery-%'")
			lost.add(float64(max(len(runs), n) - stored))
			b.say("    %d deliveries: p99 %s ms", n, number(took.p99.last()))
			return err
		})
	})
}

// storm is part (j): GitHub, or somebody with its deliveries, sends each many times and to every gateway.
func storm(ctx context.Context, b *bench, t *table) error {
	rate := t.row("deliveries/s", nil, "ours: %s deliveries, %d copies of each, shuffled over %d gateways, %d at once",
		number(float64(b.size.deliveries)), b.size.copies, b.size.gateways, b.size.senders)
	p99 := t.row("ms", nil, "… from the request to the answer, p99")
	extra := t.row("runs", atMost(0), "… runs more or fewer than there are deliveries")
	wrong := t.row("answers", atMost(0), "… that do not name the delivery's one run")
	return b.rounds(func() error {
		return withGateways(ctx, b, b.size.gateways, func(d *database, f *fleet) error {
			hook := newHook(f)
			defer hook.close()
			posts := make([]delivery, b.size.deliveries)
			for i := range posts {
				posts[i] = newDelivery("delivery", int64(i+1)) // 0 would be no commit
			}
			order := rand.Perm(b.size.deliveries * b.size.copies)
			var mu sync.Mutex
			var ms []float64
			answers := map[string]map[string]int{} // by delivery: how often each run was named
			watch := b.server.start()
			_, err := closedLoop(ctx, b.size.senders, upTo(len(order)), func(ctx context.Context, i int64) error {
				posted := posts[order[i-1]%len(posts)]
				run, waited, err := hook.post(ctx, rand.IntN(b.size.gateways), posted)
				mu.Lock()
				defer mu.Unlock()
				if answers[posted.id] == nil {
					answers[posted.id] = map[string]int{}
				}
				answers[posted.id][run]++
				ms = append(ms, inMs(waited))
				return err
			})
			if err != nil {
				return err
			}
			rate.addFigure(watch.per(len(order)))
			p99.add(percentile(ms, 99))
			stored, err := value[int](ctx, d, "SELECT count(*) FROM ci_runs")
			if err != nil {
				return err
			}
			extra.add(float64(max(stored-b.size.deliveries, b.size.deliveries-stored)))
			rows, err := value[map[string]string](ctx, d, "SELECT jsonb_object_agg(idempotency_key, id::text) FROM ci_runs")
			misnamed := 0
			for delivery, runs := range answers {
				misnamed += b.size.copies - runs[rows[delivery]]
			}
			wrong.add(float64(misnamed))
			b.say("    %s/s, %d runs, %d wrong answers", number(rate.last()), stored, misnamed)
			return err
		})
	})
}

// hook is GitHub's side of a webhook.
type hook struct {
	urls   []string
	client *http.Client
}

func newHook(f *fleet) *hook {
	h := &hook{client: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 1_000}}}
	for _, p := range f.processes {
		h.urls = append(h.urls, "http://"+p.ops+"/webhooks/github")
	}
	return h
}

func (h *hook) close() { h.client.CloseIdleConnections() }

// delivery is a push as GitHub posts it.
type delivery struct {
	id, signature string
	body          []byte
}

// newDelivery is the i-th of a kind.
func newDelivery(kind string, i int64) delivery {
	d := delivery{id: fmt.Sprintf("%s-%d", kind, i), body: push(i)}
	mac := hmac.New(sha256.New, []byte(fleetSecret))
	mac.Write(d.body)
	d.signature = "sha256=" + hex.EncodeToString(mac.Sum(nil))
	return d
}

// post hands a delivery to a gateway. It returns the run's id, and how long the answer took.
func (h *hook) post(ctx context.Context, gateway int, d delivery) (run string, took time.Duration, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, h.urls[gateway], bytes.NewReader(d.body))
	if err != nil {
		return "", 0, fmt.Errorf("make a delivery: %w", err)
	}
	request.Header = http.Header{
		"Content-Type": {"application/json"}, "X-Github-Event": {"push"}, "X-Github-Delivery": {d.id}, "X-Hub-Signature-256": {d.signature},
	}
	begun := time.Now()
	response, err := h.client.Do(request)
	if err != nil {
		return "", 0, fmt.Errorf("deliver %s: %w", d.id, err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	took = time.Since(begun)
	var answer struct {
		RunID string `json:"run_id"`
	}
	if err == nil && response.StatusCode == http.StatusAccepted {
		err = json.Unmarshal(text, &answer)
	}
	if err != nil || answer.RunID == "" {
		return "", took, fmt.Errorf("deliver %s: answered with %s %.200s ", d.id, response.Status, text)
	}
	return answer.RunID, took, nil
}

// push is what GitHub posts for a push of twenty commits, some 8 KB.
func push(i int64) []byte {
	run := newRun(i)
	name := strings.TrimPrefix(run.Repository, "https://github.com/")
	owner, _, _ := strings.Cut(name, "/")
	commits := make([]map[string]any, 20)
	for n := range commits {
		commits[n] = map[string]any{
			"id": fmt.Sprintf("%040x", i*100+int64(n)), "message": run.Title + "\n\n" + strings.Repeat("and so on. ", 15),
			"author": map[string]string{"name": "Ada", "email": "ada@example.com", "username": run.Author}, "modified": []string{"widget.go", "widget_test.go"},
		}
	}
	body, err := json.Marshal(map[string]any{
		"ref": run.Ref, "before": strings.Repeat("0", 40), "after": run.HeadSHA, "deleted": false, "commits": commits, "head_commit": commits[19],
		"pusher": map[string]string{"name": run.Author}, "sender": map[string]any{"login": run.Author, "id": 1},
		"repository": map[string]any{
			"id": 1 + i%repositories, "full_name": name, "html_url": run.Repository, "clone_url": run.Repository + ".git",
			"default_branch": "main", "fork": false, "owner": map[string]any{"login": owner, "id": 2},
		},
	})
	if err != nil {
		panic(err) // it is made of strings and numbers
	}
	return body
}

func inMs(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
