package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/redeliver"
)

// GitHub has what is needed to ask GitHub for deliveries that failed; without it nobody asks.
type GitHub struct {
	APIURL     string        `envconfig:"GITHUB_API_URL" default:"https://api.github.com/" desc:"GitHub's API; GitHub Enterprise Server: https://<host>/api/v3/"`
	AppID      number        `envconfig:"GITHUB_APP_ID" desc:"number of the GitHub App whose deliveries come here; its failed ones are asked for again"`
	AppKey     string        `envconfig:"GITHUB_APP_PRIVATE_KEY" desc:"the App's private key, PEM"`
	AppKeyFile string        `envconfig:"GITHUB_APP_PRIVATE_KEY_FILE" desc:"file with the App's private key, instead of GITHUB_APP_PRIVATE_KEY"`
	Token      string        `envconfig:"GITHUB_TOKEN" desc:"may read and redeliver the deliveries of GITHUB_HOOKS"`
	Hooks      []string      `envconfig:"GITHUB_HOOKS" desc:"webhooks of repositories whose failed deliveries are asked for again: owner/name/id, several with commas"`
	Redeliver  time.Duration `envconfig:"REDELIVER_EVERY" default:"5m" desc:"time between two looks for failed deliveries"`
}

// number is a setting that may be empty, as that of an optional key of a Secret is.
type number int64

// Decode is what envconfig calls.
func (n *number) Decode(text string) error {
	if text == "" {
		return nil
	}
	read, err := strconv.ParseInt(text, 10, 64)
	*n = number(read)
	return err
}

// Validate names the first setting that cannot be, and no secret's value.
func (c GitHub) Validate() error {
	for _, hook := range c.Hooks {
		if _, _, _, err := redeliver.SplitHook(strings.TrimSpace(hook)); err != nil {
			return fmt.Errorf("GITHUB_HOOKS: %w", err)
		}
	}
	switch {
	case c.AppID < 0:
		return fmt.Errorf("GITHUB_APP_ID: %d is not the number of an App", c.AppID)
	case c.AppKey != "" && c.AppKeyFile != "":
		return errors.New("GITHUB_APP_PRIVATE_KEY_FILE: GITHUB_APP_PRIVATE_KEY is set too, give one of them")
	case c.AppID == 0 && c.AppKey+c.AppKeyFile != "":
		return errors.New("GITHUB_APP_ID: is not set, though GITHUB_APP_PRIVATE_KEY or GITHUB_APP_PRIVATE_KEY_FILE is")
	case c.AppID != 0 && c.AppKey+c.AppKeyFile == "":
		return errors.New("GITHUB_APP_PRIVATE_KEY: is not set, though GITHUB_APP_ID is; give it, or GITHUB_APP_PRIVATE_KEY_FILE")
	case len(c.Hooks) > 0 && c.Token == "":
		return errors.New("GITHUB_TOKEN: is not set, though GITHUB_HOOKS is")
	case strings.ContainsFunc(c.Token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return errors.New("GITHUB_TOKEN: it holds a character that no token has, like a space or an end of line")
	case c.Redeliver < time.Second || c.Redeliver > 24*time.Hour:
		return fmt.Errorf("REDELIVER_EVERY: %s is not between 1s and 24h", c.Redeliver)
	}
	if u, err := url.Parse(c.APIURL); err != nil || !safe(u) {
		return errors.New("GITHUB_API_URL: it is not of the form https://api.github.com/ or https://<host>/api/v3/")
	}
	return nil
}

// safe reports whether credentials may go to a URL: by http only to this machine, for they must not be read on the way.
func safe(u *url.URL) bool {
	return u.Host != "" && u.User == nil && u.RawQuery == "" && u.Fragment == "" &&
		(u.Scheme == "https" || u.Scheme == "http" && (u.Hostname() == "localhost" || net.ParseIP(u.Hostname()).IsLoopback()))
}

// options reads the key where it is in a file.
func (c GitHub) options() (redeliver.Options, error) {
	key := []byte(c.AppKey)
	if c.AppKeyFile != "" {
		var err error
		if key, err = os.ReadFile(c.AppKeyFile); err != nil {
			return redeliver.Options{}, fmt.Errorf("GITHUB_APP_PRIVATE_KEY_FILE: %w", err)
		}
	}
	hooks := make([]string, len(c.Hooks))
	for i, hook := range c.Hooks {
		hooks[i] = strings.TrimSpace(hook)
	}
	return redeliver.Options{APIURL: c.APIURL, AppID: int64(c.AppID), Key: key, Token: c.Token, Hooks: hooks, Every: c.Redeliver}, nil
}
