// Package service is the frame that all services share: settings, logger, signals, and the address for an operator.
package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"reflect"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/kelseyhightower/envconfig"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Common is part of every service's settings.
type Common struct {
	DatabaseURL       string `envconfig:"DATABASE_URL" required:"true" desc:"PostgreSQL, under this service's role"`
	ListenDatabaseURL string `envconfig:"LISTEN_DATABASE_URL" desc:"PostgreSQL without a transaction-mode pooler, for LISTEN; empty: DATABASE_URL"`
	LogLevel          string `envconfig:"LOG_LEVEL" default:"info" desc:"debug, info, warn or error"`
	OpsAddr           string `envconfig:"OPS_ADDR" desc:"address of /healthz, /readyz and /metrics; empty: off"`
}

// Validate names the first setting that cannot be.
func (c Common) Validate() error {
	if c.DatabaseURL == "" { // set, but to nothing
		return errors.New("DATABASE_URL is empty")
	}
	if _, err := zapcore.ParseLevel(c.LogLevel); err != nil {
		return fmt.Errorf("LOG_LEVEL: %w", err)
	}
	return nil
}

// Worker is part of the settings of a service that claims.
type Worker struct {
	Concurrency int           `envconfig:"CONCURRENCY" default:"4" desc:"jobs at once"`
	Lease       time.Duration `envconfig:"LEASE" default:"20s" desc:"how long claims hold without a beat; at least three beats"`
	Beat        time.Duration `envconfig:"BEAT" default:"5s" desc:"time between two beats"`
	Poll        time.Duration `envconfig:"POLL" default:"1s" desc:"longest wait between two looks at the table"`
	Grace       time.Duration `envconfig:"GRACE" default:"30s" desc:"how long jobs may go on after SIGTERM before they are given back"`
	RetryAfter  time.Duration `envconfig:"RETRY_AFTER" default:"5s" desc:"wait after a job's first infrastructure failure; doubled for each further one up to 5m, less up to a fifth"`
}

// Validate names the first setting that cannot be.
func (w Worker) Validate() error {
	switch {
	case w.Concurrency < 1 || w.Concurrency > 1000:
		return fmt.Errorf("CONCURRENCY: %d is not between 1 and 1000", w.Concurrency)
	case w.Beat < 10*time.Millisecond:
		return fmt.Errorf("BEAT: %s is less than 10ms", w.Beat)
	case w.Lease < 3*w.Beat:
		return fmt.Errorf("LEASE: %s is less than three times BEAT (%s), so that one lost beat could lose the jobs", w.Lease, w.Beat)
	case w.Poll < 10*time.Millisecond:
		return fmt.Errorf("POLL: %s is less than 10ms", w.Poll)
	case w.Grace < 0:
		return fmt.Errorf("GRACE: %s is negative", w.Grace)
	case w.RetryAfter < time.Millisecond || w.RetryAfter > 5*time.Minute:
		return fmt.Errorf("RETRY_AFTER: %s is not between 1ms and 5m", w.RetryAfter)
	}
	return nil
}

// Main runs a service until SIGINT or SIGTERM. An error is printed as one line `<name>: <error>`, and the process exits
// with 1; one that says no more than that ctx has ended is none. `--help` prints the settings of cfg. The process's environment is hidden from other processes of the same user,
// because it holds credentials and user code may run beside it.
func Main(name string, cfg any, run func(context.Context) error) {
	hide()
	if len(os.Args) > 1 {
		if os.Args[1] == "--help" || os.Args[1] == "-h" || os.Args[1] == "help" {
			_ = usage(name, cfg)
			return
		}
		fmt.Fprintf(os.Stderr, "%s: unknown argument %q; settings come from the environment, --help lists them\n", name, os.Args[1])
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stopped := ctx.Err() != nil
	stop()
	if err != nil && !(stopped && errors.Is(err, context.Canceled)) { // told to stop before it had begun
		fmt.Fprintf(os.Stderr, "%s: %s\n", name, strings.ReplaceAll(err.Error(), "\n", "; "))
		os.Exit(1)
	}
}

// Load reads the settings into cfg, a pointer to a struct with envconfig tags, and calls Validate on what it embeds and on
// itself. An error names the setting.
func Load(cfg any) error {
	if err := envconfig.Process("", cfg); err != nil {
		var parse *envconfig.ParseError
		if errors.As(err, &parse) { // without parse's own text, which quotes the value once more
			return fmt.Errorf("%s: %w", parse.KeyName, parse.Err)
		}
		if name, ok := strings.CutPrefix(err.Error(), "required key "); ok {
			return errors.New(strings.Replace(name, " missing value", " is not set", 1))
		}
		return err
	}
	value := reflect.ValueOf(cfg).Elem()
	for i := range value.NumField() {
		if part, ok := value.Field(i).Interface().(validator); ok && value.Type().Field(i).Anonymous {
			if err := part.Validate(); err != nil {
				return err
			}
		}
	}
	if whole, ok := cfg.(validator); ok { // its own; or, promoted, that of the only part that has one
		return whole.Validate()
	}
	return nil
}

type validator interface{ Validate() error }

// usage prints a table of the settings.
func usage(name string, cfg any) error {
	fmt.Printf("%s is configured by environment variables:\n\n", name)
	table := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)
	err := envconfig.Usagef("", cfg, table, "SETTING\tDEFAULT\tREQUIRED\tMEANING\n{{range .}}{{usage_key .}}\t{{usage_default .}}\t{{usage_required .}}\t{{usage_description .}}\n{{end}}")
	return errors.Join(err, table.Flush())
}

// NewLogger logs to standard error: JSON for machines, columns on a terminal.
func NewLogger(level string) (*zap.Logger, error) {
	parsed, err := zapcore.ParseLevel(level)
	if err != nil {
		return nil, fmt.Errorf("LOG_LEVEL: %w", err)
	}
	config := zap.NewProductionConfig()
	if info, err := os.Stderr.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
		config = zap.NewDevelopmentConfig()
		config.Development = false
		config.DisableStacktrace = true
	}
	config.Level = zap.NewAtomicLevelAt(parsed)
	config.Sampling = nil // a line that was dropped is the one that was wanted
	config.DisableCaller = true
	config.EncoderConfig.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	config.OutputPaths, config.ErrorOutputPaths = []string{"stderr"}, []string{"stderr"}
	log, err := config.Build()
	if err != nil {
		return nil, fmt.Errorf("build logger: %w", err)
	}
	return log, nil
}
