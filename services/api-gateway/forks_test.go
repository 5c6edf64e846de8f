package main_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	lockstepv1 "github.com/lockstep-ci/lockstep/services/api-gateway/gen/lockstep/v1"
	"github.com/lockstep-ci/lockstep/services/api-gateway/gen/lockstep/v1/lockstepv1connect"
)

func TestInterfacesAgreeAboutForks(t *testing.T) {
	t.Parallel()
	g := start(t)
	g.db.Exec(t, `INSERT INTO ci_approvals (repository, pull_request, head_sha, sender_id, author, title, run, delivery_id, asked_at)
		SELECT $1, n, repeat('4', 40), 9007199254740993, 'eve', NULL, '{"event": "pull_request", "ref": "refs/pull/1/head"}', 'd' || n, now() FROM generate_series(1, 6) n`, repository)
	g.db.Exec(t, "INSERT INTO ci_repositories (repository, github_id, weight) VALUES ($1, 9007199254740993, 0.5)", repository)
	one, weight, policy := int32(1), 0.25, "ignore"
	tests := []struct {
		method, path, body, procedure string
		request                       proto.Message
		answer                        func() proto.Message
		shown                         func(proto.Message) proto.Message
	}{
		{"GET", "/api/v1/repositories", "", lockstepv1connect.RepositoryServiceListRepositoriesProcedure, &lockstepv1.ListRepositoriesRequest{},
			func() proto.Message { return &lockstepv1.ListRepositoriesResponse{} }, nil},
		{"GET", "/api/v1/repositories/example.com%2Fowner%2Fname", "", lockstepv1connect.RepositoryServiceGetRepositoryProcedure, &lockstepv1.GetRepositoryRequest{Repository: repository},
			func() proto.Message { return &lockstepv1.GetRepositoryResponse{} },
			func(m proto.Message) proto.Message { return m.(*lockstepv1.GetRepositoryResponse).GetRepository() }},
		{"PATCH", "/api/v1/repositories/example.com%2Fowner%2Fname", `{"weight":0.25,"fork_policy":"ignore"}`, lockstepv1connect.RepositoryServiceUpdateRepositoryProcedure,
			&lockstepv1.UpdateRepositoryRequest{Repository: repository, Change: &lockstepv1.RepositoryChange{Weight: &weight, ForkPolicy: &policy}},
			func() proto.Message { return &lockstepv1.UpdateRepositoryResponse{} },
			func(m proto.Message) proto.Message { return m.(*lockstepv1.UpdateRepositoryResponse).GetRepository() }},
		{"GET", "/api/v1/approvals?limit=1", "", lockstepv1connect.ApprovalServiceListApprovalsProcedure, &lockstepv1.ListApprovalsRequest{Limit: &one},
			func() proto.Message { return &lockstepv1.ListApprovalsResponse{} }, nil},
		{"POST", "/api/v1/approvals/1/approve", "", lockstepv1connect.ApprovalServiceApproveProcedure, &lockstepv1.ApproveRequest{Id: "1"},
			func() proto.Message { return &lockstepv1.ApproveResponse{} },
			func(m proto.Message) proto.Message { return m.(*lockstepv1.ApproveResponse).GetApproval() }},
		{"POST", "/api/v1/approvals/2/reject", "", lockstepv1connect.ApprovalServiceRejectProcedure, &lockstepv1.RejectRequest{Id: "2"},
			func() proto.Message { return &lockstepv1.RejectResponse{} },
			func(m proto.Message) proto.Message { return m.(*lockstepv1.RejectResponse).GetApproval() }},
		{"GET", "/api/v1/approvals/1", "", lockstepv1connect.ApprovalServiceGetApprovalProcedure, &lockstepv1.GetApprovalRequest{Id: "1"},
			func() proto.Message { return &lockstepv1.GetApprovalResponse{} },
			func(m proto.Message) proto.Message { return m.(*lockstepv1.GetApprovalResponse).GetApproval() }},
	}
	for _, test := range tests {
		rest := g.send(test.method, test.path, test.body)
		if rest.status != http.StatusOK {
			t.Errorf("%s %s: %d %s", test.method, test.path, rest.status, rest.body)
		}
		for _, client := range g.rpcs(token) {
			answer := test.answer()
			if err := client.call(g.context(), test.procedure, test.request, answer); err != nil {
				t.Errorf("%s by %s: %v", test.path, client.name, err)
				continue
			}
			if test.shown != nil {
				answer = test.shown(answer)
			}
			if diff := cmp.Diff(rest.body, text(answer)); diff != "" {
				t.Errorf("%s (-REST +%s):\n%s", test.path, client.name, diff)
			}
		}
	}
	for i, client := range g.rpcs(token)[:2] {
		id := fmt.Sprint(3 + i)
		if err := client.call(g.context(), lockstepv1connect.ApprovalServiceRejectProcedure, &lockstepv1.RejectRequest{Id: id}, &lockstepv1.RejectResponse{}); err != nil {
			t.Errorf("%s: %v", client.name, err)
		}
		err := client.call(g.context(), lockstepv1connect.ApprovalServiceApproveProcedure, &lockstepv1.ApproveRequest{Id: id}, &lockstepv1.ApproveResponse{})
		rest := restProblem(t, g.send("POST", "/api/v1/approvals/"+id+"/approve", ""))
		if got := problemOf(t, err); got.Code != rest.Code || got.Code != "approval_decided" {
			t.Errorf("%s: %+v, REST: %+v", client.name, got, rest)
		}
	}
}
