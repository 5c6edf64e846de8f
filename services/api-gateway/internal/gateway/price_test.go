package gateway_test

import (
	"io"
	"net/http"
	"testing"

	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/auth"
)

// BenchmarkRead is a GET by the admin token, which costs no look at the database, and by an API token, which costs one. ADR 12
// has figures.
func BenchmarkRead(b *testing.B) {
	db := jobstest.New(b)
	url, _ := serve(b, db.Open(b, "api-gateway"))
	const secret = auth.Prefix + "of-the-benchmark"
	db.Exec(b, "INSERT INTO ci_tokens (name, hash, hint, scope, created_by) VALUES ('benchmark', $1, 'lst_', 'read', 'admin')", auth.Hash(secret))
	for name, bearer := range map[string]string{"admin token": token, "API token": secret} {
		b.Run(name, func(b *testing.B) {
			request, err := http.NewRequestWithContext(b.Context(), http.MethodGet, url+"/api/v1/workers", nil)
			if err != nil {
				b.Fatal(err)
			}
			request.Header.Set("Authorization", "Bearer "+bearer)
			for b.Loop() {
				answer, err := http.DefaultClient.Do(request)
				if err != nil {
					b.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, answer.Body)
				if _ = answer.Body.Close(); answer.StatusCode != http.StatusOK {
					b.Fatal(answer.Status)
				}
			}
		})
	}
}
