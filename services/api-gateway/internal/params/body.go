package params

import (
	"errors"
	"io"
	"net/http"

	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
)

// Body reads the whole body of a request, which may have so many bytes: *http.MaxBytesError says that it has more.
func Body(w http.ResponseWriter, r *http.Request, most int64) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, err
	case err != nil:
		return nil, problem.New(http.StatusBadRequest, "incomplete_body", "the body did not arrive")
	}
	return body, nil
}
