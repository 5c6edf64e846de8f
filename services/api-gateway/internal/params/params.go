// Package params reads the query of a request strictly: nothing in it is passed over.
package params

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
)

// Read returns the parameters, each given once, and refuses those that the route does not know.
func Read(r *http.Request, known ...string) (map[string]string, error) {
	parsed, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, problem.New(http.StatusBadRequest, "invalid_query", "the query cannot be read")
	}
	values := map[string]string{}
	for name, given := range parsed {
		switch {
		case !slices.Contains(known, name):
			return nil, problem.In(name, http.StatusBadRequest, "unknown_parameter", "this route knows no such parameter")
		case len(given) > 1:
			return nil, problem.In(name, http.StatusBadRequest, "invalid_parameter", "give it once")
		}
		values[name] = given[0]
	}
	return values, nil
}

// Number reads decimal digits as they are written, not 0x1, 01 or +1; what is no such number is 0.
func Number(text string) int32 {
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || strconv.FormatInt(n, 10) != text {
		return 0
	}
	return int32(n)
}
