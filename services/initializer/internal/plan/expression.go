package plan

import (
	"fmt"
	"strings"

	"github.com/rhysd/actionlint"
)

// scope is what the expressions of one place may name. A nil map: not from this place.
type scope struct {
	github map[string]string
	matrix map[string]string // of this job of the matrix
	env    map[string]string // keys in lower case: GitHub looks variables up without regard to case
	script bool              // the place is a shell script
}

// facts is the github context.
func (w *workflow) facts() map[string]string {
	name := w.event.Ref
	for _, prefix := range []string{"refs/heads/", "refs/tags/", "refs/pull/"} {
		if short, ok := strings.CutPrefix(name, prefix); ok {
			name = short
			break
		}
	}
	return map[string]string{
		"sha":        w.event.SHA,
		"ref":        w.event.Ref,
		"ref_name":   name,
		"event_name": w.event.Name,
		"repository": w.event.Repository,
		"actor":      w.event.Actor,
	}
}

// maxValueBytes is what one value may expand to. Linux takes no longer environment variable (MAX_ARG_STRLEN).
const maxValueBytes = 128 << 10

// broken stands for a value that could not be had, so that what follows from it is not called a mistake too. No file
// can hold it.
const broken = "\x00"

func isBroken(s string) bool { return strings.Contains(s, broken) }

// expand replaces each ${{ … }} of s by its value.
func (w *workflow) expand(s *actionlint.String, sc scope) string {
	var b strings.Builder
	rest := s.Value
	for n := 0; ; n++ {
		text, after, found := strings.Cut(rest, "${{")
		b.WriteString(text)
		if !found {
			break
		}
		lexer := actionlint.NewExprLexer(after)
		node, err := actionlint.NewExprParser().Parse(lexer)
		if err != nil {
			w.mistakef(w.expressionPos(s, n), "the expression cannot be read: %s", err.Message)
			return broken
		}
		value, mistake := w.evaluate(node, sc)
		if mistake != "" {
			w.mistakef(w.expressionPos(s, n), "%s", mistake)
			value = broken
		}
		b.WriteString(value)
		rest = after[lexer.Offset():]
		if b.Len() > maxValueBytes {
			break
		}
	}
	if b.Len() > maxValueBytes {
		w.mistakef(at(s.Pos), "the value is longer than %d bytes", maxValueBytes)
		return broken
	}
	if *w.budget -= b.Len(); *w.budget < 0 { // job says so
		return broken
	}
	return b.String()
}

// evaluate returns the value of an expression, or what is wrong with it. The subset knows one form: context.name.
func (w *workflow) evaluate(node actionlint.ExprNode, sc scope) (value, mistake string) {
	deref, ok := node.(*actionlint.ObjectDerefNode)
	if !ok {
		return "", unsupported(node)
	}
	context, ok := deref.Receiver.(*actionlint.VariableNode)
	if !ok {
		return "", unsupported(node)
	}
	values, known := map[string]map[string]string{"github": sc.github, "matrix": sc.matrix, "env": sc.env}[context.Name]
	if !known {
		return "", unsupported(node)
	}
	if values == nil {
		if context.Name == "matrix" {
			return "", "there is no matrix here"
		}
		return "", fmt.Sprintf("%s is not available here", context.Name)
	}
	value, ok = values[deref.Property]
	if !ok {
		switch context.Name {
		case "github":
			return "", fmt.Sprintf("github.%s is not supported (supported: sha, ref, ref_name, event_name, repository, actor)", deref.Property)
		case "env":
			return "", fmt.Sprintf("env.%s is not set by this file; what a step sets while it runs is not supported", deref.Property)
		}
		return "", fmt.Sprintf("the matrix has no %q", deref.Property)
	}
	if sc.script && w.pastes(value) {
		return "", fmt.Sprintf("the name of the branch, tag or actor holds characters that a shell interprets, and %s.%s would paste it into a script: "+
			"set a variable with env: and use that", context.Name, deref.Property)
	}
	return value, ""
}

// pastes says whether a value brings text into a script that somebody else than the file's author chose and that a
// shell would interpret, such as a branch named $(id).
func (w *workflow) pastes(value string) bool {
	facts := w.facts()
	for _, foreign := range []string{facts["ref_name"], facts["actor"], facts["repository"]} {
		if strings.Contains(value, foreign) && strings.ContainsFunc(foreign, interpreted) {
			return true
		}
	}
	return false
}

func interpreted(r rune) bool {
	harmless := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/-_.+@:,=%", r) || r > 127
	return !harmless
}

// unsupported names what lies outside the subset.
func unsupported(node actionlint.ExprNode) string {
	var context, function string
	actionlint.VisitExprNode(node, func(n, _ actionlint.ExprNode, entering bool) {
		switch n := n.(type) {
		case *actionlint.FuncCallNode:
			if function == "" {
				function = n.Callee
			}
		case *actionlint.VariableNode:
			if context == "" {
				context = n.Name
			}
		}
	})
	const supported = "(supported: matrix.<name>, env.<NAME>, github.<name>)"
	switch {
	case function != "":
		return fmt.Sprintf("function %.60q is not supported in expressions %s", function, supported)
	case context != "" && context != "matrix" && context != "env" && context != "github":
		return fmt.Sprintf("context %.60q is not supported in expressions %s", context, supported)
	}
	return "this kind of expression is not supported " + supported
}

// expressionPos is the place of the n-th expression of a value, counted from 0. What YAML does to a value (folding,
// indentation, escapes) keeps its expressions in order, so the n-th of the value is the n-th in the file from there.
func (w *workflow) expressionPos(s *actionlint.String, n int) pos {
	start, err := w.offset(at(s.Pos))
	if err != nil {
		return at(s.Pos)
	}
	for range n + 1 {
		i := strings.Index(w.src[start:], "${{")
		if i < 0 { // written with escapes
			return at(s.Pos)
		}
		start += i + len("${{")
	}
	return w.posAt(start - len("${{"))
}
