package e2e_test

import (
	"regexp"
	"strings"
	"testing"
)

// A step of the curious sort: it prints what it finds of its own environment, of other processes', and in files.
// The patterns do not match themselves, so that the step's own script is no find.
const snoop = `
env
echo "--- processes"
for p in /proc/[0-9]*; do
  tr '\0' '\n' <"$p/environ" 2>/dev/null | grep -e 'canar[y]' -e 'lockstep-tes[t]' -e 'postgres:/[/]lockstep' -e 'ADMIN_TOKE[N]' -e 'GIT_TOKE[N]'
  tr '\0' ' ' <"$p/cmdline" 2>/dev/null | grep -e 'canar[y]' -e 'lockstep-tes[t]' -e 'postgres:/[/]lockstep'
done
echo "--- files"
grep -rIl -e 'canar[y]' -e 'lockstep-tes[t]' -e 'postgres:/[/]lockstep' "$EVERYTHING" "$HOME" "${TMPDIR:-/tmp}" . 2>/dev/null
echo "--- descriptors"
for fd in /proc/self/fd/*; do readlink "$fd"; done | grep socket
cat /proc/$PPID/environ 2>/dev/null | tr '\0' '\n'
echo "--- end"
exit 0
`

func TestUserCodeSeesNoCredential(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.start()
	repo := s.repository("octo/snoop", workflow(`
name: ci
on: push
jobs:
  snoop:
    runs-on: ubuntu-latest
    env:
      EVERYTHING: `+s.dir+`
    steps:
      - run: sh ./snoop.sh
`, map[string]string{"snoop.sh": snoop}))
	r := s.finish(s.push(repo), "success")
	log := s.log(s.job(r, "ci / snoop"))
	for _, part := range []string{"--- processes", "--- files", "--- descriptors", "--- end"} {
		if !strings.Contains(log, part) {
			t.Fatalf("the step did not look everywhere:\n%s", log)
		}
	}
	if found := regexp.MustCompile(`canary|lockstep-test|lockstep_[a-z]+:|postgres://|DATABASE_URL|ADMIN_TOKEN|WEBHOOK_SECRET|GIT_TOKEN|GITHUB_TOKEN|PGPASSWORD|socket:`).FindAllString(log, -1); found != nil {
		t.Errorf("user code saw %q:\n%s", found, log)
	}
	for _, p := range s.processes { // nor does whoever reads the logs
		if found := regexp.MustCompile(`canary[a-zA-Z0-9-]*|lockstep-test`).FindAll(p.output(t), -1); found != nil {
			t.Errorf("%s logged %q", p.service, found)
		}
	}
}
