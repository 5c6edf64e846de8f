package plan

import (
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/rhysd/actionlint"
)

// triggered says whether the event wants the workflow to run. All triggers are checked, whatever the event is.
func (w *workflow) triggered(on []actionlint.Event) bool {
	wanted := false
	for _, trigger := range on {
		switch trigger := trigger.(type) {
		case *actionlint.WorkflowDispatchEvent:
			wanted = wanted || w.event.Name == "workflow_dispatch" || w.event.Name == "manual"
		case *actionlint.WebhookEvent:
			if name := trigger.EventName(); name != "push" && name != "pull_request" {
				w.eventNotSupported(at(trigger.Pos), name)
				continue
			}
			f := w.filters(trigger)
			switch {
			case trigger.EventName() == "push" && w.event.Name == "manual":
				wanted = true // somebody asked for it: filters are about events
			case trigger.EventName() == w.event.Name:
				wanted = f.match(w) || wanted
			}
		case *actionlint.ScheduledEvent:
			w.eventNotSupported(at(trigger.Pos), "schedule")
		case *actionlint.RepositoryDispatchEvent:
			w.eventNotSupported(at(trigger.Pos), "repository_dispatch")
		case *actionlint.WorkflowCallEvent:
			w.eventNotSupported(at(trigger.Pos), "workflow_call")
		case *actionlint.ImageVersionEvent:
			w.eventNotSupported(at(trigger.Pos), "image_version")
		default:
			w.mistakef(pos{1, 1}, "event %q is not supported", trigger.EventName())
		}
	}
	return wanted
}

func (w *workflow) eventNotSupported(at pos, name string) {
	if w.mistaken(at) { // as a key that is not supported
		return
	}
	w.mistakef(at, "event %q is not supported (supported: push, pull_request, workflow_dispatch)", name)
}

// filters are those of one trigger. A nil list: no such filter.
type filters struct {
	branches, branchesIgnore, tags, tagsIgnore, paths, pathsIgnore patterns
}

func (w *workflow) filters(e *actionlint.WebhookEvent) filters {
	if e.Types != nil {
		// We are told of these three activities and act on no others, so any other list would not be followed.
		types := map[string]bool{}
		for _, t := range e.Types {
			types[t.Value] = true
		}
		if len(types) != 3 || !types["opened"] || !types["synchronize"] || !types["reopened"] {
			w.mistakef(at(e.Types[0].Pos), "types other than [opened, synchronize, reopened], all three of them, are not supported")
		}
	}
	return filters{
		branches:       w.patterns(e.Branches, true),
		branchesIgnore: w.patterns(e.BranchesIgnore, false),
		tags:           w.patterns(e.Tags, true),
		tagsIgnore:     w.patterns(e.TagsIgnore, false),
		paths:          w.patterns(e.Paths, true),
		pathsIgnore:    w.patterns(e.PathsIgnore, false),
	}
}

// match follows GitHub's documentation of on.<push|pull_request>: filters of branches alone keep tags out and the
// other way round, all filters must agree, and pushes of tags are not asked about paths.
func (f filters) match(w *workflow) bool {
	branch := w.event.BaseBranch
	if w.event.Name == "push" {
		if tag, ok := strings.CutPrefix(w.event.Ref, "refs/tags/"); ok {
			if f.tags == nil && f.tagsIgnore == nil {
				return f.branches == nil && f.branchesIgnore == nil
			}
			return (f.tags == nil || f.tags.match(tag)) && !f.tagsIgnore.match(tag)
		}
		branch = strings.TrimPrefix(w.event.Ref, "refs/heads/")
		if f.branches == nil && f.branchesIgnore == nil && (f.tags != nil || f.tagsIgnore != nil) {
			return false
		}
	}
	if branch != "" && (f.branches != nil && !f.branches.match(branch) || f.branchesIgnore.match(branch)) {
		return false
	}
	if f.paths == nil && f.pathsIgnore == nil || w.event.Changed == nil {
		return true
	}
	changed, known, err := w.event.Changed()
	if err != nil {
		w.err = err
		return false
	}
	return !known || slices.ContainsFunc(changed, func(path string) bool {
		return (f.paths == nil || f.paths.match(path)) && !f.pathsIgnore.match(path)
	})
}

// patterns is a list of glob patterns, of which the last that matches decides.
type patterns []pattern

type pattern struct {
	not    bool // begins with !
	regexp *regexp.Regexp
}

func (ps patterns) match(s string) bool {
	for _, p := range slices.Backward(ps) {
		if p.regexp.MatchString(s) {
			return !p.not
		}
	}
	return false
}

// patterns reads a filter. A list that ignores has no use for !; one that does not ignore needs something for its
// first ! to take away from, so says GitHub's documentation.
func (w *workflow) patterns(f *actionlint.WebhookEventFilter, negatable bool) patterns {
	if f == nil {
		return nil
	}
	ps := patterns{}
	positive := false
	for _, v := range f.Values {
		glob, not := strings.CutPrefix(w.literal(v), "!")
		if not && !negatable {
			w.mistakef(at(v.Pos), `"!" is not supported in %q`, f.Name.Value)
		}
		positive = positive || !not
		re, err := compile(glob)
		if err != nil {
			w.mistakef(at(v.Pos), "pattern %.60q cannot be read", v.Value)
			continue
		}
		ps = append(ps, pattern{not, re})
	}
	if !positive && len(f.Values) > 0 {
		w.mistakef(at(f.Name.Pos), `%q has only patterns with "!": nothing would ever match`, f.Name.Value)
	}
	return ps
}

// compile turns a pattern of GitHub's filter pattern cheat sheet into a regular expression:
// * is anything but /, ** is anything, ? and + repeat the character before, [] is one of a set.
func compile(glob string) (*regexp.Regexp, error) {
	var re strings.Builder
	re.WriteString(`(?s)\A`)
	for i := 0; i < len(glob); {
		rest := glob[i:]
		switch {
		case strings.HasPrefix(rest, "**/") && (i == 0 || glob[i-1] == '/'): // also no folder at all
			re.WriteString(`(?:.*/)?`)
			i += 3
		case strings.HasPrefix(rest, "**"):
			re.WriteString(`.*`)
			i += 2
		case rest[0] == '*':
			re.WriteString(`[^/]*`)
			i++
		case rest[0] == '?' || rest[0] == '+':
			re.WriteByte(rest[0])
			i++
		case rest[0] == '[':
			end := strings.IndexByte(rest, ']')
			if end < 0 {
				return nil, errors.New("[ without ]")
			}
			re.WriteString(`[` + strings.NewReplacer(`\`, `\\`, `^`, `\^`, `[`, `\[`).Replace(rest[1:end]) + `]`)
			i += end + 1
		case rest[0] == '\\' && len(rest) > 1:
			re.WriteString(regexp.QuoteMeta(rest[1:2]))
			i += 2
		default:
			re.WriteString(regexp.QuoteMeta(rest[:1]))
			i++
		}
	}
	re.WriteString(`\z`)
	return regexp.Compile(re.String())
}
