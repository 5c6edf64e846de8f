// Command run is `make run`: it starts all of Lockstep on this machine, runs a repository through it and serves
// until it is told to stop. See the usage text.
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

const usage = `usage: run [clean]

Starts a PostgreSQL, the five services from the folder of this binary, and a run of the example repository; shows the
run and serves until Ctrl-C. The data stays for the next start; clean removes it.

  REPO          the repository to run instead: a path, a URL, or owner/name on GitHub
  REF           its branch, tag or commit; default: its default branch
  HTTP_ADDR     where to serve, default ` + defaultAddr + `
  DATABASE_URL  a PostgreSQL to use instead of one of our own

Other settings of the services (the README lists them) are passed on.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C kills us, and the guards see to the rest

	var err error
	switch args := os.Args[1:]; {
	case len(args) == 0:
		err = launch(ctx)
	case len(args) == 1 && args[0] == "clean":
		err = clean(ctx)
	default:
		fmt.Print(usage)
		os.Exit(2)
	}
	if ctx.Err() != nil {
		err = nil // what was cut short because we were told to stop is no fault
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "run:", err)
		os.Exit(1)
	}
}

// launch starts everything in order, shows one run, and waits; what it started ends in the opposite order.
func launch(ctx context.Context) error {
	checkout, err := checkoutOf()
	if err != nil {
		return err
	}
	bin := filepath.Join(checkout, "bin")
	for _, name := range append([]string{"migrate"}, serviceNames...) {
		if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
			return fmt.Errorf("%s is not built (make build): %w", name, err)
		}
	}
	state, err := openState(checkout)
	if err != nil {
		return err
	}
	defer state.close()
	addr, err := listenAddr(os.Getenv("HTTP_ADDR"))
	if err != nil {
		return err
	}
	repository, err := chooseRepository(ctx, os.Getenv("REPO"), os.Getenv("REF"), checkout, state.dir)
	if err != nil {
		return err
	}

	database, err := startDatabase(ctx, state.dir)
	if err != nil {
		return err
	}
	defer database.stop()
	hide() // from here on we hold passwords that jobs of the same user must not read
	urls, err := migrate(ctx, bin, database.url)
	if err != nil {
		return err
	}
	token := cmp.Or(os.Getenv("ADMIN_TOKEN"), rand.Text())
	services, err := startServices(ctx, bin, filepath.Join(state.dir, "logs"), settings(urls, addr, token))
	if err != nil {
		return err
	}
	defer services.stop()

	api := newClient(addr, token)
	if err := api.waitReady(ctx); err != nil {
		return err
	}
	if err := show(ctx, api, repository, state.dir); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		tell("stopping")
		return nil
	case <-database.ended:
		return fmt.Errorf("PostgreSQL ended by itself; its log is %s", filepath.Join(state.dir, "postgres", "server.log"))
	}
}

// checkoutOf is the folder above bin/, where this binary is.
func checkoutOf() (string, error) {
	program, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this binary: %w", err)
	}
	program, err = filepath.EvalSymlinks(program)
	if err != nil {
		return "", fmt.Errorf("find this binary: %w", err)
	}
	return filepath.Dir(filepath.Dir(program)), nil
}

// tell is for what concerns the launcher. It goes to standard error; standard output is the run's.
func tell(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}
