package git

import (
	"context"
	"regexp"
	"strings"
)

var fullSHA = regexp.MustCompile(`^[0-9a-f]{40}$`)

// Resolve finds the commit that is meant: ref is a full ref, a branch, a tag, 40 hex digits, or empty for the default
// branch. A name is resolved here, once, and never again. 40 hex digits are always a commit, even if somebody made a
// branch of that name. The ref returned is the full one, empty for a bare commit.
func (c *Client) Resolve(ctx context.Context, repository, ref string) (full, sha string, err error) {
	remote, err := c.remote(repository)
	if err != nil {
		return "", "", err
	}
	var names []string // what could be meant, in this order
	switch {
	case ref == "":
		names = []string{"HEAD"}
	case fullSHA.MatchString(ref):
		return "", ref, nil
	case len(ref) > 1000 || strings.ContainsAny(ref, `*?[\`): // patterns, to ls-remote; no name may hold them
		return "", "", faultf("%.200q cannot be the name of a branch or tag", ref)
	case strings.HasPrefix(ref, "refs/"):
		names = []string{ref}
	default:
		names = []string{"refs/heads/" + ref, "refs/tags/" + ref}
	}

	args := []string{"ls-remote", "--quiet", "--symref", "--end-of-options", remote.url}
	for _, name := range names {
		args = append(args, name, name+"^{}") // ^{}: the commit of an annotated tag
	}
	out, err := c.output(ctx, command{args: args, remote: &remote})
	if err != nil {
		return "", "", explain(err)
	}
	found, symbolic := map[string]string{}, map[string]string{}
	for line := range strings.Lines(out) {
		value, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if target, isSymbolic := strings.CutPrefix(value, "ref: "); isSymbolic {
			symbolic[name] = target
		} else if ok && fullSHA.MatchString(value) {
			found[name] = value
		}
	}
	for _, name := range names {
		sha := found[name+"^{}"]
		if sha == "" {
			sha = found[name]
		}
		if sha == "" {
			continue
		}
		if name == "HEAD" {
			name = symbolic[name] // empty if HEAD is detached
		}
		return name, sha, nil
	}
	if ref == "" {
		return "", "", faultf("the repository has no default branch: it is empty, or its HEAD names a branch that does not exist")
	}
	return "", "", faultf("the repository has no branch or tag %q", ref)
}
