package webhook

import (
	"encoding/json"
	"fmt"
	"strings"
)

// unambiguous refuses names that an object of a valid JSON text has twice: encoding/json takes the last of them, and KEY for
// key, where another reader takes the first. Whom to trust must not depend on that.
func unambiguous(text []byte) error {
	var names []map[string]bool // of each object that is open, by depth; kept for the next one there
	depth := -1
	var last []byte // the last string: with a colon behind it, it is a name
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '{', '[':
			switch depth++; {
			case depth == len(names):
				names = append(names, map[string]bool{})
			case len(names[depth]) > 200: // to clear a map costs what it ever held
				names[depth] = map[string]bool{}
			default:
				clear(names[depth])
			}
		case '}', ']':
			depth--
		case '"':
			start := i + 1
			for i++; text[i] != '"'; i++ {
				if text[i] == '\\' {
					i++
				}
			}
			last = text[start:i]
		case ':':
			name, err := fold(last)
			if err != nil {
				return err
			}
			if names[depth][name] {
				return fmt.Errorf("the name %q is there twice in one object", clip(name, 100))
			}
			names[depth][name] = true
		}
	}
	return nil
}

// fold is a name, without its quotes, as encoding/json compares it.
func fold(name []byte) (string, error) {
	plain := true
	for _, c := range name {
		plain = plain && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_')
	}
	text := string(name)
	if plain {
		return text, nil
	}
	if strings.Contains(text, `\`) {
		if err := json.Unmarshal([]byte(`"`+text+`"`), &text); err != nil {
			return "", err
		}
	}
	return strings.ToLower(strings.ToUpper(text)), nil // upper first: ſ is S, and K (Kelvin) is k
}
