package graph

import (
	"context"
	"fmt"

	"github.com/99designs/gqlgen/graphql"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	lockstepv1 "github.com/lockstep-ci/lockstep/services/api-gateway/gen/lockstep/v1"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/api"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/graph/generated"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/graph/model"
)

// root resolves what the messages do not hold already.
type root struct{ service *api.Service }

type (
	query        struct{ *api.Service }
	mutation     struct{ *api.Service }
	subscription struct{ *api.Service }
	run          struct{}
	queuedJob    struct{}
)

func (r root) Query() generated.QueryResolver               { return query{r.service} }
func (r root) Mutation() generated.MutationResolver         { return mutation{r.service} }
func (r root) Subscription() generated.SubscriptionResolver { return subscription{r.service} }
func (root) Run() generated.RunResolver                     { return run{} }
func (root) QueuedJob() generated.QueuedJobResolver         { return queuedJob{} }

func (q query) Run(ctx context.Context, id string) (*lockstepv1.Run, error) {
	found, err := lookupsOf(ctx).runs.get(ctx, id)
	if err == nil && found == nil {
		err = fmt.Errorf("read run %.30q: %w", id, jobs.ErrNotFound)
	}
	return found, err
}

func (q query) Job(ctx context.Context, id string) (*model.Job, error) {
	found, err := lookupsOf(ctx).jobs.get(ctx, id)
	if err != nil {
		return nil, err
	}
	for _, job := range found.GetJobs() {
		if job.GetId() == id {
			return &model.Job{Job: job, Run: found}, nil
		}
	}
	return nil, fmt.Errorf("read job %.30q: %w", id, jobs.ErrNotFound)
}

func (q query) Runs(ctx context.Context, first *int32, after *string, filter *model.RunFilter) (*model.RunConnection, error) {
	request := &lockstepv1.ListRunsRequest{Limit: given(first), Cursor: after}
	if f := filter; f != nil {
		request.Repository, request.Status, request.Event, request.Ref, request.PullRequest = f.Repository, f.Status, f.Event, f.Ref, f.PullRequest
	}
	list := q.ListBareRuns
	if graphql.FieldRequested(ctx, "edges.node.jobs") || graphql.FieldRequested(ctx, "edges.node.version") {
		list = q.ListRuns
	}
	page, err := list(ctx, request)
	if err != nil {
		return nil, err
	}
	connection := &model.RunConnection{PageInfo: &model.PageInfo{HasNextPage: page.NextCursor != nil, HasPreviousPage: after != nil}}
	for _, r := range page.GetRuns() {
		connection.Edges = append(connection.Edges, &model.RunEdge{Cursor: api.RunCursor(r.GetId()), Node: r})
	}
	if n := len(connection.Edges); n > 0 {
		connection.PageInfo.StartCursor, connection.PageInfo.EndCursor = &connection.Edges[0].Cursor, &connection.Edges[n-1].Cursor
	}
	if page.NextCursor != nil { // it may be behind runs that do not fit
		connection.PageInfo.EndCursor = page.NextCursor
	}
	return connection, nil
}

func (q query) Queue(ctx context.Context, first *int32) (*lockstepv1.ListQueueResponse, error) {
	found, err := q.ListQueue(ctx, &lockstepv1.ListQueueRequest{Limit: given(first)})
	if err == nil && graphql.FieldRequested(ctx, "jobs.run") {
		var ids []string
		for _, job := range found.GetJobs() {
			ids = append(ids, job.GetRunId())
		}
		lookupsOf(ctx).runs.want(ids)
	}
	return found, err
}

func (q query) Workers(ctx context.Context) ([]*lockstepv1.Worker, error) {
	found, err := q.ListWorkers(ctx, &lockstepv1.ListWorkersRequest{})
	return found.GetWorkers(), err
}

func (q query) RepositoryStats(ctx context.Context, repository string, window *string) (*lockstepv1.GetRepositoryStatsResponse, error) {
	return q.GetRepositoryStats(ctx, &lockstepv1.GetRepositoryStatsRequest{Repository: repository, Window: window})
}

func (queuedJob) Run(ctx context.Context, job *lockstepv1.QueuedJob) (*lockstepv1.Run, error) {
	return lookupsOf(ctx).runs.get(ctx, job.GetRunId())
}

func (run) Jobs(_ context.Context, r *lockstepv1.Run) ([]*model.Job, error) {
	found := make([]*model.Job, len(r.GetJobs()))
	for i, job := range r.GetJobs() {
		found[i] = &model.Job{Job: job, Run: r}
	}
	return found, nil
}

func (m mutation) CreateRun(ctx context.Context, repository string, ref, sha, idempotencyKey *string) (*lockstepv1.CreateRunResponse, error) {
	request := &lockstepv1.CreateRunRequest{Repository: repository, IdempotencyKey: idempotencyKey}
	if ref != nil {
		request.Ref = *ref
	}
	if sha != nil {
		request.Sha = *sha
	}
	return m.Service.CreateRun(ctx, request)
}

func (m mutation) CancelRun(ctx context.Context, id string) (*lockstepv1.CancelRunResponse, error) {
	return m.Service.CancelRun(ctx, &lockstepv1.CancelRunRequest{Id: id})
}

func (m mutation) RerunRun(ctx context.Context, id string, idempotencyKey *string) (*lockstepv1.RerunRunResponse, error) {
	return m.Service.RerunRun(ctx, &lockstepv1.RerunRunRequest{Id: id, IdempotencyKey: idempotencyKey})
}

func (s subscription) RunChanged(ctx context.Context, id string, afterVersion *int64) (<-chan *lockstepv1.Run, error) {
	return stream(ctx, func(send func(*lockstepv1.Run) error) error {
		return s.WatchRun(ctx, &lockstepv1.WatchRunRequest{Id: id, AfterVersion: afterVersion}, func(m *lockstepv1.WatchRunResponse) error {
			return send(m.GetRun())
		})
	})
}

func (s subscription) LogLines(ctx context.Context, jobID string, from *lockstepv1.LogPosition) (<-chan *lockstepv1.FollowLogResponse, error) {
	return stream(ctx, func(send func(*lockstepv1.FollowLogResponse) error) error {
		return s.FollowLog(ctx, &lockstepv1.FollowLogRequest{JobId: jobID, From: from}, func(piece *lockstepv1.FollowLogResponse) error {
			if piece != nil && piece.Data == nil {
				piece.Data = []byte{} // nil would be null
			}
			return send(piece)
		})
	})
}

// given makes null what cannot be: GraphQL gives a default for what is absent, and nil for null.
func given(first *int32) *int32 {
	if first == nil {
		return new(int32)
	}
	return first
}
