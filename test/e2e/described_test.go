package e2e_test

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
)

// described fails a request under /api/v1/ whose answer is not as the gateway's own openapi.json describes it: status, type
// and, where it is JSON, body (other bodies are streams and logs). Some tests ask again after any error: what it found, it
// keeps for the end.
type described struct {
	next   http.RoundTripper
	mu     sync.Mutex
	router routers.Router // nil before the first request
	found  []error
}

func (d *described) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := d.next.RoundTrip(request)
	if err != nil || !strings.HasPrefix(request.URL.Path, "/api/v1/") {
		return response, err
	}
	var body []byte
	if strings.HasSuffix(response.Header.Get("Content-Type"), "json") {
		body, err = io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil { // it was killed, perhaps
			return nil, err
		}
		response.Body = io.NopCloser(bytes.NewReader(body))
	}
	router, err := d.read(request)
	if err != nil {
		_ = response.Body.Close()
		return nil, err
	}
	if err := check(router, request, response, body); err != nil {
		_ = response.Body.Close()
		err = fmt.Errorf("%s %s answers %d and is described otherwise: %w", request.Method, request.URL, response.StatusCode, err)
		d.mu.Lock()
		defer d.mu.Unlock()
		d.found = append(d.found, err)
		return nil, err
	}
	return response, nil
}

// read asks the gateway of a request for the document, once.
func (d *described) read(request *http.Request) (routers.Router, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.router != nil {
		return d.router, nil
	}
	ask, err := http.NewRequestWithContext(request.Context(), http.MethodGet, "http://"+request.URL.Host+"/api/v1/openapi.json", nil)
	if err != nil {
		return nil, err
	}
	response, err := d.next.RoundTrip(ask)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	doc, err := openapi3.NewLoader().LoadFromData(text)
	if err != nil {
		return nil, fmt.Errorf("read openapi.json: %w", err)
	}
	no := false
	for _, schema := range doc.Components.Schemas { // an answer may have no field that it does not name
		schema.Value.AdditionalProperties = openapi3.AdditionalProperties{Has: &no}
	}
	openapi3filter.RegisterBodyDecoder("text/event-stream", openapi3filter.RegisteredBodyDecoder("text/plain"))
	d.router, err = gorillamux.NewRouter(doc)
	return d.router, err
}

func check(router routers.Router, request *http.Request, response *http.Response, body []byte) error {
	route, parameters, err := router.FindRoute(request)
	if err != nil {
		return err
	}
	return openapi3filter.ValidateResponse(request.Context(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: request, PathParams: parameters, Route: route},
		Status:                 response.StatusCode,
		Header:                 response.Header,
		Body:                   io.NopCloser(bytes.NewReader(body)),
		Options:                &openapi3filter.Options{IncludeResponseStatus: true},
	})
}
