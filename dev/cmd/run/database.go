package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/lockstep-ci/lockstep/dev/postgres"
)

type database struct {
	url   string          // of its owner
	ended <-chan struct{} // closed when a server of our own has ended
	stop  func()
}

// startDatabase gets a PostgreSQL: DATABASE_URL's, or one whose data is in the state folder.
func startDatabase(ctx context.Context, state string) (database, error) {
	source, err := postgres.Find(ctx, func(line string) { tell("%s", line) })
	if err != nil {
		return database{}, err
	}
	if source.URL != "" {
		tell("database: DATABASE_URL")
		return database{url: source.URL, stop: func() {}}, nil
	}
	dir := filepath.Join(state, "postgres")
	server, err := postgres.Open(ctx, source, dir)
	if err != nil {
		return database{}, err
	}
	tell("database: %s, data in %s", source.How, dir)
	return database{url: server.URL, ended: server.Done, stop: server.Stop}, nil
}

// migrate brings the database up to the schema of bin/migrate and returns the URL that each service logs in with:
// under its own role and with a new password, or where roles cannot be made, the owner's.
func migrate(ctx context.Context, bin, owner string) (map[string]string, error) {
	command := func(verb string, env ...string) error {
		cmd := exec.CommandContext(ctx, filepath.Join(bin, "migrate"), verb)
		cmd.Env = append(append(os.Environ(), "DATABASE_URL="+owner), env...)
		// A migration that is killed leaves a schema that wants a person: on SIGTERM it stops after the one at hand.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		cmd.WaitDelay = time.Minute
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", verb, err, strings.ReplaceAll(strings.TrimSpace(string(out)), "\n", "; "))
		}
		return nil
	}
	if err := command("up"); err != nil {
		return nil, fmt.Errorf("migrate %w (`make clean` removes a database of our own, for a fresh start)", err)
	}
	urls := map[string]string{}
	var passwords []string
	for _, service := range serviceNames {
		password := rand.Text()
		login, err := loginURL(owner, service, password)
		if err != nil {
			tell("the services use the owner's login: %v", err)
			return ownersLogin(owner), nil
		}
		urls[service] = login
		passwords = append(passwords, "LOCKSTEP_"+strings.ToUpper(underscored(service))+"_PASSWORD="+password)
	}
	if err := command("roles", passwords...); err != nil {
		if os.Getenv("DATABASE_URL") == "" {
			return nil, fmt.Errorf("migrate %w", err)
		}
		tell("the services use the owner's login: migrate %v", err)
		return ownersLogin(owner), nil
	}
	return urls, nil
}

// loginURL is the owner's URL with the login of a service's role.
func loginURL(owner, service, password string) (string, error) {
	u, err := url.Parse(owner)
	if err != nil || u.Host == "" && u.RawQuery == "" { // also key=value pairs, which PostgreSQL would take
		return "", fmt.Errorf("DATABASE_URL is not of the form postgres://user:password@host/database")
	}
	u.User = url.UserPassword("lockstep_"+underscored(service), password)
	return u.String(), nil
}

func ownersLogin(owner string) map[string]string {
	urls := map[string]string{}
	for _, service := range serviceNames {
		urls[service] = owner
	}
	return urls
}

func underscored(service string) string { return strings.ReplaceAll(service, "-", "_") }
