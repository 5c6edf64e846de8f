package graph

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/99designs/gqlgen/graphql"
	"github.com/99designs/gqlgen/graphql/errcode"
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/graph/model"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
)

const (
	maxErrors  = 10  // told of one request
	maxMessage = 500 // bytes of a message that repeats what the client sent
)

// present is an error as GraphQL tells it: the problem's detail as the message, and the rest of it in extensions. What is our
// own fault is logged, and told without its details.
func (h *Handler) present(ctx context.Context, err error) *gqlerror.Error {
	told := &gqlerror.Error{Path: graphql.GetPath(ctx)}
	var from *gqlerror.Error
	if errors.As(err, &from) {
		told.Path, told.Locations = from.Path, from.Locations
	}
	p := problemOf(err, from)
	if p.Status >= http.StatusInternalServerError {
		problem.Log(ctx, h.log, "graphql "+told.Path.String(), err)
	}
	told.Message = p.Detail
	told.Extensions = map[string]any{"code": p.Code, "status": p.Status}
	if p.Field != "" {
		told.Extensions["field"] = fieldName(p.Field)
	}
	return told
}

// problemOf is what an error means. from is the GraphQL error in it, or nil.
func problemOf(err error, from *gqlerror.Error) *problem.Problem {
	var invalid model.Invalid
	switch {
	case from == nil:
	case errors.As(err, &invalid):
		return problem.In(lastName(from.Path), http.StatusBadRequest, "invalid_field", invalid.Error())
	case from.Extensions["code"] == errcode.ParseFailed, from.Extensions["code"] == errcode.ValidationFailed:
		message := strings.ToValidUTF8(from.Message[:min(len(from.Message), maxMessage)], "")
		p := problem.New(http.StatusBadRequest, "invalid_query", message)
		if len(from.Path) > 0 { // of a variable
			p.Field, p.Code = lastName(from.Path), "invalid_variable"
			p.Detail = "variable " + strings.TrimPrefix(from.Path.String(), "variable.") + ": " + message
		}
		return p
	}
	return problem.Of(err)
}

func (h *Handler) presentAll(ctx context.Context, errs gqlerror.List) (told gqlerror.List) {
	for _, err := range errs[:min(len(errs), maxErrors)] {
		told = append(told, h.present(ctx, err))
	}
	return told
}

func lastName(path ast.Path) string {
	for i := len(path) - 1; i >= 0; i-- {
		if name, is := path[i].(ast.PathName); is {
			return string(name)
		}
	}
	return ""
}

// fieldName is what GraphQL calls a field of the definition or a parameter of REST.
func fieldName(name string) string {
	switch name {
	case problem.KeyHeader:
		return "idempotencyKey"
	case "limit":
		return "first"
	case "cursor":
		return "after"
	}
	words := strings.Split(name, "_")
	for i, word := range words[1:] {
		if word != "" {
			words[i+1] = strings.ToUpper(word[:1]) + word[1:]
		}
	}
	return strings.Join(words, "")
}

// refusedStatus is HTTP's word for a request that was not executed.
func refusedStatus(errs gqlerror.List) int {
	status, _ := errs[0].Extensions["status"].(int)
	return cmp.Or(status, http.StatusInternalServerError)
}
