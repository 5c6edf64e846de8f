package rest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
)

const maxBody = 64 << 10 // bytes of a request

// readObject reads a JSON object into fields, which are pointers. A name is taken as it is spelled and once: encoding/json would
// also take REPOSITORY for repository, and the last of two. null is the same as absent. Beside a body there are no parameters.
func readObject(w http.ResponseWriter, r *http.Request, fields map[string]any) error {
	if _, err := query(r); err != nil {
		return err
	}
	if !isJSON(r.Header.Values("Content-Type")) {
		return problem.In("Content-Type", http.StatusUnsupportedMediaType, "unsupported_media_type", "send application/json, in UTF-8")
	}
	text, err := readBody(w, r)
	if err != nil {
		return err
	}
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

func isJSON(types []string) bool {
	if len(types) != 1 {
		return false
	}
	kind, more, err := mime.ParseMediaType(types[0])
	charset, given := more["charset"]
	return err == nil && kind == "application/json" && (!given || strings.EqualFold(charset, "utf-8"))
}

// readNothing refuses a body where none has a meaning; an empty JSON object is none.
func readNothing(w http.ResponseWriter, r *http.Request) error {
	if r.ContentLength == 0 {
		_, err := query(r)
		return err
	}
	return readObject(w, r, nil)
}

func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, err
	case err != nil:
		return nil, problem.New(http.StatusBadRequest, "incomplete_body", "the body did not arrive")
	}
	return body, nil
}

func malformed(err error) error {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return problem.New(http.StatusBadRequest, "invalid_json", fmt.Sprintf("the JSON is wrong at byte %d: %s", syntax.Offset, syntax))
	}
	return problem.New(http.StatusBadRequest, "invalid_json", "the JSON ends too early")
}
