package main

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/auth"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/signin"
)

// SignIn is the OAuth App of GitHub that people may sign in to the pages with; without it they need a token.
type SignIn struct {
	OAuthID     string   `envconfig:"GITHUB_OAUTH_CLIENT_ID" desc:"the OAuth App that people sign in with; its callback is PUBLIC_URL/login/github/callback"`
	OAuthSecret string   `envconfig:"GITHUB_OAUTH_CLIENT_SECRET" desc:"secret of that App"`
	OAuthURL    string   `envconfig:"GITHUB_OAUTH_URL" default:"https://github.com" desc:"where they say so: GitHub, or a GitHub Enterprise Server"`
	OAuthUsers  []string `envconfig:"GITHUB_OAUTH_USERS" desc:"who may sign in: GitHub's number of the user and read, run or admin, as in 583231:run, several with commas"`
}

// Validate names the first setting that cannot be, and no secret's value.
func (c SignIn) Validate() error {
	if c.OAuthID+c.OAuthSecret != "" || len(c.OAuthUsers) > 0 {
		for _, one := range []struct {
			name string
			none bool
		}{
			{"GITHUB_OAUTH_CLIENT_ID", c.OAuthID == ""}, {"GITHUB_OAUTH_CLIENT_SECRET", strings.TrimSpace(c.OAuthSecret) == ""}, {"GITHUB_OAUTH_USERS", len(c.OAuthUsers) == 0},
		} {
			if one.none {
				return fmt.Errorf("%s: is not set, though others of GITHUB_OAUTH_CLIENT_ID, GITHUB_OAUTH_CLIENT_SECRET and GITHUB_OAUTH_USERS are: give all or none", one.name)
			}
		}
	}
	if strings.ContainsFunc(c.OAuthID, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("GITHUB_OAUTH_CLIENT_ID: it holds a character that no id has, like a space")
	}
	if strings.ContainsFunc(strings.TrimSpace(c.OAuthSecret), func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("GITHUB_OAUTH_CLIENT_SECRET: it holds a character that no secret has, like a space")
	}
	if _, err := c.users(); err != nil {
		return fmt.Errorf("GITHUB_OAUTH_USERS: %w", err)
	}
	u, err := url.Parse(c.OAuthURL)
	if err != nil || !safe(u) || u.Path != "" && u.Path != "/" {
		return errors.New("GITHUB_OAUTH_URL: it is not of the form https://<host>")
	}
	return nil
}

// users are who may sign in, by GitHub's number, and what each may.
func (c SignIn) users() (map[int64]auth.Right, error) {
	found := map[int64]auth.Right{}
	for i, user := range c.OAuthUsers {
		number, scope, _ := strings.Cut(strings.TrimSpace(user), ":")
		id, err := strconv.ParseInt(number, 10, 64)
		right, known := auth.Scopes[scope]
		switch {
		case err != nil || id <= 0 || strconv.FormatInt(id, 10) != number || !known:
			return nil, fmt.Errorf("entry %d is not of the form 583231:read, 583231:run or 583231:admin; https://api.github.com/users/<name> has a user's number as id", i+1)
		case found[id] != auth.Nobody:
			return nil, fmt.Errorf("user %d is named twice", id)
		}
		found[id] = right
	}
	return found, nil
}

func (c SignIn) app() signin.GitHub {
	return signin.GitHub{ClientID: c.OAuthID, ClientSecret: strings.TrimSpace(c.OAuthSecret), URL: c.OAuthURL}
}
