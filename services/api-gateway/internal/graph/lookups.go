package graph

import (
	"context"
	"sync"

	"github.com/99designs/gqlgen/graphql"

	lockstepv1 "github.com/lockstep-ci/lockstep/services/api-gateway/gen/lockstep/v1"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/api"
)

// lookups are what one operation asks for by id. It is known before the first of them is answered (the root fields by the
// operation, the runs of a list with the list), so all are read at once, without waiting for more to come as a DataLoader must.
type lookups struct {
	runs batch // by their id
	jobs batch // the runs that jobs belong to, by the job's id
}

type lookupsKey struct{}

func withLookups(ctx context.Context, service *api.Service, operation *graphql.OperationContext) context.Context {
	return context.WithValue(ctx, lookupsKey{}, &lookups{
		runs: batch{read: service.GetRuns, wanted: rootIDs(operation, "run")},
		jobs: batch{read: service.RunsOfJobs, wanted: rootIDs(operation, "job")},
	})
}

func lookupsOf(ctx context.Context) *lookups {
	l, _ := ctx.Value(lookupsKey{}).(*lookups) // every operation has it
	return l
}

// batch reads runs, those that are wanted next with the one that is asked for.
type batch struct {
	read func(ctx context.Context, ids []string) (map[string]*lockstepv1.Run, error)

	mu     sync.Mutex // held while reading: whoever asks meanwhile finds what was read
	wanted []string
	found  map[string]*lockstepv1.Run // nil: there is none
}

func (b *batch) want(ids []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wanted = append(b.wanted, ids...)
}

// get returns a run, or nil when there is none.
func (b *batch) get(ctx context.Context, id string) (*lockstepv1.Run, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if run, known := b.found[id]; known {
		return run, nil
	}
	ids := append(b.wanted, id)
	found, err := b.read(ctx, ids)
	if err != nil {
		return nil, err
	}
	if b.found == nil {
		b.found = map[string]*lockstepv1.Run{}
	}
	for _, id := range ids {
		b.found[id] = found[id]
	}
	b.wanted = nil
	return b.found[id], nil
}
