package runs

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
)

// Request asks for a run of one commit.
type Request struct {
	Repository string // https://host/owner/name, with or without .git, or a file URL
	Ref        string // a branch, tag or full ref; empty: the default branch
	SHA        string // 40 hex digits; empty: what Ref names when the initializer looks
}

// Invalid is a value that cannot be, by the name it has in the API.
type Invalid struct {
	Field  string
	Reason string
}

// Error says which field, and what it should be.
func (i *Invalid) Error() string { return i.Field + ": " + i.Reason }

// Create accepts a run: when it returns, the run is on disk. The same principal and key again name the same run, which is
// then told as replayed. It returns *Invalid, or jobs.ErrKeyReused for a key of another request.
func (s *Service) Create(ctx context.Context, request Request, principal, key string) (run Run, replayed bool, err error) {
	request, err = request.canonical()
	if err != nil {
		return Run{}, false, err
	}
	accepted, err := s.db.Enqueue(ctx, jobs.NewRun{
		Repository: request.Repository, Event: "manual", Ref: request.Ref, HeadSHA: request.SHA, Trusted: true,
		Principal: principal, IdempotencyKey: key, RequestHash: hash("create", request.Repository, request.Ref, request.SHA),
	})
	if err != nil {
		return Run{}, false, err
	}
	run, err = s.Get(ctx, accepted.RunID)
	return run, accepted.Existing, err
}

// Rerun starts the same commit once more, as a run of its own. Its key is used as by Create.
func (s *Service) Rerun(ctx context.Context, id int64, principal, key string) (run Run, replayed bool, err error) {
	accepted, err := s.db.Rerun(ctx, id, principal, key, hash("rerun", strconv.FormatInt(id, 10)), 0)
	if err != nil {
		return Run{}, false, err
	}
	run, err = s.Get(ctx, accepted.RunID)
	return run, accepted.Existing, err
}

// hash is of the parts of a request that must be the same when its key comes again. No part holds a NUL.
func hash(parts ...string) []byte {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return sum[:]
}

func (r Request) canonical() (Request, error) {
	repository, err := Repository(r.Repository)
	if err != nil {
		return r, &Invalid{"repository", err.Error()}
	}
	if r.Ref != "" {
		if err := CheckRef(r.Ref); err != nil {
			return r, &Invalid{"ref", err.Error()}
		}
	}
	sha := strings.ToLower(r.SHA)
	if sha != "" && !IsSHA(sha) {
		return r, &Invalid{"sha", "give all 40 hexadecimal digits of the commit"}
	}
	return Request{Repository: repository, Ref: r.Ref, SHA: sha}, nil
}

const maxRepository = 2000 // bytes; the table's limit

var (
	hostName       = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$`)
	endsWithNumber = regexp.MustCompile(`(^|\.)([0-9]+|0x[0-9a-f]*)$`)
	pathSegment    = regexp.MustCompile(`^[A-Za-z0-9_.~+-]+$`)
	fullSHA        = regexp.MustCompile(`^[0-9a-f]{40}$`)
)

// IsSHA reports whether text is a full commit id: 40 lower-case hexadecimal digits.
func IsSHA(text string) bool { return fullSHA.MatchString(text) }

// Repository returns the one spelling under which a repository is stored: https://host/owner/name without .git, or
// file:///path. The error says what is wrong with another.
func Repository(text string) (string, error) {
	switch {
	case text == "":
		return "", errors.New("is missing: give https://host/owner/name")
	case len(text) > maxRepository:
		return "", fmt.Errorf("has %d bytes, at most %d may be", len(text), maxRepository)
	}
	u, err := url.Parse(text)
	if err != nil || strings.ContainsFunc(text, unicode.IsSpace) {
		return "", errors.New("is not a URL: give https://host/owner/name")
	}
	switch {
	case u.User != nil:
		return "", errors.New("must hold no user or password")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.HasSuffix(text, "#"):
		return "", errors.New("must have no ? or #")
	case u.Scheme == "file" && u.Host == "" && strings.Trim(u.Path, "/") != "":
		return "file://" + strings.TrimRight(u.EscapedPath(), "/"), nil
	case u.Scheme != "https":
		return "", errors.New("must be an https URL, https://host/owner/name (file:///path only where the initializer allows it)")
	}
	host := strings.ToLower(u.Hostname())
	if !hostName.MatchString(host) {
		return "", errors.New("has no usable host name")
	}
	if !mayServe(host) {
		return "", errors.New("has an address as its host that no git server can have")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return "", errors.New("has a port that is not between 1 and 65535")
		}
		if port != "443" {
			host += ":" + port
		}
	}
	path := strings.Trim(u.EscapedPath(), "/")
	for strings.HasSuffix(path, ".git") {
		path = strings.TrimSuffix(path, ".git")
	}
	segments := strings.Split(path, "/")
	if len(segments) < 2 {
		return "", errors.New("needs an owner and a name: https://host/owner/name")
	}
	for _, segment := range segments {
		if !pathSegment.MatchString(segment) || strings.Trim(segment, ".") == "" {
			return "", errors.New("has a path of other than letters, digits and . _ ~ + -")
		}
	}
	return "https://" + host + "/" + path, nil
}

// RepositoryInPath is Repository for one segment of a URL's path, decoded: without a scheme, https is meant.
func RepositoryInPath(segment string) (string, error) {
	if segment != "" && !strings.Contains(segment, "://") {
		segment = "https://" + segment
	}
	return Repository(segment)
}

// mayServe reports whether there may be a git server at a host. One whose name ends with a number is an IPv4 address to programs, in
// many spellings (https://url.spec.whatwg.org, host parsing): only the usual one may be, and only that of one machine that others know.
// 169.254.169.254 is where clouds keep credentials.
func mayServe(host string) bool {
	if !endsWithNumber.MatchString(host) {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && !addr.IsUnspecified() && !addr.IsLinkLocalUnicast() && !addr.IsMulticast() && addr != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

const maxRef = 255 // bytes; what a file system allows git for one

// CheckRef says what is wrong with a ref, by the rules of git-check-ref-format(1) and one of ours: a branch that looks like
// a commit would be ambiguous.
func CheckRef(ref string) error {
	switch {
	case len(ref) > maxRef:
		return fmt.Errorf("has %d bytes, at most %d may be", len(ref), maxRef)
	case IsSHA(strings.ToLower(ref)):
		return errors.New("looks like a commit: give it as sha")
	case strings.HasPrefix(ref, "-"):
		return errors.New("must not begin with -")
	case !utf8.ValidString(ref), strings.ContainsFunc(ref, func(r rune) bool { return r <= ' ' || r == 0x7f || r == utf8.RuneError }),
		strings.ContainsAny(ref, `~^:?*[\`), strings.Contains(ref, ".."), strings.Contains(ref, "@{"), ref == "@",
		strings.Contains(ref, "//"), strings.HasPrefix(ref, "/"), strings.HasSuffix(ref, "/"),
		strings.HasPrefix(ref, "."), strings.HasSuffix(ref, "."), strings.Contains(ref, "/."),
		strings.HasSuffix(ref, ".lock"), strings.Contains(ref, ".lock/"):
		return errors.New("is not a branch, tag or full ref (git-check-ref-format says which names can be)")
	}
	return nil
}
