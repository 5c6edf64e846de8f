package graph

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/99designs/gqlgen/graphql"
	"github.com/vektah/gqlparser/v2/ast"

	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/auth"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/graph/model"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
)

const (
	maxTokens          = 1500    // of a document: what the validator compares grows with their square, to 0.3 s here
	maxDepth           = 12      // of fields in fields
	maxDepthOfSchema   = 20      // below __schema and __type; the validator bounds the lists among them
	maxRootFields      = 50      // of an operation
	maxAliases         = 50      // likewise
	maxCost            = 200_000 // likewise: values in the answer, as estimated
	maxPage            = 100     // what api takes as `first`; more is refused there
	estimatedListItems = 10      // in a list that has no `first`
	rootCost           = 10_000  // of a root field beside its values: most are read, or written, by statements of their own
)

// judge bounds what an operation asks for. A value in the answer costs 1; what lies in a list costs as often as the list is long.
// Runs and jobs that are asked for by id are read together (lookups).
func judge(operation *graphql.OperationContext) error {
	j := &judged{variables: operation.Variables}
	if err := j.fields(operation.Operation.SelectionSet, nil, 1, 1); err != nil {
		return err
	}
	if operation.Operation.Operation == ast.Subscription && (j.roots != 1 || j.ofSchema) {
		return problem.New(http.StatusBadRequest, "invalid_query", "subscribe to exactly one field")
	}
	if j.roots > maxRootFields {
		return tooMuch("too_many_fields", "ask for at most %d root fields at once", maxRootFields)
	}
	return nil
}

type judged struct {
	variables            map[string]any
	roots, aliases, cost int
	ofSchema             bool // a root field tells of the schema
}

func tooMuch(code, detail string, limit int) error {
	return problem.New(http.StatusBadRequest, code, fmt.Sprintf(detail, limit))
}

// fields judges what is selected in parent (nil: the root), times so many objects. Fragments are walked wherever they are
// spread: the cost ends that as well.
func (j *judged) fields(selected ast.SelectionSet, parent *ast.Field, depth, times int) error {
	for _, selection := range selected {
		var err error
		switch s := selection.(type) {
		case *ast.Field:
			err = j.field(s, parent, depth, times)
		case *ast.InlineFragment:
			err = j.fields(s.SelectionSet, parent, depth, times)
		case *ast.FragmentSpread:
			if j.cost++; j.cost <= maxCost {
				err = j.fields(s.Definition.SelectionSet, parent, depth, times)
			}
		}
		if err == nil && j.cost > maxCost {
			err = tooMuch("query_too_expensive", "the answer might have more than %d values: ask for fewer with `first`, or for fewer fields", maxCost)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (j *judged) field(f, parent *ast.Field, depth, times int) error {
	ofSchema := strings.HasPrefix(f.ObjectDefinition.Name, "__") || strings.HasPrefix(f.Name, "__")
	deepest := maxDepth
	if ofSchema {
		deepest = maxDepthOfSchema
	}
	if depth > deepest {
		return tooMuch("query_too_deep", "fields may lie in at most %d others", deepest)
	}
	if parent == nil {
		j.roots++
		j.ofSchema = j.ofSchema || ofSchema
		if f.Name != "run" && f.Name != "job" && !ofSchema {
			j.cost += rootCost
		}
	}
	if f.Alias != f.Name {
		if j.aliases++; j.aliases > maxAliases {
			return tooMuch("too_many_aliases", "use at most %d aliases", maxAliases)
		}
	}
	if f.Definition.Type.Elem != nil && (parent == nil || parent.Arguments.ForName("first") == nil && parent.Definition.Arguments.ForName("first") == nil) {
		times *= estimatedListItems
	}
	if f.Definition.Arguments.ForName("first") != nil {
		times *= j.page(f)
	}
	j.cost += times
	return j.fields(f.SelectionSet, f, depth+1, times)
}

// page is how many a field with `first` asks for.
func (j *judged) page(f *ast.Field) int {
	switch first := f.ArgumentMap(j.variables)["first"].(type) {
	case int64:
		if 0 < first && first < maxPage {
			return int(first)
		}
	case json.Number:
		if n, err := first.Int64(); err == nil && 0 < n && n < maxPage {
			return int(n)
		}
	}
	return maxPage
}

// require refuses an operation unless whoever sends it may have each of its root fields. What the table of rights lacks nobody
// may; what tells of the schema everybody may who came this far.
func require(ctx context.Context, operation *graphql.OperationContext) error {
	kind := strings.ToUpper(string(operation.Operation.Operation[:1])) + string(operation.Operation.Operation[1:])
	for _, f := range graphql.CollectFields(operation, operation.Operation.SelectionSet, []string{kind}) {
		if strings.HasPrefix(f.Name, "__") {
			continue
		}
		if err := auth.Require(ctx, auth.Needs("graphql "+kind+"."+f.Name)); err != nil {
			return err
		}
	}
	return nil
}

// rootIDs are the ids that root fields of one name ask for.
func rootIDs(operation *graphql.OperationContext, name string) (ids []string) {
	for _, f := range graphql.CollectFields(operation, operation.Operation.SelectionSet, []string{"Query"}) {
		if f.Name == name {
			if id, err := model.UnmarshalID(f.ArgumentMap(operation.Variables)["id"]); err == nil {
				ids = append(ids, id)
			}
		}
	}
	return ids
}
