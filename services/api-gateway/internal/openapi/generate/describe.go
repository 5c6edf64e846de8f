package main

import (
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/auth"
)

// question is what decides how an operation may fail.
type question struct {
	method, path string
	right        auth.Right
}

func (q question) always() bool  { return true }
func (q question) guarded() bool { return q.right != auth.Anybody }
func (q question) named() bool   { return strings.Contains(q.path, "{") }
func (q question) writes() bool  { return q.method != http.MethodGet }
func (q question) changes() bool { return q.writes() && q.named() }

// problems are how operations fail; each is application/problem+json.
var problems = []struct {
	status  int
	name    string
	happens func(question) bool
	meaning string
}{
	{http.StatusBadRequest, "Malformed", question.always, "A parameter, header or body cannot be read, or is not known here; `field` says which."},
	{http.StatusUnauthorized, "Unauthenticated", question.guarded, "Only who sends a token with the right may do this; none came, or a wrong one."},
	{http.StatusForbidden, "Forbidden", question.guarded, "Who asks may not do this."},
	{http.StatusNotFound, "NotFound", question.named, "There is no such thing, or who asks may not know of it."},
	{http.StatusConflict, "Conflict", question.changes, "It is in a state in which this cannot be done."},
	{http.StatusRequestEntityTooLarge, "TooLarge", question.writes, "The body has too many bytes."},
	{http.StatusUnsupportedMediaType, "UnsupportedMediaType", question.writes, "The body is not application/json, or is packed."},
	{http.StatusUnprocessableEntity, "Invalid", question.writes, "A value cannot be, or a key was used for another request; `field` says which."},
	{http.StatusTooManyRequests, "TooManyRequests", question.always, "Too many requests came from here: come again after Retry-After."},
	{http.StatusInternalServerError, "Internal", question.always, "A fault of ours; the log of api-gateway says more under the request's id."},
	{http.StatusServiceUnavailable, "Unavailable", question.always, "The database is away, or the gateway stops: come again after Retry-After."},
}

var capitals = regexp.MustCompile(`[A-Z]`)

// describe says of an operation what can be said of all: a title, who may, and how it fails.
func describe(operation *openapi3.Operation, method, path string, right auth.Right) {
	operation.Security = security(right)
	if operation.Summary == "" { // RunService_CreateRun: Create run
		_, name, _ := strings.Cut(operation.OperationID, "_")
		operation.Summary = name[:1] + capitals.ReplaceAllStringFunc(name[1:], func(c string) string { return " " + strings.ToLower(c) })
	}
	for _, p := range problems {
		if status := strconv.Itoa(p.status); p.happens(question{method, path, right}) && operation.Responses.Value(status) == nil {
			operation.Responses.Set(status, &openapi3.ResponseRef{Ref: refs + "responses/" + p.name})
		}
	}
	operation.Responses.Set("default", &openapi3.ResponseRef{Ref: refs + "responses/Problem"})
}

// addErrors adds the answers that describe names: each is a Problem, with a meaning of its own.
func addErrors(doc *openapi3.T) {
	for _, p := range problems {
		answer := *doc.Components.Responses["Problem"].Value
		meaning := p.meaning
		answer.Description = &meaning
		doc.Components.Responses[p.name] = &openapi3.ResponseRef{Value: &answer}
	}
}

// illustrate puts each example of by_hand.yaml where its namesake is asked for or answered.
func illustrate(doc *openapi3.T) {
	show := func(content openapi3.Content) {
		for _, kind := range content {
			if kind.Schema == nil || kind.Example != nil {
				continue
			}
			if name := strings.TrimPrefix(kind.Schema.Ref, refs+"schemas/"); doc.Components.Examples[name] != nil {
				kind.Examples = openapi3.Examples{"example": {Ref: refs + "examples/" + name}}
			}
		}
	}
	for _, item := range doc.Paths.Map() {
		for _, operation := range item.Operations() {
			if operation.RequestBody != nil {
				show(operation.RequestBody.Value.Content)
			}
			for _, answer := range operation.Responses.Map() {
				if answer.Value != nil {
					show(answer.Value.Content)
				}
			}
		}
	}
	for _, answer := range doc.Components.Responses {
		show(answer.Value.Content)
	}
}
