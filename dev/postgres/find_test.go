package postgres

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// computer is a machine that has nothing but what its fields say.
type computer struct {
	env      map[string]string
	programs map[string]string   // in PATH: name and path
	files    map[string][]string // what a glob pattern finds
	servers  map[string]int      // folders whose server works, and its version
	answers  map[string]string   // command lines that succeed
	fetches  bool                // npm and download yield a copy
	os       string
	root     bool
}

func (c computer) find() (Source, error) {
	got := func(_ context.Context, dir string) error {
		if !c.fetches {
			return errors.New("no network")
		}
		c.servers[filepath.Join(dir, "bin")] = 18
		return nil
	}
	m := machine{
		os: c.os, arch: "amd64", root: c.root,
		say:    func(string) {},
		getenv: func(name string) string { return c.env[name] },
		lookPath: func(program string) (string, error) {
			if path, ok := c.programs[program]; ok {
				return path, nil
			}
			return "", exec.ErrNotFound
		},
		glob: func(pattern string) ([]string, error) { return c.files[pattern], nil },
		output: func(_ context.Context, program string, args ...string) (string, error) {
			line := strings.Join(append([]string{program}, args...), " ")
			if out, ok := c.answers[line]; ok {
				if strings.Contains(line, "install") {
					c.files["/usr/lib/postgresql/*/bin"] = []string{"/usr/lib/postgresql/15/bin"}
					c.servers["/usr/lib/postgresql/15/bin"] = 15
				}
				return out, nil
			}
			return "", errors.New(program + " does not answer")
		},
		works: func(_ context.Context, bin string) (int, error) {
			if major, ok := c.servers[bin]; ok {
				return major, nil
			}
			return 0, errors.New("no initdb in " + bin)
		},
		home:    func() (string, error) { return "/home", nil },
		packNPM: func(ctx context.Context, _, _, dir string) error { return got(ctx, dir) },
		fetch:   got,
	}
	return first(context.Background(), m.steps())
}

func TestFindTakesTheFirstStepThatYieldsAServer(t *testing.T) {
	debian := map[string][]string{"/usr/lib/postgresql/*/bin": {"/usr/lib/postgresql/9.6/bin", "/usr/lib/postgresql/15/bin", "/usr/lib/postgresql/17/bin"}}
	apt := map[string]string{
		"env DEBIAN_FRONTEND=noninteractive apt-get update":                "",
		"env DEBIAN_FRONTEND=noninteractive apt-get install -y postgresql": "",
	}
	for _, test := range []struct {
		name string
		on   computer
		want Source
	}{
		{"DATABASE_URL comes before all", computer{
			env: map[string]string{"DATABASE_URL": "postgres://db/x", "PG_BIN": "/pg"}, servers: map[string]int{"/pg": 17},
		}, Source{How: "DATABASE_URL", URL: "postgres://db/x"}},
		{"PG_BIN comes before PATH", computer{
			env: map[string]string{"PG_BIN": "/pg"}, programs: map[string]string{"postgres": "/usr/bin/postgres"},
			servers: map[string]int{"/pg": 16, "/usr/bin": 15},
		}, Source{How: "PostgreSQL 16 in /pg", Bin: "/pg"}},
		{"pg_config comes before PATH", computer{
			programs: map[string]string{"pg_config": "/usr/bin/pg_config", "postgres": "/usr/bin/postgres"},
			answers:  map[string]string{"pg_config --bindir": "/opt/pg/bin\n"},
			servers:  map[string]int{"/opt/pg/bin": 16, "/usr/bin": 15},
		}, Source{How: "PostgreSQL 16 in /opt/pg/bin", Bin: "/opt/pg/bin"}},
		{"a client's pg_config is passed over", computer{
			programs: map[string]string{"pg_config": "/usr/bin/pg_config"}, files: debian,
			answers: map[string]string{"pg_config --bindir": "/usr/lib/postgresql/18/bin\n"},
			servers: map[string]int{"/usr/lib/postgresql/15/bin": 15},
		}, Source{How: "PostgreSQL 15 in /usr/lib/postgresql/15/bin", Bin: "/usr/lib/postgresql/15/bin"}},
		{"the highest of Debian's comes first", computer{
			files: debian, servers: map[string]int{"/usr/lib/postgresql/15/bin": 15, "/usr/lib/postgresql/17/bin": 17},
		}, Source{How: "PostgreSQL 17 in /usr/lib/postgresql/17/bin", Bin: "/usr/lib/postgresql/17/bin"}},
		{"an unpacked copy comes before npm", computer{
			files:    map[string][]string{"/home/postgresql-*/bin": {"/home/postgresql-17.10.0-beta.17/bin", "/home/postgresql-18.4.0-beta.17/bin"}},
			servers:  map[string]int{"/home/postgresql-17.10.0-beta.17/bin": 17, "/home/postgresql-18.4.0-beta.17/bin": 18},
			programs: map[string]string{"npm": "/usr/bin/npm"}, os: "linux",
		}, Source{How: "PostgreSQL 18 in /home/postgresql-18.4.0-beta.17/bin", Bin: "/home/postgresql-18.4.0-beta.17/bin"}},
		{"npm comes before apt-get", computer{
			programs: map[string]string{"npm": "/usr/bin/npm", "apt-get": "/usr/bin/apt-get"}, answers: apt,
			servers: map[string]int{}, fetches: true, os: "linux", root: true,
		}, Source{How: "PostgreSQL 18 in /home/postgresql-" + npmVersion + "/bin", Bin: "/home/postgresql-" + npmVersion + "/bin"}},
		{"apt-get comes before a container", computer{
			programs: map[string]string{"docker": "/usr/bin/docker", "apt-get": "/usr/bin/apt-get"}, answers: apt,
			files: map[string][]string{}, servers: map[string]int{}, os: "linux", root: true,
		}, Source{How: "PostgreSQL 15 in /usr/lib/postgresql/15/bin", Bin: "/usr/lib/postgresql/15/bin"}},
		{"apt-get is root's", computer{
			programs: map[string]string{"podman": "/usr/bin/podman", "apt-get": "/usr/bin/apt-get"},
			answers:  map[string]string{"podman ps --quiet": ""}, os: "linux",
		}, Source{How: image + " in podman", Engine: "podman"}},
		{"an engine that does not answer is passed over", computer{
			programs: map[string]string{"docker": "/usr/bin/docker"}, servers: map[string]int{}, fetches: true, os: "linux",
		}, Source{How: "PostgreSQL 18 in /home/postgresql-18.3.0/bin", Bin: "/home/postgresql-18.3.0/bin"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := test.on.find()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("source (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFindListsWhatEachStepLacked(t *testing.T) {
	_, err := computer{
		env: map[string]string{"PG_BIN": "/pg"}, programs: map[string]string{"docker": "/usr/bin/docker"}, os: "linux",
	}.find()
	if err == nil {
		t.Fatal("found a PostgreSQL on an empty machine")
	}
	want := []string{
		"no PostgreSQL to be had; install one (Debian: postgresql), or set PG_BIN or DATABASE_URL:",
		"  DATABASE_URL: not set",
		"  installed binaries: no initdb in /pg",
		"  copy unpacked earlier: none in /home",
		"  npm: not in PATH",
		"  apt-get: needs Linux and root",
		"  container engine: docker does not answer; podman is not in PATH",
		"  embedded-postgres: no network",
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Errorf("error (-want +got):\n%s", diff)
	}
}
