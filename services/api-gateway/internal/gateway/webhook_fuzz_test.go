package gateway_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
)

// Whatever is signed and posted is answered, nothing of it is our fault, and what is refused leaves nothing.
func FuzzWebhook(f *testing.F) {
	push, pull := payload(f, "push"), payload(f, "pull_request")
	fork := strings.Replace(pull, `"repo": {"id": 4711`, `"repo": {"id": 4712`, 1)
	check := `{"action":"rerequested","check_run":{"head_sha":"` + forkedSHA + `"},"sender":{"id":8},"repository":{"id":4711,"full_name":"owner/name","html_url":"` + home + `"}}`
	f.Add("push", []byte(push), false, "repository", "4711")
	f.Add("push", []byte(payload(f, "tag")), false, "", "")
	f.Add("pull_request", []byte(pull), false, "", "")
	f.Add("pull_request", []byte(fork), false, "organization", "1")
	f.Add("pull_request", []byte(strings.Replace(fork, "opened", "closed", 1)), false, "", "")
	f.Add("check_run", []byte(check), false, "integration", "1")
	f.Add("workflow_dispatch", []byte(push), false, "", "")
	f.Add("repository", []byte(`{"action":"renamed","changes":{"repository":{"name":{"from":"before"}}},`+check[1:]), false, "business", "")
	f.Add("push", []byte(url.Values{"payload": {push}}.Encode()), true, "", "")
	f.Add("other", []byte(`{"a":[{"A":"\ud800","a":1e999}]}`), false, "", "")

	db := jobstest.New(f)
	address, _ := serve(f, db.Open(f, "api-gateway"))
	rows := func(t *testing.T) int64 {
		return jobstest.Value[int64](t, db, "SELECT (SELECT count(*) FROM ci_runs) + (SELECT count(*) FROM ci_jobs) + (SELECT count(*) FROM ci_approvals) + (SELECT count(*) FROM ci_repositories)")
	}
	f.Fuzz(func(t *testing.T, event string, body []byte, form bool, kind, id string) {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, address+"/webhooks/github", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		delivery := sha256.Sum256(append([]byte(event+"\x00"), body...))
		visible := func(s string) string { // what can stand in a header
			return strings.Map(func(r rune) rune {
				if r < ' ' || r > '~' {
					return -1
				}
				return r
			}, s)
		}
		for name, value := range map[string]string{
			"Content-Type": "application/json", "X-Github-Event": visible(event), "X-Github-Delivery": hex.EncodeToString(delivery[:]), "X-Hub-Signature-256": sign(secret, string(body)),
			"X-Github-Hook-Installation-Target-Type": visible(kind), "X-Github-Hook-Installation-Target-Id": visible(id),
		} {
			request.Header.Set(name, value)
		}
		if form {
			request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		before := rows(t)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatalf("no answer: %v", err)
		}
		defer func() { _ = response.Body.Close() }()
		text, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode >= 500 || !json.Valid(text) {
			t.Errorf("%d (%v) %s", response.StatusCode, err, text)
		}
		if after := rows(t); response.StatusCode != http.StatusAccepted && after != before {
			t.Errorf("%d, and it left %d rows: %s", response.StatusCode, after-before, text)
		}
	})
}
