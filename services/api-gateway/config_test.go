package main

import (
	"net"
	"strings"
	"testing"

	"github.com/lockstep-ci/lockstep/pkg/jobs/service"
)

var good = map[string]string{
	"DATABASE_URL": "postgres://localhost/lockstep", "ADMIN_TOKEN": "sixteen-characters\n", "GITHUB_WEBHOOK_SECRET": "an-older-secret-of-it, a-newer-secret-of-it",
	"HTTP_ADDR": "127.0.0.1:0", "GITHUB_APP_ID": "", "GITHUB_APP_PRIVATE_KEY": "", "PUBLIC_URL": "https://ci.example.com/", "ANONYMOUS_READ": "true",
}

func load(t *testing.T, changes ...string) (config, error) {
	t.Helper()
	for name, value := range good {
		t.Setenv(name, value)
	}
	for i := 0; i < len(changes); i += 2 {
		t.Setenv(changes[i], changes[i+1])
	}
	var cfg config
	err := service.Load(&cfg)
	return cfg, err
}

func TestSettingsAreReadWithoutTheWhiteSpaceAroundSecrets(t *testing.T) {
	cfg, err := load(t)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.AdminToken != "sixteen-characters" || cfg.PublicURL != "https://ci.example.com" || !cfg.AnonymousRead ||
		strings.Join(cfg.WebhookSecret, "|") != "an-older-secret-of-it|a-newer-secret-of-it" {
		t.Errorf("%+v", cfg)
	}
}

func TestWrongSettingIsNamedAndNoSecretIsShown(t *testing.T) {
	tests := []struct{ name, value string }{
		{"DATABASE_URL", ""},
		{"ADMIN_TOKEN", ""},
		{"ADMIN_TOKEN", "fifteen-chars.."},
		{"ADMIN_TOKEN", "                    "},
		{"ADMIN_TOKEN", "sixteen characters"},
		{"ADMIN_TOKEN", "sechzehn-zeichen-ä"},
		{"GITHUB_WEBHOOK_SECRET", ""},
		{"GITHUB_WEBHOOK_SECRET", "fifteen-chars.."},
		{"GITHUB_WEBHOOK_SECRET", "a-newer-secret-of-it,"},
		{"GITHUB_WEBHOOK_SECRET", ",a-newer-secret-of-it"},
		{"HTTP_ADDR", "8080"},
		{"PUBLIC_URL", "ci.example.com"},
		{"PUBLIC_URL", "ftp://ci.example.com"},
		{"PUBLIC_URL", "https://"},
		{"PUBLIC_URL", "https://me:secret@ci.example.com"},
		{"PUBLIC_URL", "https://ci.example.com/lockstep"},
		{"PUBLIC_URL", "https://ci.example.com?x"},
		{"ANONYMOUS_READ", "perhaps"},
		{"RATE_LIMIT", "-1"},
		{"RATE_LIMIT_ANONYMOUS", "1000001"},
		{"RATE_LIMIT_FAILED", "0.5"},
		{"TRUSTED_PROXIES", "10.0.0.0/8,proxy.example.com"},
		{"LOG_LEVEL", "loud"},
		{"GITHUB_API_URL", "http://github.example.com/"},
		{"GITHUB_API_URL", "https://me:secret@github.example.com/"},
		{"GITHUB_API_URL", "github.example.com"},
		{"GITHUB_APP_ID", "-1"},
		{"GITHUB_APP_ID", "my-app"},
		{"GITHUB_APP_PRIVATE_KEY", "a-private-key"}, // of no App
		{"GITHUB_APP_PRIVATE_KEY_FILE", "/run/secrets/key"},
		{"GITHUB_TOKEN", "two words"},
		{"GITHUB_HOOKS", "owner/name"},
		{"GITHUB_HOOKS", "owner/name/5,owner/../6"},
		{"GITHUB_HOOKS", "owner/name/0"},
		{"GITHUB_OAUTH_CLIENT_ID", "Iv1.an-id-alone"},
		{"GITHUB_OAUTH_URL", "http://github.example.com"},
		{"GITHUB_OAUTH_URL", "https://github.example.com/login"},
		{"REDELIVER_EVERY", "5"},
		{"REDELIVER_EVERY", "1ms"},
	}
	for _, test := range tests {
		t.Run(test.name+"="+test.value, func(t *testing.T) {
			_, err := load(t, test.name, test.value)
			if err == nil || !strings.Contains(err.Error(), test.name) {
				t.Fatalf("error %v does not name %s", err, test.name)
			}
			if secret := strings.TrimSpace(test.value); len(secret) > 8 && (test.name == "ADMIN_TOKEN" || test.name == "GITHUB_WEBHOOK_SECRET") && strings.Contains(err.Error(), secret) {
				t.Errorf("error %v shows the secret", err)
			}
		})
	}
}

func TestSignInWithGitHubIsSetAsAWholeOrNotAtAll(t *testing.T) {
	const id, secret, users = "GITHUB_OAUTH_CLIENT_ID", "GITHUB_OAUTH_CLIENT_SECRET", "GITHUB_OAUTH_USERS"
	all := map[string]string{id: "Iv1.an-id", secret: "a-secret-of-the-app\n", users: "583231:run, 7:admin"}
	for _, test := range []struct{ name, value string }{
		{id, ""},
		{id, "an id"},
		{secret, ""},
		{secret, "\n"},
		{secret, "canary canary"},
		{users, ""},
		{users, "octocat:run"},
		{users, "583231"},
		{users, "583231:write"},
		{users, "0583231:run"},
		{users, "-1:run"},
		{users, "583231:run,583231:read"},
		{users, "583231:run,"},
	} {
		t.Run(test.name+"="+test.value, func(t *testing.T) {
			for name, value := range all {
				t.Setenv(name, value)
			}
			if cfg, err := load(t); err != nil || cfg.app().ClientSecret != "a-secret-of-the-app" {
				t.Fatalf("all of them: %+v, %v", cfg.app(), err)
			}
			_, err := load(t, test.name, test.value)
			if err == nil || !strings.HasPrefix(err.Error(), test.name+":") || strings.Contains(err.Error(), "canary") {
				t.Errorf("error %v does not begin with %s, or shows a secret", err, test.name)
			}
		})
	}
}

func TestPagesAreWhereTheListenerIs(t *testing.T) {
	for addr, want := range map[string]string{
		"127.0.0.1:8080": "http://127.0.0.1:8080", "0.0.0.0:8080": "http://localhost:8080", "[::]:80": "http://localhost:80", "[::1]:8080": "http://[::1]:8080",
	} {
		tcp, err := net.ResolveTCPAddr("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if got := (&config{}).publicURL(tcp); got != want {
			t.Errorf("%s: %s, want %s", addr, got, want)
		}
	}
}
