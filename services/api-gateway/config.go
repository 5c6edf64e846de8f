package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"unicode"

	"github.com/lockstep-ci/lockstep/pkg/jobs/service"
)

const minSecret = 16 // characters: what cannot be guessed

// config is what the environment says.
type config struct {
	service.Common
	GitHub
	SignIn
	HTTPAddr      string   `envconfig:"HTTP_ADDR" default:"127.0.0.1:8080" desc:"address of API, pages, webhooks, /healthz, /readyz and, for readers, /metrics"`
	AdminToken    string   `envconfig:"ADMIN_TOKEN" required:"true" desc:"who sends it may do everything; at least 16 characters"`
	WebhookSecret []string `envconfig:"GITHUB_WEBHOOK_SECRET" required:"true" desc:"what GitHub signs deliveries with, at least 16 characters; several with commas while one is being replaced"`
	PublicURL     string   `envconfig:"PUBLIC_URL" desc:"where people find the pages; empty: http:// and HTTP_ADDR"`
	AnonymousRead bool     `envconfig:"ANONYMOUS_READ" default:"false" desc:"everybody may read runs and logs"`
	Limits
}

// Validate names the first setting that cannot be, and no secret's value. White space around secrets goes: files they are
// mounted from often end with a newline.
func (c *config) Validate() error {
	c.AdminToken = strings.TrimSpace(c.AdminToken)
	if err := checkSecret(c.AdminToken); err != nil {
		return fmt.Errorf("ADMIN_TOKEN: %w", err)
	}
	if len(c.WebhookSecret) == 0 {
		return errors.New("GITHUB_WEBHOOK_SECRET: it is empty")
	}
	for i, secret := range c.WebhookSecret {
		c.WebhookSecret[i] = strings.TrimSpace(secret)
		if err := checkSecret(c.WebhookSecret[i]); err != nil {
			return fmt.Errorf("GITHUB_WEBHOOK_SECRET: number %d: %w", i+1, err)
		}
	}
	if _, _, err := net.SplitHostPort(c.HTTPAddr); err != nil {
		return fmt.Errorf("HTTP_ADDR: %w", err)
	}
	if c.PublicURL == "" {
		return nil
	}
	c.PublicURL = strings.TrimSuffix(c.PublicURL, "/")
	u, err := url.Parse(c.PublicURL)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || c.PublicURL != u.Scheme+"://"+u.Host {
		return errors.New("PUBLIC_URL: give http:// or https:// and a host, without a path")
	}
	return nil
}

func checkSecret(secret string) error {
	switch {
	case len(secret) < minSecret:
		return fmt.Errorf("it has %d characters, at least %d are needed", len(secret), minSecret)
	case strings.ContainsFunc(secret, func(r rune) bool { return r <= ' ' || r > unicode.MaxASCII || r == 0x7f }):
		return errors.New("it holds white space or characters outside ASCII")
	}
	return nil
}

// publicURL is where people find the pages: what was set, else the address that is listened on.
func (c *config) publicURL(addr net.Addr) string {
	if c.PublicURL != "" {
		return c.PublicURL
	}
	host, port, _ := net.SplitHostPort(addr.String()) // a TCP address has both
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return "http://" + net.JoinHostPort(host, port)
}
