// Package openapi serves the description of the REST API, which is made from the definition (proto/generate).
package openapi

import (
	_ "embed"
	"net/http"

	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/params"
)

//go:generate ../../proto/generate

// Document is the description, OpenAPI as JSON.
//
//go:embed openapi.json
var Document []byte

// Serve answers GET /api/v1/openapi.json.
func Serve(w http.ResponseWriter, r *http.Request) error {
	if _, err := params.Read(r); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-cache")
	_, _ = w.Write(Document) // a client that has gone needs no answer
	return nil
}
