// Command migrate brings a database up to the schema of this build. It is run once before a rollout; several at
// once are safe.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/lockstep-ci/lockstep/migrations"
)

const usage = `usage: migrate [up | down N | version | roles]

  up       apply what the database lacks (the default)
  down N   take back the newest N migrations and their data; for development only
  version  print the schema's version
  roles    make the services' login roles and their grants; run it after up

DATABASE_URL names the database, as its owner (roles: as one who may create roles).
LOCKSTEP_<SERVICE>_PASSWORD, e.g. LOCKSTEP_API_GATEWAY_PASSWORD, is the password that roles gives to a service's
role; without one the role keeps the password that it has.
`

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "migrate:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	if len(args) == 0 {
		args = []string{"up"}
	}
	if args[0] == "help" || args[0] == "-h" || args[0] == "--help" {
		fmt.Print(usage)
		return nil
	}
	url := os.Getenv("DATABASE_URL")
	if url == "" {
		return errors.New("DATABASE_URL is not set")
	}
	switch verb := args[0]; {
	case verb == "up" && len(args) == 1:
		if err := migrations.Up(ctx, url); err != nil {
			return err
		}
		return printVersion(ctx, url)
	case verb == "down" && len(args) == 2:
		n, err := strconv.Atoi(args[1])
		if err != nil {
			return fmt.Errorf("down: %q is not a number", args[1])
		}
		if err := migrations.Down(ctx, url, n); err != nil {
			return err
		}
		return printVersion(ctx, url)
	case verb == "version" && len(args) == 1:
		return printVersion(ctx, url)
	case verb == "roles" && len(args) == 1:
		return migrations.Roles(ctx, url, passwords())
	default:
		return fmt.Errorf("unknown arguments %q\n\n%s", strings.Join(args, " "), usage)
	}
}

// passwords reads the roles' passwords from the environment.
func passwords() map[string]string {
	found := map[string]string{}
	for _, service := range migrations.Services {
		name := "LOCKSTEP_" + strings.ToUpper(strings.ReplaceAll(service, "-", "_")) + "_PASSWORD"
		if password := os.Getenv(name); password != "" {
			found[service] = password
		}
	}
	return found
}

func printVersion(ctx context.Context, url string) error {
	version, dirty, err := migrations.Version(ctx, url)
	if err != nil {
		return err
	}
	if dirty {
		return fmt.Errorf("schema version %d stopped half-way; mend it by hand, then set schema_migrations.dirty to false", version)
	}
	fmt.Println("schema version", version)
	return nil
}
