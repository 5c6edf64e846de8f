// Command generate writes openapi.json: what protoc-gen-openapi made of the definition, set right where the REST API is not what
// the plugin takes it for (64-bit numbers are numbers, fields are always there, some answers are a field of the message), and
// with by_hand.yaml. What a route needs is taken from package auth.
//
//	generate <openapi.yaml of the plugin> <openapi.json>
package main

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	lockstepv1 "github.com/lockstep-ci/lockstep/services/api-gateway/gen/lockstep/v1"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/auth"
)

const (
	definition = protoreflect.FullName("lockstep.v1")
	key        = "idempotency_key" // a header in REST
	refs       = "#/components/"
)

// statuses of calls that do not answer 200.
var statuses = map[string]int{
	"RunService_CreateRun":     http.StatusCreated,
	"RunService_RerunRun":      http.StatusCreated,
	"RunService_CancelRun":     http.StatusAccepted,
	"TokenService_CreateToken": http.StatusCreated,
}

// required are the fields without which a request cannot be.
var required = map[string][]string{
	"CreateRunRequest":   {"repository"},
	"CreateTokenRequest": {"name", "scope"},
}

//go:embed by_hand.yaml
var byHand []byte

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "openapi:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: generate <openapi.yaml> <openapi.json>")
	}
	_ = lockstepv1.File_lockstep_v1_run_proto // the descriptors are registered by the package
	made, err := openapi3.NewLoader().LoadFromFile(args[0])
	if err != nil {
		return fmt.Errorf("read %s: %w", args[0], err)
	}
	doc, err := openapi3.NewLoader().LoadFromData(byHand)
	if err != nil {
		return fmt.Errorf("read by_hand.yaml: %w", err)
	}
	doc.Tags = append(doc.Tags, made.Tags...)
	slices.SortFunc(doc.Tags, func(a, b *openapi3.Tag) int { return strings.Compare(a.Name, b.Name) })
	for path, item := range made.Paths.Map() {
		for _, operation := range item.Operations() {
			if err := correct(operation); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
		}
		doc.Paths.Set(path, item)
	}
	for path, item := range doc.Paths.Map() {
		for method, operation := range item.Operations() {
			describe(operation, method, path, auth.Needs(method+" "+path))
		}
	}
	for name, schema := range made.Components.Schemas {
		if err := complete(name, schema.Value); err != nil {
			return err
		}
		doc.Components.Schemas[name] = schema
	}
	for name := range made.Components.Schemas { // answers that are a field of the message
		if used, err := uses(doc, name); err != nil {
			return err
		} else if !used {
			delete(doc.Components.Schemas, name)
		}
	}
	addErrors(doc)
	illustrate(doc)
	text, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return fmt.Errorf("write the document: %w", err)
	}
	return os.WriteFile(args[1], append(text, '\n'), 0o644)
}

// correct makes a call's parameters and answers those of REST.
func correct(operation *openapi3.Operation) error {
	service, name, _ := strings.Cut(operation.OperationID, "_")
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(definition.Append(protoreflect.Name(service)).Append(protoreflect.Name(name)))
	if err != nil {
		return fmt.Errorf("find %s: %w", operation.OperationID, err)
	}
	method, is := found.(protoreflect.MethodDescriptor)
	if !is {
		return fmt.Errorf("%s is no method", operation.OperationID)
	}
	rule, _ := proto.GetExtension(method.Options(), annotations.E_Http).(*annotations.HttpRule)

	var parameters openapi3.Parameters
	for _, p := range operation.Parameters {
		switch p.Value.Name {
		case "id":
			p = &openapi3.ParameterRef{Ref: refs + "parameters/id"}
		case "limit":
			p.Value.Schema.Value.WithMin(1).WithMax(100)
		case "window":
			p.Value.Schema.Value.WithEnum("24h", "7d", "30d")
		case key:
			continue
		}
		parameters = append(parameters, p)
	}
	answer := &openapi3.Response{Headers: openapi3.Headers{"Cache-Control": header("CacheControl")}}
	if rule.GetGet() != "" {
		parameters = append(parameters, &openapi3.ParameterRef{Ref: refs + "parameters/IfNoneMatch"})
		answer.Headers["ETag"] = header("ETag")
	}
	if method.Input().Fields().ByName(key) != nil {
		parameters = append(parameters, &openapi3.ParameterRef{Ref: refs + "parameters/IdempotencyKey"})
		answer.Headers["Location"], answer.Headers["Idempotent-Replayed"] = header("Location"), header("IdempotentReplayed")
	}
	operation.Parameters = parameters

	message := method.Output()
	if field := rule.GetResponseBody(); field != "" {
		message = message.Fields().ByName(protoreflect.Name(field)).Message()
	}
	description := "OK"
	answer.Description = &description
	answer.Content = openapi3.NewContentWithJSONSchemaRef(&openapi3.SchemaRef{Ref: refs + "schemas/" + string(message.Name())})
	status := statuses[operation.OperationID]
	if status == 0 {
		status = http.StatusOK
	}
	operation.Responses = openapi3.NewResponses(openapi3.WithName(strconv.Itoa(status), answer))
	if rule.GetGet() != "" {
		operation.Responses.Set(strconv.Itoa(http.StatusNotModified), &openapi3.ResponseRef{Ref: refs + "responses/NotModified"})
	}
	return nil
}

// complete says of each field whether it is always there, and what it may be.
func complete(name string, schema *openapi3.Schema) error {
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(definition.Append(protoreflect.Name(name)))
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	message, is := found.(protoreflect.MessageDescriptor)
	if !is {
		return fmt.Errorf("%s is no message", name)
	}
	if strings.HasSuffix(name, "Request") || strings.HasSuffix(name, "Change") { // unknown fields are refused, absent and null ones are empty
		delete(schema.Properties, key)
		schema.Required = required[name]
		no := false
		schema.AdditionalProperties = openapi3.AdditionalProperties{Has: &no}
		for field, property := range schema.Properties {
			property.Value.Nullable = !slices.Contains(schema.Required, field)
		}
		return nil
	}
	for i := range message.Fields().Len() {
		field := message.Fields().Get(i)
		schema.Required = append(schema.Required, string(field.Name()))
		property := schema.Properties[string(field.Name())]
		if property.Ref != "" {
			continue
		}
		property.Value.Nullable = field.HasOptionalKeyword()
		if field.Kind() == protoreflect.Int64Kind {
			property.Value.Type, property.Value.Format = &openapi3.Types{"integer"}, "int64"
		}
	}
	slices.Sort(schema.Required)
	return nil
}

// security is what a right asks for, as the settings are by default: ANONYMOUS_READ lets everybody read.
func security(right auth.Right) *openapi3.SecurityRequirements {
	bearer, session := openapi3.SecurityRequirement{"bearer": {}}, openapi3.SecurityRequirement{"session": {}}
	switch right {
	case auth.Anybody:
		return &openapi3.SecurityRequirements{}
	case auth.Read:
		return &openapi3.SecurityRequirements{bearer, session, {}}
	default:
		return &openapi3.SecurityRequirements{bearer, session}
	}
}

func header(name string) *openapi3.HeaderRef {
	return &openapi3.HeaderRef{Ref: refs + "headers/" + name}
}

// uses reports whether anything refers to a schema.
func uses(doc *openapi3.T, name string) (bool, error) {
	text, err := json.Marshal([]any{doc.Paths, slices.Collect(maps.Values(doc.Components.Schemas))})
	if err != nil {
		return false, fmt.Errorf("look for uses of %s: %w", name, err)
	}
	return strings.Contains(string(text), `"`+refs+"schemas/"+name+`"`), nil
}
