package service_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/lockstep-ci/lockstep/pkg/jobs/jobstest"
	"github.com/lockstep-ci/lockstep/pkg/jobs/service"
)

type config struct {
	service.Common
	service.Worker
	Name string `envconfig:"NAME" default:"x"`
}

func (c config) Validate() error {
	if c.Name == "bad" {
		return errors.New("NAME: bad")
	}
	return nil
}

func TestAWrongSettingIsNamed(t *testing.T) {
	for name, test := range map[string]struct{ setting, value, want string }{
		"a missing URL":             {"DATABASE_URL", "", "DATABASE_URL"},
		"an unknown level":          {"LOG_LEVEL", "loud", "LOG_LEVEL"},
		"a word for a number":       {"CONCURRENCY", "many", "CONCURRENCY"},
		"no slots":                  {"CONCURRENCY", "0", "CONCURRENCY: 0 is not between 1 and 1000"},
		"a duration without unit":   {"LEASE", "20", "LEASE"},
		"a lease under three beats": {"LEASE", "14s", "LEASE: 14s is less than three times BEAT (5s)"},
		"a negative grace":          {"GRACE", "-1s", "GRACE: -1s is negative"},
		"no wait after a failure":   {"RETRY_AFTER", "0s", "RETRY_AFTER: 0s is not between 1ms and 5m"},
		"the service's own rule":    {"NAME", "bad", "NAME: bad"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("DATABASE_URL", "postgres://user:canary@127.0.0.1/db")
			t.Setenv(test.setting, test.value)
			err := service.Load(&config{})
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "canary") {
				t.Errorf("got %v, want %q in it", err, test.want)
			}
		})
	}
	t.Setenv("DATABASE_URL", "postgres://127.0.0.1/db")
	var c config
	if err := service.Load(&c); err != nil || c.Concurrency != 4 || c.LogLevel != "info" {
		t.Errorf("defaults: %+v, %v", c, err)
	}
}

func TestReadinessFollowsTheDatabase(t *testing.T) {
	db := jobstest.New(t)
	handler := service.OpsHandler(db.Open(t, "reaper"))
	ask := func(path string) *httptest.ResponseRecorder {
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
		return answer
	}
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		if answer := ask(path); answer.Code != http.StatusOK {
			t.Errorf("%s: %d", path, answer.Code)
		}
	}
	if body := ask("/metrics").Body.String(); !strings.Contains(body, "lockstep_listener_up") {
		t.Error("no metrics of the queue")
	}
	db.Exec(t, "UPDATE schema_migrations SET version = 1")
	answer := ask("/readyz")
	if answer.Code != http.StatusServiceUnavailable || answer.Header().Get("Retry-After") == "" {
		t.Errorf("with an old schema: %d, headers %v", answer.Code, answer.Header())
	}
	if answer := ask("/healthz"); answer.Code != http.StatusOK {
		t.Errorf("healthz: %d", answer.Code)
	}
}
