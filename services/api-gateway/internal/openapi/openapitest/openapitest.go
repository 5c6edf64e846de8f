// Package openapitest holds what the REST API answers to tests against the document that describes it.
package openapitest

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/openapi"
)

// Transport fails a request under /api/v1/ whose answer is not as it is described: status, type and, where it is JSON,
// body (other bodies are streams and files); or that was served and is described otherwise. test/e2e, a module of its own,
// has its like.
type Transport struct{ Next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t Transport) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := t.Next.RoundTrip(request)
	// Without an id it is net/http that has refused what is no request, or far too much.
	if err != nil || !strings.HasPrefix(request.URL.Path, "/api/v1/") || response.Header.Get("X-Request-Id") == "" {
		return response, err
	}
	var body []byte
	if strings.HasSuffix(response.Header.Get("Content-Type"), "json") {
		body, err = io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil {
			return nil, err
		}
		response.Body = io.NopCloser(bytes.NewReader(body))
	}
	if err := check(request, response, body); err != nil {
		_ = response.Body.Close()
		return nil, fmt.Errorf("answer %d is not as openapi.json describes it: %w", response.StatusCode, err)
	}
	return response, nil
}

// described is the document, sharpened: an answer may have no field that it does not name.
var described = sync.OnceValues(func() (routers.Router, error) {
	doc, err := openapi3.NewLoader().LoadFromData(openapi.Document)
	if err != nil {
		return nil, err
	}
	no := false
	for _, schema := range doc.Components.Schemas {
		schema.Value.AdditionalProperties = openapi3.AdditionalProperties{Has: &no}
	}
	openapi3filter.RegisterBodyDecoder("text/event-stream", openapi3filter.RegisteredBodyDecoder("text/plain"))
	return gorillamux.NewRouter(doc)
})

func check(request *http.Request, response *http.Response, body []byte) error {
	router, err := described()
	if err != nil {
		return err
	}
	route, parameters, err := router.FindRoute(request)
	if err != nil {
		if response.StatusCode == http.StatusNotFound || response.StatusCode == http.StatusMethodNotAllowed || request.Method == http.MethodHead {
			return nil
		}
		return err
	}
	asked := &openapi3filter.RequestValidationInput{
		Request: request.Clone(request.Context()), PathParams: parameters, Route: route,
		Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc},
	}
	if response.StatusCode < 300 {
		if request.GetBody != nil {
			if asked.Request.Body, err = request.GetBody(); err != nil {
				return err
			}
		}
		if err := openapi3filter.ValidateRequest(request.Context(), asked); err != nil {
			return err
		}
	}
	return openapi3filter.ValidateResponse(request.Context(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: asked,
		Status:                 response.StatusCode,
		Header:                 response.Header,
		Body:                   io.NopCloser(bytes.NewReader(body)),
		Options:                &openapi3filter.Options{IncludeResponseStatus: true},
	})
}
