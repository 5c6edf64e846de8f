package webhook

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// unambiguous refuses what is no JSON in UTF-8, and names that an object has twice: encoding/json takes the last of
// them, and KEY for key, where another reader takes the first. Whom to trust must not depend on that.
func unambiguous(text []byte) error {
	if !utf8.Valid(text) {
		return errors.New("it is not UTF-8")
	}
	if !json.Valid(text) { // nor nested deeper than 10,000
		var syntax *json.SyntaxError
		if err := json.Unmarshal(text, new(json.RawMessage)); errors.As(err, &syntax) {
			return fmt.Errorf("the JSON is wrong at byte %d: %w", syntax.Offset, err)
		}
		return errors.New("it is not JSON")
	}
	var open []map[string]bool // the names of each object that is open; nil for an array
	var last string            // the last string: with a colon behind it, it is a name
	for i := 0; i < len(text); i++ {
		switch c := text[i]; c {
		case '{':
			open = append(open, map[string]bool{})
		case '[':
			open = append(open, nil)
		case '}', ']':
			open = open[:len(open)-1]
		case '"':
			start := i
			for i++; text[i] != '"'; i++ {
				if text[i] == '\\' {
					i++
				}
			}
			last = string(text[start : i+1])
		case ':':
			folded, err := fold(last)
			if err != nil {
				return err
			}
			names := open[len(open)-1]
			if names[folded] {
				return fmt.Errorf("the name %s is there twice in one object", clip(last, 100))
			}
			names[folded] = true
		}
	}
	return nil
}

// fold is a quoted name as encoding/json compares it.
func fold(quoted string) (string, error) {
	name := quoted[1 : len(quoted)-1]
	if strings.Contains(name, `\`) {
		if err := json.Unmarshal([]byte(quoted), &name); err != nil {
			return "", err
		}
	}
	return strings.ToLower(strings.ToUpper(name)), nil // upper first: ſ is S, and K (Kelvin) is k
}
