// Command chaos runs Lockstep's own binaries under load, does everything to them that one machine can stage, and lets an
// auditor look for broken promises. It ends with status 1 when there is one. See docs/chaos.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/lockstep-ci/lockstep/dev/postgres"
	"github.com/lockstep-ci/lockstep/test/chaos/internal/lab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	found, err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
	}
	if err != nil || found {
		os.Exit(1)
	}
}

// config is read from the environment, as make hands it on.
type config struct {
	binaries string
	duration time.Duration
	seed     uint64
}

func loadConfig() (c config, err error) {
	c = config{binaries: os.Getenv("LOCKSTEP_BIN"), duration: 2 * time.Minute, seed: rand.Uint64N(1_000_000)}
	if c.binaries == "" {
		return c, errors.New("LOCKSTEP_BIN is not set: it is the folder of the services' binaries; `make chaos` sets it")
	}
	if text := os.Getenv("CHAOS_SECONDS"); text != "" {
		seconds, err := strconv.Atoi(text)
		if err != nil || seconds < 1 {
			return c, fmt.Errorf("CHAOS_SECONDS: %q is not a number of seconds, 1 or more", text)
		}
		c.duration = time.Duration(seconds) * time.Second
	}
	if text := os.Getenv("SEED"); text != "" {
		if c.seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			return c, fmt.Errorf("SEED: %q is not a number, 0 or more", text)
		}
	}
	return c, nil
}

func run(ctx context.Context) (found bool, err error) {
	cfg, err := loadConfig()
	if err != nil {
		return false, fmt.Errorf("load config: %w", err)
	}
	if err := os.Unsetenv("DATABASE_URL"); err != nil { // not for us: we kill what we use
		return false, fmt.Errorf("hide DATABASE_URL: %w", err)
	}
	say := func(format string, args ...any) {
		fmt.Printf("%s %s\n", time.Now().UTC().Format("15:04:05.000"), fmt.Sprintf(format, args...))
	}
	source, err := postgres.Find(ctx, func(line string) { say("%s", line) })
	if err != nil {
		return false, err
	}
	say("SEED=%d, %s of faults, %s", cfg.seed, cfg.duration, source.How)
	system, err := lab.New(ctx, lab.Options{Binaries: cfg.binaries, Postgres: source.Bin, Seed: cfg.seed, Say: say})
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, system.Close()) }()
	if err := system.Start(ctx, lab.Replicas); err != nil {
		return false, err
	}
	if err := system.Torture(ctx, cfg.duration); err != nil {
		return false, errors.Join(err, keep(system, cfg.seed))
	}
	report, err := system.Audit(ctx)
	if err != nil {
		return false, errors.Join(err, keep(system, cfg.seed))
	}
	report.Print(os.Stdout)
	if len(report.Findings) > 0 {
		fmt.Printf("\nrepeat it with `make chaos SEED=%d CHAOS_SECONDS=%d`\n", cfg.seed, int(cfg.duration.Seconds()))
		return true, keep(system, cfg.seed)
	}
	return false, nil
}

// keep leaves the services' logs to whoever looks into it.
func keep(system *lab.System, seed uint64) error {
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("lockstep-chaos-%d-%d", seed, time.Now().Unix()))
	if err := system.Keep(dir); err != nil {
		return err
	}
	fmt.Printf("the services' logs are in %s\n", dir)
	return nil
}
