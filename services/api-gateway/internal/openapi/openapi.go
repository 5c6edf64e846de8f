// Package openapi serves the description of the REST API, which is made from the definition (proto/generate).
package openapi

import (
	_ "embed"
	"net/http"
)

//go:generate ../../proto/generate

//go:embed openapi.json
var document []byte

// Serve answers GET /api/v1/openapi.json.
func Serve(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-cache")
	_, _ = w.Write(document) // a client that has gone needs no answer
	return nil
}
