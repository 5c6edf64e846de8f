package main_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	lockstepv1 "github.com/lockstep-ci/lockstep/services/api-gateway/gen/lockstep/v1"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/wire"
)

// rpc is a client that calls procedures: a real gRPC one, or Connect in one of its protocols.
type rpc struct {
	name string
	// call is a unary call.
	call func(ctx context.Context, procedure string, request, answer proto.Message) error
	// stream calls a procedure and hands each of its answers to next, a fresh one each time, until it ends.
	stream func(ctx context.Context, procedure string, request proto.Message, fresh func() proto.Message, next func(proto.Message)) error
}

// rpcs are all ways to call a procedure. With an empty token they say nothing about themselves.
func (g *gateway) rpcs(token string) []rpc {
	clients := []rpc{g.grpc(token)}
	for name, options := range map[string][]connect.ClientOption{
		"Connect, protobuf": nil,
		"Connect, JSON":     {connect.WithProtoJSON()},
		"gRPC-Web":          {connect.WithGRPCWeb()},
		"Connect's gRPC":    {connect.WithGRPC()},
	} {
		clients = append(clients, g.connect(name, token, options))
	}
	return clients
}

func (g *gateway) grpc(token string) rpc {
	g.t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+g.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = conn.Close() })
	as := func(ctx context.Context) context.Context {
		if token == "" {
			return ctx
		}
		return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	return rpc{
		name: "gRPC",
		call: func(ctx context.Context, procedure string, request, answer proto.Message) error {
			return conn.Invoke(as(ctx), procedure, request, answer)
		},
		stream: func(ctx context.Context, procedure string, request proto.Message, fresh func() proto.Message, next func(proto.Message)) error {
			stream, err := conn.NewStream(as(ctx), &grpc.StreamDesc{ServerStreams: true}, procedure)
			if err != nil {
				return err
			}
			if err := stream.SendMsg(request); err != nil {
				return err
			}
			if err := stream.CloseSend(); err != nil {
				return err
			}
			for {
				answer := fresh()
				if err := stream.RecvMsg(answer); err != nil {
					if isEnd(err) {
						return nil
					}
					return err
				}
				next(answer)
			}
		},
	}
}

func (g *gateway) connect(name, token string, options []connect.ClientOption) rpc {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: &protocols}
	g.t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: bearer{token, transport}}
	if name == "Connect, JSON" { // as a browser calls
		client.Transport = bearer{token, http.DefaultTransport}
	}
	return rpc{
		name: name,
		call: func(ctx context.Context, procedure string, request, answer proto.Message) error {
			return unary(ctx, client, g.url()+procedure, options, request, answer)
		},
		stream: func(ctx context.Context, procedure string, request proto.Message, _ func() proto.Message, next func(proto.Message)) error {
			switch r := request.(type) {
			case *lockstepv1.WatchRunRequest:
				return streamed[lockstepv1.WatchRunRequest, lockstepv1.WatchRunResponse](ctx, client, g.url()+procedure, options, r, func(m *lockstepv1.WatchRunResponse) { next(m) })
			case *lockstepv1.FollowLogRequest:
				return streamed[lockstepv1.FollowLogRequest, lockstepv1.FollowLogResponse](ctx, client, g.url()+procedure, options, r, func(m *lockstepv1.FollowLogResponse) { next(m) })
			}
			return errors.New("no stream takes this request")
		},
	}
}

func streamed[Req, Res any](ctx context.Context, client *http.Client, url string, options []connect.ClientOption, request *Req, next func(*Res)) error {
	stream, err := connect.NewClient[Req, Res](client, url, options...).CallServerStream(ctx, connect.NewRequest(request))
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }()
	for stream.Receive() {
		answer := proto.Clone(any(stream.Msg()).(proto.Message))
		next(any(answer).(*Res))
	}
	return stream.Err()
}

// unary finds the types of a call by its request.
func unary(ctx context.Context, client *http.Client, url string, options []connect.ClientOption, request, answer proto.Message) error {
	switch r := request.(type) {
	case *lockstepv1.CreateRunRequest:
		return called[lockstepv1.CreateRunRequest, lockstepv1.CreateRunResponse](ctx, client, url, options, r, answer)
	case *lockstepv1.ListRunsRequest:
		return called[lockstepv1.ListRunsRequest, lockstepv1.ListRunsResponse](ctx, client, url, options, r, answer)
	case *lockstepv1.GetRunRequest:
		return called[lockstepv1.GetRunRequest, lockstepv1.GetRunResponse](ctx, client, url, options, r, answer)
	case *lockstepv1.CancelRunRequest:
		return called[lockstepv1.CancelRunRequest, lockstepv1.CancelRunResponse](ctx, client, url, options, r, answer)
	case *lockstepv1.RerunRunRequest:
		return called[lockstepv1.RerunRunRequest, lockstepv1.RerunRunResponse](ctx, client, url, options, r, answer)
	case *lockstepv1.GetJobRequest:
		return called[lockstepv1.GetJobRequest, lockstepv1.GetJobResponse](ctx, client, url, options, r, answer)
	case *lockstepv1.ListQueueRequest:
		return called[lockstepv1.ListQueueRequest, lockstepv1.ListQueueResponse](ctx, client, url, options, r, answer)
	case *lockstepv1.ListWorkersRequest:
		return called[lockstepv1.ListWorkersRequest, lockstepv1.ListWorkersResponse](ctx, client, url, options, r, answer)
	case *lockstepv1.GetRepositoryStatsRequest:
		return called[lockstepv1.GetRepositoryStatsRequest, lockstepv1.GetRepositoryStatsResponse](ctx, client, url, options, r, answer)
	case *lockstepv1.ListRepositoriesRequest:
		return called[lockstepv1.ListRepositoriesRequest, lockstepv1.ListRepositoriesResponse](ctx, client, url, options, r, answer)
	case *lockstepv1.GetRepositoryRequest:
		return called[lockstepv1.GetRepositoryRequest, lockstepv1.GetRepositoryResponse](ctx, client, url, options, r, answer)
	case *lockstepv1.UpdateRepositoryRequest:
		return called[lockstepv1.UpdateRepositoryRequest, lockstepv1.UpdateRepositoryResponse](ctx, client, url, options, r, answer)
	case *lockstepv1.ListApprovalsRequest:
		return called[lockstepv1.ListApprovalsRequest, lockstepv1.ListApprovalsResponse](ctx, client, url, options, r, answer)
	case *lockstepv1.GetApprovalRequest:
		return called[lockstepv1.GetApprovalRequest, lockstepv1.GetApprovalResponse](ctx, client, url, options, r, answer)
	case *lockstepv1.ApproveRequest:
		return called[lockstepv1.ApproveRequest, lockstepv1.ApproveResponse](ctx, client, url, options, r, answer)
	case *lockstepv1.RejectRequest:
		return called[lockstepv1.RejectRequest, lockstepv1.RejectResponse](ctx, client, url, options, r, answer)
	}
	return errors.New("no procedure takes this request")
}

func called[Req, Res any](ctx context.Context, client *http.Client, url string, options []connect.ClientOption, request *Req, answer proto.Message) error {
	got, err := connect.NewClient[Req, Res](client, url, options...).CallUnary(ctx, connect.NewRequest(request))
	if err == nil {
		proto.Merge(answer, any(got.Msg).(proto.Message))
	}
	return err
}

// bearer sends a token along.
type bearer struct {
	token string
	next  http.RoundTripper
}

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	if b.token != "" {
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+b.token)
	}
	return b.next.RoundTrip(r)
}

// problem is what a client learns from an error, in the words of REST.
type problem struct {
	RPC                 codes.Code
	Status              int32
	Code, Field, Detail string
	RetryAfter          string
}

// problemOf reads a call's error; its detail must be a Problem.
func problemOf(t *testing.T, err error) problem {
	t.Helper()
	var p problem
	var detail any
	var told *connect.Error
	if errors.As(err, &told) {
		p.RPC, p.RetryAfter = codes.Code(told.Code()), told.Meta().Get("Retry-After")
		for _, d := range told.Details() {
			detail, _ = d.Value()
		}
	} else if s, is := status.FromError(err); is {
		p.RPC = s.Code()
		for _, d := range s.Details() {
			detail = d
		}
	}
	m, is := detail.(*lockstepv1.Problem)
	if !is {
		t.Errorf("%v has no problem as its detail but %T", err, detail)
		return p
	}
	p.Status, p.Code, p.Field, p.Detail = m.GetStatus(), m.GetCode(), m.GetField(), m.GetDetail()
	return p
}

// restProblem is the same from an answer of REST.
func restProblem(t *testing.T, a answer) problem {
	t.Helper()
	p := problem{RetryAfter: a.header.Get("Retry-After")}
	if err := json.Unmarshal([]byte(a.body), &p); err != nil || a.header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("%d is no problem: %s", a.status, a.body)
	}
	return p
}

func text(m proto.Message) string { return string(wire.JSON(m)) }
