// Package rpc serves the definition over Connect, gRPC and gRPC-Web.
package rpc

import (
	"context"
	"errors"
	"net/http"

	"connectrpc.com/connect"
	"go.uber.org/zap"
	"google.golang.org/protobuf/reflect/protoreflect"

	lockstepv1 "github.com/lockstep-ci/lockstep/services/api-gateway/gen/lockstep/v1"
	"github.com/lockstep-ci/lockstep/services/api-gateway/gen/lockstep/v1/lockstepv1connect"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/api"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
)

const maxMessage = 64 << 10 // bytes of a request, unpacked

// Procedure is one way in.
type Procedure struct {
	Path    string
	Streams bool // answers as long as there is something to say
	Handler http.Handler
}

// Procedures lists all that the definition has.
func Procedures(service *api.Service, log *zap.Logger) []Procedure {
	options := []connect.HandlerOption{connect.WithReadMaxBytes(maxMessage), connect.WithInterceptors(explain{log})}
	_, runs := lockstepv1connect.NewRunServiceHandler(streams{service}, options...)
	_, jobs := lockstepv1connect.NewJobServiceHandler(streams{service}, options...)
	_, queue := lockstepv1connect.NewQueueServiceHandler(service, options...)
	_, repositories := lockstepv1connect.NewRepositoryServiceHandler(service, options...)
	_, approvals := lockstepv1connect.NewApprovalServiceHandler(service, options...)
	_, tokens := lockstepv1connect.NewTokenServiceHandler(service, options...)
	_, audit := lockstepv1connect.NewAuditServiceHandler(service, options...)

	var procedures []Procedure
	add := func(file protoreflect.FileDescriptor, handler http.Handler) {
		services := file.Services()
		for i := range services.Len() {
			methods := services.Get(i).Methods()
			for j := range methods.Len() {
				path := "/" + string(services.Get(i).FullName()) + "/" + string(methods.Get(j).Name())
				procedures = append(procedures, Procedure{path, methods.Get(j).IsStreamingServer(), handler})
			}
		}
	}
	add(lockstepv1.File_lockstep_v1_run_proto, runs)
	add(lockstepv1.File_lockstep_v1_job_proto, jobs)
	add(lockstepv1.File_lockstep_v1_queue_proto, queue)
	add(lockstepv1.File_lockstep_v1_repository_proto, repositories)
	add(lockstepv1.File_lockstep_v1_approval_proto, approvals)
	add(lockstepv1.File_lockstep_v1_token_proto, tokens)
	add(lockstepv1.File_lockstep_v1_audit_proto, audit)
	return procedures
}

// streams gives the service's streams the shape that Connect has for them.
type streams struct{ *api.Service }

func (s streams) WatchRun(ctx context.Context, request *lockstepv1.WatchRunRequest, to *connect.ServerStream[lockstepv1.WatchRunResponse]) error {
	return s.Service.WatchRun(ctx, request, to.Send)
}

func (s streams) FollowLog(ctx context.Context, request *lockstepv1.FollowLogRequest, to *connect.ServerStream[lockstepv1.FollowLogResponse]) error {
	return s.Service.FollowLog(ctx, request, to.Send)
}

// explain turns errors into what clients are told of them.
type explain struct{ log *zap.Logger }

func (e explain) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, request connect.AnyRequest) (connect.AnyResponse, error) {
		answer, err := next(ctx, request)
		if err != nil {
			return nil, e.tell(ctx, request.Spec().Procedure, err)
		}
		return answer, nil
	}
}

func (e explain) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		if err := next(ctx, conn); err != nil {
			return e.tell(ctx, conn.Spec().Procedure, err)
		}
		return nil
	}
}

func (e explain) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next // we are no client
}

func (e explain) tell(ctx context.Context, procedure string, err error) error {
	var told *connect.Error
	if errors.As(err, &told) { // Connect's own: a message that cannot be read or sent
		return err
	}
	problem.Log(ctx, e.log, procedure, err)
	return problem.RPC(ctx, err)
}
