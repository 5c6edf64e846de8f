package api

import (
	"math"
	"net/http"
	"strconv"

	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/runs"
)

const (
	defaultLimit = 20 // of a list
	maxLimit     = 100
)

// page is the part of a list that is asked for: what has an id below before, the highest first.
type page struct {
	kind   string
	before int64
	limit  int
}

// readPage reads which part of a list is wanted; kind is what the list is of.
func readPage(kind string, limit *int32, cursor *string) (page, error) {
	n, err := pageLimit(limit)
	if err != nil {
		return page{}, err
	}
	p := page{kind, math.MaxInt64, int(n)}
	if cursor != nil {
		last, ours := openCursor(*cursor, kind)
		id, valid := runs.ParseID(last)
		if !ours || !valid {
			return page{}, badCursor()
		}
		p.before = id
	}
	return p, nil
}

// cut takes the page out of what was found, one more than its limit, and the cursor of the page behind it.
func cut[T any](p page, found []T, id func(T) string) ([]T, *string) {
	if len(found) <= p.limit {
		return found, nil
	}
	return found[:p.limit], sealCursor(p.kind, id(found[p.limit-1]))
}

func pageLimit(asked *int32) (int32, error) {
	switch {
	case asked == nil:
		return defaultLimit, nil
	case *asked < 1 || *asked > maxLimit:
		return 0, problem.In("limit", http.StatusBadRequest, "invalid_parameter", "give a number from 1 to "+strconv.Itoa(maxLimit))
	}
	return *asked, nil
}
