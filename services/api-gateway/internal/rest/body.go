package rest

import (
	"mime"
	"net/http"
	"strings"

	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/params"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
)

const maxBody = 64 << 10 // bytes of a request

// readObject reads a body that is a JSON object into fields (params.Object). Beside a body there are no parameters.
func readObject(w http.ResponseWriter, r *http.Request, fields map[string]any) error {
	if _, err := query(r); err != nil {
		return err
	}
	if !isJSON(r.Header.Values("Content-Type")) {
		return problem.In("Content-Type", http.StatusUnsupportedMediaType, "unsupported_media_type", "send application/json, in UTF-8")
	}
	text, err := params.Body(w, r, maxBody)
	if err != nil {
		return err
	}
	return params.Object(text, fields)
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
