// Command bench measures the queue beside others, in one run on one server, and prints one table:
//
//	withpg -durable -- bench            all parts
//	BENCH=a,c withpg -durable -- bench  these alone
//
// docs/performance.md says what each part does and does not do. TEST_DATABASE_URL names the server, as a superuser;
// withpg sets it. LOCKSTEP_BIN is the folder of the services' binaries, for the part that starts them (bin, or else
// ../../bin). SCALE=quick is about a tenth, once, for whoever is making something faster; at SCALE=small everything runs and
// nothing is measured, for the test. -o writes the figures into a file as well.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// part is one question of the benchmark.
type part struct {
	letter, title string
	limit         time.Duration // no part can take longer
	run           func(context.Context, *bench, *table) error
}

var parts = []part{
	{"a", "burn-down of no-op jobs through one stage", 12 * time.Minute, burnDown},
	{"b", "the whole pipeline of four transitions", 12 * time.Minute, pipeline},
	{"c", "from the commit to the start of the handler", 10 * time.Minute, wake},
	{"d", "accepted runs of 32 clients", 5 * time.Minute, enqueue},
	{"e", "a claim behind finished rows", 12 * time.Minute, history},
	{"f", "the same load beside a transaction that is held open", 10 * time.Minute, snapshot},
	{"g", "an idle fleet", 5 * time.Minute, idle},
	{"h", "one repository with many jobs beside others with one", 5 * time.Minute, fairness},
	{"i", "webhooks at a steady rate", 5 * time.Minute, webhooks},
	{"j", "a storm of deliveries, many copies of each", 8 * time.Minute, storm},
	{"k", "many watchers of one gateway", 5 * time.Minute, watchers},
	{"l", "what waits, and how long things take, beside a long history", 12 * time.Minute, figures},
}

// wholeRun bounds the run of all parts.
const wholeRun = 50 * time.Minute

func main() {
	out := flag.String("o", "", "`file` that the figures are written to as well")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *out, os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, file string, out, progress io.Writer) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, wholeRun, fmt.Errorf("the whole run took more than %s", wholeRun))
	defer cancel()
	chosen, err := choose(os.Getenv("BENCH"))
	if err != nil {
		return fmt.Errorf("BENCH: %w", err)
	}
	size, ok := sizes[os.Getenv("SCALE")]
	if !ok {
		return fmt.Errorf("SCALE: %q is not a size; leave it out", os.Getenv("SCALE"))
	}
	url := os.Getenv("TEST_DATABASE_URL")
	if url == "" {
		return errors.New("TEST_DATABASE_URL is not set: run `make bench`")
	}
	b := &bench{size: size, bin: binaries(), progress: progress, began: time.Now()}
	if b.server, err = openServer(ctx, url); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.server.close(context.WithoutCancel(ctx))) }()
	facts, err := b.server.facts(ctx)
	if err != nil {
		return err
	}

	t := &table{}
	problems := b.measure(ctx, chosen, t)
	report := fmt.Sprintf("%s\n%s\nIn %s.\n", facts, t, time.Since(b.began).Round(time.Second))
	if _, err := io.WriteString(out, report); err != nil {
		return fmt.Errorf("print the table: %w", err)
	}
	if file != "" {
		if err := os.WriteFile(file, []byte(report), 0o644); err != nil {
			return fmt.Errorf("write the figures: %w", err)
		}
	}
	return problems
}

// choose reads a list such as `a,c`; empty means all parts.
func choose(list string) ([]part, error) {
	if list == "" {
		return parts, nil
	}
	var chosen []part
	for letter := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(parts, func(p part) bool { return p.letter == strings.TrimSpace(letter) })
		if i < 0 {
			return nil, fmt.Errorf("%q is not a part; parts are a to %s", letter, parts[len(parts)-1].letter)
		}
		chosen = append(chosen, parts[i])
	}
	return chosen, nil
}

// bench is what the parts share.
type bench struct {
	server   *server
	size     size
	bin      string // folder of the services' binaries
	progress io.Writer
	began    time.Time
}

// measure runs the parts one after the other. One that fails does not keep the others from running.
func (b *bench) measure(ctx context.Context, chosen []part, t *table) error {
	var problems []error
	for _, p := range chosen {
		b.say("(%s) %s", p.letter, p.title)
		t.begin(p.letter, p.title)
		limited, cancel := context.WithTimeoutCause(ctx, p.limit, fmt.Errorf("it took more than %s", p.limit))
		err := p.run(limited, b, t)
		if err != nil && limited.Err() != nil {
			err = fmt.Errorf("%w (%w)", err, context.Cause(limited))
		}
		cancel()
		if err != nil {
			b.say("(%s) %v", p.letter, err)
			problems = append(problems, fmt.Errorf("part (%s): %w", p.letter, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(problems...)
}

// rounds runs do once a round. What is compared is measured within one round, so that it meets the same machine.
func (b *bench) rounds(do func() error) error {
	for round := range b.size.rounds {
		b.say("  round %d of %d", round+1, b.size.rounds)
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}

// say tells whoever watches how far it is.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.progress, "%5s %s\n", time.Since(b.began).Round(time.Second), fmt.Sprintf(format, args...))
}
