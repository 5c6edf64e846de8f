// Package git fetches one commit of a hostile repository and reads it from git's objects, never from a work tree.
//
// git runs as a process with a home, configuration and environment of its own: no protocol but the one of the URL, no
// redirects, hooks, submodules or prompts. A credential reaches it by a pipe that is offered to one host alone; it is
// never in a URL, an argument, the environment or a file.
package git

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
	"unicode"
)

// maxOutputBytes is what git may say where we listen.
const maxOutputBytes = 16 << 20

// Settings of a Client.
type Settings struct {
	AllowFile bool // file:///… may be asked for
	// InsteadOf, if From is not empty, sends URLs that begin with From to To and what follows. To may be a file
	// URL whatever AllowFile says: the operator has chosen it.
	InsteadOf struct{ From, To string }
	Token     string        // for https://TokenHost/; may be empty
	TokenHost string        // host, or host:port
	Timeout   time.Duration // of one fetch
	MaxBytes  int64         // what one fetch may bring
}

// Client fetches from repositories. Use Open.
type Client struct {
	settings Settings
	folder   string   // of this process: home, and a folder for each commit
	lock     *os.File // says that the folder is in use
}

// A Fault lies with the repository or with what was asked for: to try again does not help. Its text is for people, one
// line, without secrets. Every other error is one of the way there.
type Fault struct{ text string }

func (f *Fault) Error() string { return f.text }

func faultf(format string, args ...any) error { return &Fault{fmt.Sprintf(format, args...)} }

// Open makes a client with a temporary folder of its own. Close removes it.
func Open(settings Settings) (*Client, error) {
	if _, err := exec.LookPath("git"); err != nil {
		return nil, fmt.Errorf("look for git: %w", err)
	}
	folder, lock, err := claimFolder()
	if err != nil {
		return nil, fmt.Errorf("make a folder for git: %w", err)
	}
	c := &Client{settings: settings, folder: folder, lock: lock}
	if err := os.WriteFile(filepath.Join(folder, ".gitconfig"), []byte(c.config()), 0o600); err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("write git's configuration: %w", err)
	}
	return c, nil
}

// Close removes the client's folder.
func (c *Client) Close() error { return errors.Join(os.RemoveAll(c.folder), c.lock.Close()) }

// config is what git is told in place of the system's and the user's configuration.
func (c *Client) config() string {
	var b strings.Builder
	b.WriteString(`
[protocol]
	allow = never
[protocol "https"]
	allow = always
[protocol "file"]
	allow = always # GIT_ALLOW_PROTOCOL, which is set for each fetch, decides
[http]
	followRedirects = false # a redirect could carry the credential to another host
	lowSpeedLimit = 1000
	lowSpeedTime = 60
[core]
	hooksPath = /dev/null
	symlinks = false
	bigFileThreshold = 16m # larger blobs are streamed, not held in memory
[transfer]
	fsckObjects = true
	unpackLimit = 1 # always one pack, which a limit of the file size can stop
[fetch]
	recurseSubmodules = false
	writeCommitGraph = false
[fetch "fsck"]
	# Old and harmless; GitHub serves repositories that have them.
	zeroPaddedFilemode = ignore
	badTimezone = ignore
	missingSpaceBeforeDate = ignore
	missingSpaceBeforeEmail = ignore
	missingNameBeforeEmail = ignore
[gc]
	auto = 0
[maintenance]
	auto = false
[init]
	templateDir =
	defaultBranch = main
[tar]
	umask = 0022
`)
	if c.settings.AllowFile || strings.HasPrefix(c.settings.InsteadOf.To, "file:") {
		// The owner of a local repository is often somebody else. upload-pack obeys this only from here.
		b.WriteString("[safe]\n\tdirectory = *\n")
	}
	if c.settings.Token != "" {
		fmt.Fprintf(&b, "[credential \"https://%s\"]\n\thelper = \"!f() { test \\\"$1\\\" = get && cat <&4; }; f\"\n", c.settings.TokenHost)
	}
	return b.String()
}

// remote is a repository's address, checked.
type remote struct {
	url      string
	protocol string // https or file
	token    bool   // the credential may be offered
}

var hostAndPort = regexp.MustCompile(`^[A-Za-z0-9.-]+(:[0-9]{1,5})?$`)

// remote checks and translates the URL of a repository. Only the forms stored in ci_runs.repository are taken:
// https://host/owner/name without .git, and file URLs.
func (c *Client) remote(repository string) (remote, error) {
	r := remote{url: repository}
	chosen := false
	if from := c.settings.InsteadOf.From; from != "" && strings.HasPrefix(repository, from) {
		r.url, chosen = c.settings.InsteadOf.To+strings.TrimPrefix(repository, from), true
	}
	u, err := url.Parse(r.url)
	if err != nil || strings.ContainsFunc(r.url, unicode.IsControl) || len(r.url) > 2000 {
		return r, faultf("%.200q is not a URL", repository)
	}
	r.protocol = u.Scheme
	switch {
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" || u.ForceQuery:
		return r, faultf("%.200q is not the URL of a repository: it may have a host and a path only", repository)
	case u.Scheme == "file" && !c.settings.AllowFile && !chosen:
		return r, faultf("repositories on this machine (file:) are not allowed here; ALLOW_FILE_URLS of the initializer would allow them")
	case u.Scheme == "file" && u.Host == "" && filepath.IsAbs(u.Path):
		return r, nil
	case u.Scheme == "https" && hostAndPort.MatchString(u.Host) && strings.Trim(u.Path, "/") != "":
		// With .git, because forges redirect to that, and we follow no redirect.
		r.url = strings.TrimSuffix(strings.TrimRight(r.url, "/"), ".git") + ".git"
		r.token = c.settings.Token != "" && strings.EqualFold(u.Host, c.settings.TokenHost)
		return r, nil
	}
	return r, faultf("%.200q is not the URL of a repository: want https://host/owner/name", repository)
}

// command is one run of git.
type command struct {
	args   []string
	folder string  // of the repository; empty: none
	remote *remote // whom it may talk to; nil: nobody
	out    io.Writer
}

// supervised runs git with limits that nothing it starts can exceed, and kills all of it when this process dies: then
// the pipe on descriptor 3 ends. ulimit counts 512 bytes; with the signal ignored, git gets an error that it can tell.
const supervised = `
trap "" XFSZ
ulimit -f "$0" && ulimit -c 0 || exit
(read -r _ <&3; kill -9 0) </dev/null >/dev/null 2>&1 &
git "$@" 3<&-
code=$?
{ kill $!; wait $!; } 2>/dev/null
exit $code`

// git runs one command. Its error holds what git said on standard error; explain makes a Fault of it where it is one.
func (c *Client) git(ctx context.Context, cmd command) error {
	args := append([]string{"-c", supervised, fmt.Sprint(c.settings.MaxBytes / 512)}, cmd.args...)
	p := exec.CommandContext(ctx, "/bin/sh", args...)
	p.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + c.folder, "TMPDIR=" + c.folder, "LC_ALL=C", // the configuration is in HOME
		"GIT_CONFIG_NOSYSTEM=1", "GIT_ATTR_NOSYSTEM=1",
		"GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=", "SSH_ASKPASS=", "GIT_ALLOW_PROTOCOL=",
	}
	p.Dir = c.folder
	if cmd.folder != "" {
		p.Dir = cmd.folder
		p.Env = append(p.Env, "GIT_DIR="+cmd.folder)
	}
	alive, stop, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make a pipe for git: %w", err)
	}
	defer func() { _ = errors.Join(alive.Close(), stop.Close()) }()
	p.ExtraFiles = []*os.File{alive} // descriptor 3
	if cmd.remote != nil {
		p.Env = append(p.Env, "GIT_ALLOW_PROTOCOL="+cmd.remote.protocol)
		for _, name := range []string{"HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "GIT_SSL_CAINFO"} {
			if value := os.Getenv(name); value != "" {
				p.Env = append(p.Env, name+"="+value)
			}
		}
		if cmd.remote.token {
			pipe, err := credential(c.settings.Token)
			if err != nil {
				return err
			}
			defer func() { _ = pipe.Close() }()
			p.ExtraFiles = append(p.ExtraFiles, pipe) // descriptor 4
		}
	}
	var said tail
	p.Stdout, p.Stderr = cmd.out, &said
	p.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.Cancel = func() error { return syscall.Kill(-p.Process.Pid, syscall.SIGKILL) } // git and all it started
	p.WaitDelay = 5 * time.Second
	if err := p.Run(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.Is(err, errTooMuch) {
			return err
		}
		return &gitError{command: cmd.args[0], said: c.clean(said.String()), err: err}
	}
	return nil
}

// output is git's standard output, limited.
func (c *Client) output(ctx context.Context, cmd command) (string, error) {
	var b limitedBuffer
	cmd.out = &b
	err := c.git(ctx, cmd)
	return b.String(), err
}

// credential returns the end of a pipe from which git's credential helper reads a user and the token, once.
func credential(token string) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe for the credential: %w", err)
	}
	// It fits the pipe's buffer, so that nobody waits.
	_, err = fmt.Fprintf(w, "username=x-access-token\npassword=%s\n", token)
	if err = errors.Join(err, w.Close()); err != nil {
		_ = r.Close()
		return nil, fmt.Errorf("write the credential: %w", err)
	}
	return r, nil
}

// gitError is a run of git that failed.
type gitError struct {
	command string
	said    string
	err     error
}

func (e *gitError) Error() string {
	if e.said == "" {
		return fmt.Sprintf("git %s: %s", e.command, e.err)
	}
	return fmt.Sprintf("git %s: %s", e.command, e.said)
}

func (e *gitError) Unwrap() error { return e.err }

// clean makes one line of what git or the far side said.
func (c *Client) clean(s string) string {
	if c.settings.Token != "" {
		s = strings.ReplaceAll(s, c.settings.Token, "***")
	}
	s = strings.ToValidUTF8(s, "?")
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
			return ' '
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 500 {
		s = strings.ToValidUTF8(s[:500], "") + "…"
	}
	return s
}

// faults are what git says when the fault lies with the repository or with what was asked for, and what we say then; {} is
// what git said. What is not in here is taken for a failure of the way there, which is tried again: names that do not
// resolve, refused connections, timeouts, 5xx.
var faults = []struct{ git, we string }{
	{"not our ref", "the commit does not exist in the repository"},
	{"did not contain all necessary objects", "the commit does not exist in the repository"},
	{"couldn't find remote ref", "the commit does not exist in the repository"},
	{"unadvertised object", "the server gives out no commits that are not the tip of a branch or tag"},
	{"does not appear to be a git repository", noSuchRepository},
	{"returned error: 404", noSuchRepository},
	{"returned error: 410", noSuchRepository},
	{"returned error: 30", moved},
	{"unable to update url base from redirection", moved},
	{"could not read Username", "the repository does not exist, or asks for a login that the initializer does not have (GIT_TOKEN)"},
	{"could not read Password", "the repository does not exist, or asks for a login that the initializer does not have (GIT_TOKEN)"},
	{"Authentication failed", "the repository does not exist, or refuses the initializer's login (GIT_TOKEN)"},
	{"returned error: 401", "the repository does not exist, or refuses the initializer's login (GIT_TOKEN)"},
	{"returned error: 403", "the server refuses access to the repository (git: {})"},
	{"fsck error", "git refuses objects of the repository (git: {})"},
	{"File too large", "the commit is larger than a commit may be"}, // EFBIG, see ulimit
	{"dumb http transport", "the server does not speak git: is this the address of a repository? (git: {})"},
	{"not valid: is this a git repository", "the server does not speak git: is this the address of a repository? (git: {})"},
}

const (
	noSuchRepository = "there is no such repository"
	moved            = "the repository has moved, and redirects are not followed: use its present address"
)

var notFound = regexp.MustCompile(`repository '[^']*' not found`)

// explain turns what git said into a Fault where it is one.
func explain(err error) error {
	var failed *gitError
	if !errors.As(err, &failed) {
		return err
	}
	if notFound.MatchString(failed.said) {
		return faultf(noSuchRepository)
	}
	for _, f := range faults {
		if strings.Contains(failed.said, f.git) {
			return faultf("%s", strings.ReplaceAll(f.we, "{}", failed.said))
		}
	}
	return err
}

var errTooMuch = errors.New("git said more than expected")

// limitedBuffer holds at most maxOutputBytes.
type limitedBuffer struct{ bytes.Buffer }

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if b.Len()+len(p) > maxOutputBytes {
		return 0, errTooMuch
	}
	return b.Buffer.Write(p)
}

// tail keeps the end of what git says: errors come last, and a far side may talk without end.
type tail struct{ bytes.Buffer }

func (t *tail) Write(p []byte) (int, error) {
	n, err := t.Buffer.Write(p)
	if t.Len() > 16<<10 {
		t.Next(t.Len() - 8<<10)
	}
	return n, err
}
