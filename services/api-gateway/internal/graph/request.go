package graph

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"unicode/utf8"

	"github.com/99designs/gqlgen/graphql"

	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/params"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
)

// readRequest reads the body of a POST. Only JSON is read: no form of another site can send it.
func readRequest(w http.ResponseWriter, r *http.Request) (*graphql.RawParams, error) {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "application/json" {
		return nil, problem.In("Content-Type", http.StatusUnsupportedMediaType, "unsupported_media_type", "send application/json")
	}
	if r.URL.RawQuery != "" {
		return nil, problem.New(http.StatusBadRequest, "unknown_parameter", "put everything into the body")
	}
	text, err := params.Body(w, r, maxBody)
	if err != nil {
		return nil, err
	}
	return parseRequest(text)
}

// parseRequest reads {query, variables, operationName, extensions}.
func parseRequest(text []byte) (*graphql.RawParams, error) {
	if bytes.HasPrefix(bytes.TrimLeft(text, " \t\r\n"), []byte("[")) {
		return nil, problem.New(http.StatusBadRequest, "batch_refused", "send one operation a request; it may ask for several root fields")
	}
	if !utf8.Valid(text) {
		return nil, problem.New(http.StatusBadRequest, "invalid_json", "the body is not UTF-8")
	}
	var request struct {
		Query         *string        `json:"query"`
		OperationName *string        `json:"operationName"`
		Variables     map[string]any `json:"variables"`
		Extensions    map[string]any `json:"extensions"` // of the client; none of them means anything here
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&request)
	if err == nil {
		if _, err = decoder.Token(); errors.Is(err, io.EOF) {
			err = nil
		} else {
			err = errors.New("something follows the JSON object")
		}
	}
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrong) && wrong.Field != "":
		return nil, problem.In(wrong.Field, http.StatusBadRequest, "invalid_field", "must not be a JSON "+wrong.Value)
	case err != nil:
		return nil, problem.New(http.StatusBadRequest, "invalid_json", `send {"query": "…", "variables": {…}, "operationName": "…"}: `+err.Error())
	case request.Extensions["persistedQuery"] != nil:
		return nil, problem.In("extensions", http.StatusBadRequest, "persisted_query_not_supported", "send the query itself")
	case request.Query == nil || *request.Query == "":
		return nil, problem.In("query", http.StatusBadRequest, "invalid_field", "give a query or mutation")
	}
	params := &graphql.RawParams{Query: *request.Query, Variables: request.Variables}
	if request.OperationName != nil {
		params.OperationName = *request.OperationName
	}
	return params, nil
}
