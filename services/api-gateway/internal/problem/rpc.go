package problem

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"connectrpc.com/connect"

	lockstepv1 "github.com/lockstep-ci/lockstep/services/api-gateway/gen/lockstep/v1"
)

// RPC is what an error means to a client of Connect or gRPC: a code, the sentence, and the whole Problem as its detail.
func RPC(ctx context.Context, err error) *connect.Error {
	p := Of(err)
	answer := connect.NewError(p.rpcCode(), errors.New(p.Detail))
	field := p.field()
	if field == KeyHeader { // of REST; here it is a field of the message
		field = "idempotency_key"
	}
	detail, err := connect.NewErrorDetail(&lockstepv1.Problem{
		Type: p.Type, Title: p.Title, Status: int32(p.Status), Code: p.Code, Field: field, Detail: p.Detail, RequestId: RequestID(ctx),
	})
	if err == nil {
		answer.AddDetail(detail)
	}
	if seconds := p.retryAfter(); seconds > 0 {
		answer.Meta().Set("Retry-After", strconv.Itoa(seconds))
	}
	return answer
}

// rpcCode is the code whose meaning is nearest to the status.
func (p *Problem) rpcCode() connect.Code {
	switch p.Status {
	case http.StatusUnauthorized:
		return connect.CodeUnauthenticated
	case http.StatusForbidden:
		return connect.CodePermissionDenied
	case http.StatusNotFound:
		return connect.CodeNotFound
	case http.StatusConflict:
		return connect.CodeFailedPrecondition
	case http.StatusRequestEntityTooLarge, http.StatusTooManyRequests:
		return connect.CodeResourceExhausted
	case http.StatusServiceUnavailable:
		return connect.CodeUnavailable
	case http.StatusNotImplemented:
		return connect.CodeUnimplemented
	case http.StatusInternalServerError:
		return connect.CodeInternal
	}
	return connect.CodeInvalidArgument
}

// Procedures is what the path of every procedure begins with.
const Procedures = "/lockstep.v1."

var rpcErrors = connect.NewErrorWriter()

// isRPC reports whether somebody who asks for a procedure speaks one of the protocols that we answer in.
func isRPC(r *http.Request) bool {
	return strings.HasPrefix(r.URL.Path, Procedures) && rpcErrors.IsSupported(r)
}
