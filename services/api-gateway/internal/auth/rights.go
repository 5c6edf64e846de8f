package auth

import (
	"github.com/lockstep-ci/lockstep/services/api-gateway/gen/lockstep/v1/lockstepv1connect"
)

// Right is what somebody needs to be served.
type Right int

// The rights, each of which includes those before it. Nobody is what a route has that the table leaves out.
const (
	Nobody  Right = iota
	Anybody       // it guards itself, or there is nothing to guard
	Read          // see runs, logs and the queue
	Write         // start and end runs
	Admin         // tokens, settings, the audit log
)

// Scopes are the words of the API for what a token may.
var Scopes = map[string]Right{"read": Read, "run": Write, "admin": Admin}

func (r Right) scope() string {
	for word, right := range Scopes {
		if right == r {
			return word
		}
	}
	return "none"
}

// rights says what each route (a pattern of http.ServeMux) and each procedure needs. It is the only place that does.
var rights = map[string]Right{
	"POST /api/v1/runs":                           Write,
	"GET /api/v1/runs":                            Read,
	"GET /api/v1/runs/{id}":                       Read,
	"GET /api/v1/runs/{id}/events":                Read,
	"POST /api/v1/runs/{id}/cancel":               Write,
	"POST /api/v1/runs/{id}/rerun":                Write,
	"GET /api/v1/jobs/{id}":                       Read,
	"GET /api/v1/jobs/{id}/log":                   Read,
	"GET /api/v1/queue":                           Read,
	"GET /api/v1/workers":                         Read,
	"GET /api/v1/repositories":                    Read,
	"GET /api/v1/repositories/{repository}":       Read,
	"PATCH /api/v1/repositories/{repository}":     Admin,
	"GET /api/v1/repositories/{repository}/stats": Read,
	"GET /api/v1/approvals":                       Read,
	"GET /api/v1/approvals/{id}":                  Read,
	"POST /api/v1/approvals/{id}/approve":         Write,
	"POST /api/v1/approvals/{id}/reject":          Write,
	"GET /api/v1/watch":                           Read,
	"POST /api/v1/tokens":                         Admin,
	"GET /api/v1/tokens":                          Admin,
	"GET /api/v1/tokens/{id}":                     Admin,
	"POST /api/v1/tokens/{id}/revoke":             Admin,
	"GET /api/v1/audit":                           Admin,
	"GET /api/v1/openapi.json":                    Anybody,

	lockstepv1connect.RunServiceCreateRunProcedure:            Write,
	lockstepv1connect.RunServiceListRunsProcedure:             Read,
	lockstepv1connect.RunServiceGetRunProcedure:               Read,
	lockstepv1connect.RunServiceCancelRunProcedure:            Write,
	lockstepv1connect.RunServiceRerunRunProcedure:             Write,
	lockstepv1connect.RunServiceWatchRunProcedure:             Read,
	lockstepv1connect.JobServiceGetJobProcedure:               Read,
	lockstepv1connect.JobServiceFollowLogProcedure:            Read,
	lockstepv1connect.QueueServiceListQueueProcedure:          Read,
	lockstepv1connect.QueueServiceListWorkersProcedure:        Read,
	lockstepv1connect.QueueServiceGetRepositoryStatsProcedure: Read,

	// Of GraphQL each root field has a right; without Read nobody asks at all.
	"POST /graphql":                   Read,
	"GET /graphql":                    Read,
	"graphql Query.run":               Read,
	"graphql Query.runs":              Read,
	"graphql Query.job":               Read,
	"graphql Query.queue":             Read,
	"graphql Query.workers":           Read,
	"graphql Query.repositoryStats":   Read,
	"graphql Mutation.createRun":      Write,
	"graphql Mutation.cancelRun":      Write,
	"graphql Mutation.rerunRun":       Write,
	"graphql Subscription.runChanged": Read,
	"graphql Subscription.logLines":   Read,

	lockstepv1connect.RepositoryServiceListRepositoriesProcedure: Read,
	lockstepv1connect.RepositoryServiceGetRepositoryProcedure:    Read,
	lockstepv1connect.RepositoryServiceUpdateRepositoryProcedure: Admin,
	lockstepv1connect.ApprovalServiceListApprovalsProcedure:      Read,
	lockstepv1connect.ApprovalServiceGetApprovalProcedure:        Read,
	lockstepv1connect.ApprovalServiceApproveProcedure:            Write,
	lockstepv1connect.ApprovalServiceRejectProcedure:             Write,
	lockstepv1connect.TokenServiceCreateTokenProcedure:           Admin,
	lockstepv1connect.TokenServiceListTokensProcedure:            Admin,
	lockstepv1connect.TokenServiceGetTokenProcedure:              Admin,
	lockstepv1connect.TokenServiceRevokeTokenProcedure:           Admin,
	lockstepv1connect.AuditServiceListAuditProcedure:             Admin,

	"POST /webhooks/github":      Anybody, // guarded by its signature
	"GET /{$}":                   Read,
	"GET /run/{id}":              Read,
	"GET /queue":                 Read,
	"GET /login":                 Anybody,
	"POST /login":                Anybody,
	"POST /logout":               Anybody,
	"GET /login/github":          Anybody,
	"GET /login/github/callback": Anybody,
	"GET /static/{file}":         Anybody,
	"GET /healthz":               Anybody,
	"GET /readyz":                Anybody,
	"GET /metrics":               Read, // OPS_ADDR, an operator's own address, asks nobody
}

// Needs is the right that a route or procedure asks for.
func Needs(pattern string) Right { return rights[pattern] }
