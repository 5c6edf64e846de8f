package params

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"unicode/utf8"

	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
)

// Object reads a JSON object into fields, which are pointers. A name is taken as it is spelled and once: encoding/json would
// also take REPOSITORY for repository, and the last of two. null is the same as absent. Every error is a *problem.Problem.
func Object(text []byte, fields map[string]any) error {
	if !utf8.Valid(text) {
		return problem.New(http.StatusBadRequest, "invalid_json", "the body is not UTF-8")
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	token, err := decoder.Token()
	if err != nil || token != json.Delim('{') {
		return problem.New(http.StatusBadRequest, "invalid_json", "the body must be one JSON object")
	}
	seen := map[string]bool{}
	for decoder.More() {
		token, err := decoder.Token()
		name, isName := token.(string)
		if err != nil || !isName {
			return malformed(err)
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return malformed(err)
		}
		field, known := fields[name]
		switch {
		case !known:
			return problem.In(name, http.StatusBadRequest, "unknown_field", "this request knows no such field")
		case seen[name]:
			return problem.In(name, http.StatusBadRequest, "invalid_field", "is there twice")
		case json.Unmarshal(value, field) != nil:
			return problem.In(name, http.StatusBadRequest, "invalid_field", "must be "+wanted(field))
		}
		seen[name] = true
	}
	if _, err := decoder.Token(); err != nil { // the closing brace
		return malformed(err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return problem.New(http.StatusBadRequest, "invalid_json", "something follows the JSON object")
	}
	return nil
}

// wanted is in words what a field may be.
func wanted(field any) string {
	switch field.(type) {
	case **int32:
		return "a whole number, at most 2147483647"
	case **float64:
		return "a number"
	case **bool:
		return "true or false"
	}
	return "a string"
}

func malformed(err error) error {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return problem.New(http.StatusBadRequest, "invalid_json", fmt.Sprintf("the JSON is wrong at byte %d: %s", syntax.Offset, syntax))
	}
	return problem.New(http.StatusBadRequest, "invalid_json", "the JSON ends too early")
}
