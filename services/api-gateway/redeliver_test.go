package main_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
)

// hub is a GitHub that delivers once, lists what it has delivered, and delivers again when it is asked to.
type hub struct {
	t     *testing.T
	url   string
	ready chan struct{} // closed when target is known
	begin func(target string)

	mu       sync.Mutex
	target   string // the gateway
	attempts []attempt
	asked    map[string]int // by delivery
	limits   int            // answers to come that say to wait
	calls    int
	problems []string
	posting  sync.WaitGroup
}

type attempt struct {
	ID          int64     `json:"id"`
	GUID        string    `json:"guid"`
	DeliveredAt time.Time `json:"delivered_at"`
	StatusCode  int       `json:"status_code"`
	Event       string    `json:"event"`
	Redelivery  bool      `json:"redelivery"`
}

const hookPath = "/repos/owner/name/hooks/5/deliveries"

func newHub(t *testing.T, path string, authorized func(string) bool) *hub {
	h := &hub{t: t, ready: make(chan struct{}), asked: map[string]int{}}
	h.begin = func(target string) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.target = target
		close(h.ready)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.calls++
		if !authorized(r.Header.Get("Authorization")) {
			h.problems = append(h.problems, r.Method+" "+r.URL.Path+" without the right credentials")
			http.Error(w, "{}", http.StatusUnauthorized)
			return
		}
		if h.limits > 0 {
			h.limits--
			w.Header().Set("Retry-After", "1")
			http.Error(w, `{"message":"You have exceeded a secondary rate limit."}`, http.StatusTooManyRequests)
			return
		}
		rest, ours := strings.CutPrefix(r.URL.Path, path)
		switch {
		case ours && r.Method == "GET" && rest == "":
			h.list(w, r)
		case ours && r.Method == "POST" && strings.HasSuffix(rest, "/attempts"):
			h.again(w, strings.TrimSuffix(strings.TrimPrefix(rest, "/"), "/attempts"))
		default:
			h.problems = append(h.problems, r.Method+" "+r.URL.Path)
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(func() {
		server.Close()
		h.posting.Wait()
		for _, p := range h.problems {
			t.Error(p)
		}
	})
	h.url = server.URL
	return h
}

// list answers two at a time, the newest first.
func (h *hub) list(w http.ResponseWriter, r *http.Request) {
	behind, _ := strconv.Atoi(r.URL.Query().Get("cursor"))
	list := slices.Clone(h.attempts)
	slices.Reverse(list)
	list = list[min(behind, len(list)):]
	if len(list) > 2 {
		list = list[:2]
		w.Header().Set("Link", fmt.Sprintf(`<%s%s?cursor=%d>; rel="next"`, h.url, r.URL.Path, behind+2))
	}
	_ = json.NewEncoder(w).Encode(list)
}

func (h *hub) again(w http.ResponseWriter, id string) {
	for _, a := range h.attempts {
		if strconv.FormatInt(a.ID, 10) == id {
			h.asked[a.GUID]++
			h.posting.Go(func() { h.deliver(a.GUID) })
			w.WriteHeader(http.StatusAccepted)
			_, _ = w.Write([]byte("{}"))
			return
		}
	}
	http.NotFound(w, nil)
}

// note adds an attempt that ended with a code.
func (h *hub) note(guid string, code int, ago time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.attempts = append(h.attempts, attempt{int64(len(h.attempts) + 1000), guid, time.Now().Add(-ago), code, "push", h.asked[guid] > 0})
}

// deliver posts a push to the gateway.
func (h *hub) deliver(guid string) {
	select {
	case <-h.ready:
	case <-time.After(soon):
		h.t.Error("no gateway to deliver to")
		return
	}
	body := []byte(`{"ref":"refs/heads/main","after":"` + strings.Repeat("2", 40) + `","sender":{"id":7},
		"repository":{"id":4711,"full_name":"owner/name","html_url":"https://github.com/owner/name"}}`)
	mac := hmac.New(sha256.New, []byte("a-secret-of-the-tests"))
	mac.Write(body)
	request, _ := http.NewRequestWithContext(context.Background(), http.MethodPost, h.target+"/webhooks/github", bytes.NewReader(body))
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-GitHub-Event", "push")
	request.Header.Set("X-GitHub-Delivery", guid)
	request.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		h.note(guid, http.StatusBadGateway, 0)
		return
	}
	_ = response.Body.Close()
	h.note(guid, response.StatusCode, 0)
}

// until waits for a condition of the database.
func until(t *testing.T, db *jobstest.Database, sql string) {
	t.Helper()
	for deadline := time.Now().Add(soon); !jobstest.Value[bool](t, db, sql); {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", soon, sql)
		}
		jobstest.Value[string](t, db, "SELECT pg_sleep(0.02)::text")
	}
}

func TestDeliveriesLostWhileTheGatewayWasAwayAreAskedForAgainOnce(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	pemKey := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	h := newHub(t, "/app/hook/deliveries", func(authorization string) bool {
		parts := strings.Split(strings.TrimPrefix(authorization, "Bearer "), ".")
		if len(parts) != 3 {
			return false
		}
		claims, err := base64.RawURLEncoding.DecodeString(parts[1])
		return err == nil && strings.Contains(string(claims), `"iss":"123"`)
	})
	h.limits = 1 // the first answer is a limit: it is obeyed
	h.note("too-old", http.StatusBadGateway, 100*time.Hour)
	lost := []string{"lost-1", "lost-2", "lost-3", "lost-4", "lost-5"}
	for i, guid := range lost {
		h.note(guid, http.StatusBadGateway, time.Duration(60-i)*time.Minute)
		h.note("arrived-"+guid, http.StatusAccepted, time.Duration(60-i)*time.Minute)
	}
	h.note("nonsense", http.StatusUnprocessableEntity, 40*time.Minute)
	h.note("lost-1", http.StatusGatewayTimeout, 30*time.Minute) // somebody tried by hand
	h.note("mended", http.StatusBadGateway, 30*time.Minute)
	h.note("mended", http.StatusAccepted, 20*time.Minute)

	db := jobstest.New(t)
	db.Exec(t, "INSERT INTO ci_runs (repository, event, principal, idempotency_key) VALUES ('https://github.com/owner/name', 'push', 'github', 'lost-5')") // GitHub gave up on our answer
	settings := []string{"GITHUB_API_URL=" + h.url, "GITHUB_APP_ID=123", "GITHUB_APP_PRIVATE_KEY=" + string(pemKey), "REDELIVER_EVERY=2s"}
	first := startOn(t, db, settings...)
	startOn(t, db, settings...)
	startOn(t, db, settings...)
	h.begin(first.url())
	until(t, db, "SELECT count(*) = 5 FROM ci_runs")
	until(t, db, "SELECT count(*) = 0 FROM ci_redeliveries") // a later look has seen that all arrived
	first.stop()
	startOn(t, db, settings...)
	until(t, db, "SELECT next_look > clock_timestamp() + interval '1.9 seconds' FROM ci_webhook_sources")

	h.mu.Lock()
	defer h.mu.Unlock()
	for _, guid := range lost[:4] {
		if h.asked[guid] != 1 {
			t.Errorf("%s was asked for %d times", guid, h.asked[guid])
		}
	}
	if len(h.asked) != 4 {
		t.Errorf("asked for %v", h.asked)
	}
}

func TestDeliveriesOfAHookAreAskedForAgainSomeTimes(t *testing.T) {
	t.Parallel()
	h := newHub(t, hookPath, func(authorization string) bool { return authorization == "Bearer a-token-of-github" })
	h.note("lost", http.StatusBadGateway, time.Hour)
	g := start(t, "GITHUB_API_URL="+h.url+"/", "GITHUB_TOKEN=a-token-of-github", "GITHUB_HOOKS=owner/name/5", "REDELIVER_EVERY=1s")
	h.begin("http://127.0.0.1:1") // nobody there
	until(t, g.db, "SELECT count(*) = 1 FROM ci_redeliveries WHERE tries = 2")
	if wait := jobstest.Value[float64](t, g.db, "SELECT extract(epoch FROM next_try - clock_timestamp())::float8 FROM ci_redeliveries"); wait < 10 || wait > 16 {
		t.Errorf("the third try is in %.1f s, not in 16", wait)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.asked["lost"] != 2 {
		t.Errorf("asked for %v", h.asked)
	}
}
