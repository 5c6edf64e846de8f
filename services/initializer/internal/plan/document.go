package plan

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// shape is what a place in the file may hold. Plain values may be everywhere; of which kind is checked where the
// value is used.
type shape struct {
	what  string            // for messages: a key is not supported in …
	keys  map[string]*shape // of a mapping; "*" stands for every key; nil: no mapping
	items *shape            // of a list; nil: no list
}

// The declared subset: every key that a workflow may have.
var (
	plain = &shape{}
	list  = &shape{items: plain}
	named = func(what string) *shape { return &shape{what: what, keys: map[string]*shape{"*": plain}} }

	document = &shape{what: "a workflow", keys: map[string]*shape{
		"name": plain,
		"on": {what: `"on"`, items: plain, keys: map[string]*shape{
			"push": {what: `"push"`, keys: map[string]*shape{
				"branches": list, "branches-ignore": list, "tags": list, "tags-ignore": list, "paths": list, "paths-ignore": list,
			}},
			"pull_request": {what: `"pull_request"`, keys: map[string]*shape{
				"types": list, "branches": list, "branches-ignore": list, "paths": list, "paths-ignore": list,
			}},
			"workflow_dispatch": {what: `"workflow_dispatch"`, keys: map[string]*shape{}},
		}},
		"env": named(`"env"`),
		"jobs": {what: `"jobs"`, keys: map[string]*shape{"*": {what: "a job", keys: map[string]*shape{
			"name":            plain,
			"needs":           list,
			"runs-on":         list,
			"env":             named(`"env"`),
			"timeout-minutes": plain,
			"strategy": {what: `"strategy"`, keys: map[string]*shape{
				"fail-fast": plain,
				"matrix": {what: `"matrix"`, keys: map[string]*shape{
					"*":       list,
					"include": {items: named(`"include"`)},
					"exclude": {items: named(`"exclude"`)},
				}},
			}},
			"steps": {items: &shape{what: "a step", keys: map[string]*shape{
				"name":              plain,
				"id":                plain,
				"run":               plain,
				"shell":             plain,
				"working-directory": plain,
				"uses":              plain,
				"with":              named(`"with"`),
				"env":               named(`"env"`),
				"timeout-minutes":   plain,
			}}},
		}}}},
	}}
)

// read checks that the file is one plain YAML document of the declared shape. It says whether the document is sound
// enough to look further.
func (w *workflow) read() bool {
	if len(w.src) > maxFileBytes {
		w.mistakef(pos{1, 1}, "the file has %d bytes, the limit is %d", len(w.src), maxFileBytes)
		return false
	}
	if i := notText(w.src); i >= 0 {
		w.mistakef(w.posAt(i), "the file is not plain UTF-8 text: byte 0x%02x (a byte order mark and NUL are not supported)", w.src[i])
		return false
	}
	root, err := decode([]byte(w.src))
	if err != nil {
		var syntax *yaml.ParserError
		if errors.As(err, &syntax) {
			w.mistakef(syntaxPos(syntax), "not YAML: %s", syntax.Message)
		} else {
			w.mistakef(pos{1, 1}, "%s", err)
		}
		return false
	}
	if len(root) > 1 {
		w.mistakef(nodePos(root[1]), "several YAML documents in one file are not supported")
		return false
	}
	return w.check(root[0].Content[0], document, 1)
}

// ofTheGrammar are the mistakes that the decoder's parser finds; the others are its scanner's.
var ofTheGrammar = regexp.MustCompile(`^did not find expected (<|node content|key|'-' indicator|',' or)|^found (undefined tag handle|duplicate %|incompatible YAML)`)

// syntaxPos is where a mistake is, as people count. The decoder counts columns from 0; and lines too, save that the
// scanner's count from 1 behind the first (go.yaml.in/yaml/v4 v4.0.0-rc.3, decode.go). Of what begins in the first line
// and goes wrong in a later one it tells the later one.
func syntaxPos(e *yaml.ParserError) pos {
	line := e.Line
	if line == 0 || ofTheGrammar.MatchString(e.Message) {
		line++
	}
	return pos{line, e.Column + 1}
}

// notText returns the index of the first byte that cannot be part of a workflow file, or -1.
func notText(s string) int {
	for i, r := range s {
		if r == 0 || r == '\ufeff' || r == utf8.RuneError && !strings.HasPrefix(s[i:], "\ufffd") {
			return i
		}
	}
	return -1
}

// decode returns the documents of the file, two at most.
func decode(content []byte) (docs []*yaml.Node, err error) {
	defer recovered(&err)
	d := yaml.NewDecoder(bytes.NewReader(content))
	for len(docs) < 2 {
		var n yaml.Node
		if err := d.Decode(&n); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		docs = append(docs, &n)
	}
	if len(docs) == 0 || len(docs[0].Content) == 0 {
		return nil, errors.New("the file is empty")
	}
	return docs, nil
}

// recovered turns a panic of a borrowed parser into an error: its input is hostile, and one file must not stop the
// initializer.
func recovered(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("the parser gave up on this file: %v", r)
	}
}

// check reports what the shape does not allow below n. It returns false if the tree is not sound enough for the
// borrowed checks, which are not made for hostile input: too deep, too wide, aliases, tags.
func (w *workflow) check(n *yaml.Node, s *shape, depth int) bool {
	at := nodePos(n)
	switch {
	case depth > maxDepth:
		w.mistakef(at, "nested more than %d levels deep", maxDepth)
		return false
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		w.mistakef(at, "YAML anchors and aliases are not supported")
		return false
	case n.Style&yaml.TaggedStyle != 0:
		w.mistakef(at, "YAML tags such as %.60q are not supported", n.Tag)
		return false
	case len(n.Content) > 2*maxEntries || n.Kind == yaml.SequenceNode && len(n.Content) > maxEntries:
		w.mistakef(at, "more than %d entries", maxEntries)
		return false
	}

	sound := true
	switch n.Kind {
	case yaml.ScalarNode:
		w.checkScalar(n)
	case yaml.SequenceNode:
		if s != nil && s.items == nil {
			w.mistakef(at, "a list is not supported here")
			s = nil
		}
		for _, c := range n.Content {
			sound = w.check(c, s.item(), depth+1) && sound
		}
	case yaml.MappingNode:
		if s != nil && s.keys == nil {
			w.mistakef(at, "a mapping is not supported here")
			s = nil
		}
		seen := map[string]bool{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			at := nodePos(key)
			switch {
			case key.Kind != yaml.ScalarNode || key.Anchor != "" || key.Style&yaml.TaggedStyle != 0:
				w.mistakef(at, "a key must be plain text")
				return false
			case key.Tag == "!!merge":
				w.mistakef(at, "YAML merge keys are not supported")
				return false
			case strings.ContainsRune(key.Value, 0):
				w.mistakef(at, "NUL is not supported")
				return false
			case seen[key.Value]:
				w.mistakef(at, "key %q appears twice", key.Value)
			case s != nil && s.keys[key.Value] == nil && s.keys["*"] == nil:
				w.mistakef(at, "key %q is not supported in %s (supported: %s)", key.Value, s.what,
					strings.Join(slices.Sorted(maps.Keys(s.keys)), ", "))
			}
			seen[key.Value] = true
			if s == document.keys["on"] && value.Tag == "!!null" {
				continue // `push: null` means what `push:` means
			}
			sound = w.check(value, s.key(key.Value), depth+1) && sound
		}
	}
	return sound
}

// item is the shape of a list's items. Below what is not supported anything goes: one mistake is enough.
func (s *shape) item() *shape {
	if s == nil {
		return nil
	}
	return s.items
}

func (s *shape) key(k string) *shape {
	if s == nil {
		return nil
	}
	if below, ok := s.keys[k]; ok {
		return below
	}
	return s.keys["*"]
}

// checkScalar refuses plain values that mean something else than they look like: GitHub reads 1.20 as the number 1.2
// and 0644 as 644, and different YAML parsers differ.
func (w *workflow) checkScalar(n *yaml.Node) {
	if strings.ContainsRune(n.Value, 0) {
		w.mistakef(nodePos(n), "NUL is not supported")
	}
	if n.Style&^yaml.FlowStyle != 0 { // quoted, or a block
		return
	}
	looks := true
	switch n.Tag {
	case "!!int":
		i, err := strconv.ParseInt(n.Value, 10, 64)
		looks = err == nil && strconv.FormatInt(i, 10) == n.Value
	case "!!float":
		f, err := strconv.ParseFloat(n.Value, 64)
		looks = err == nil && strconv.FormatFloat(f, 'f', -1, 64) == n.Value
	case "!!bool":
		looks = n.Value == "true" || n.Value == "false"
	case "!!null":
		looks = n.Value == ""
	}
	if !looks {
		w.mistakef(nodePos(n), "the plain value %.60s means something else in YAML than it looks like: put it in quotes", n.Value)
	}
}

func nodePos(n *yaml.Node) pos { return pos{n.Line, n.Column} }
