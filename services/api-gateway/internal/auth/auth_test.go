package auth_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"go.uber.org/zap"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	lockstepv1 "github.com/lockstep-ci/lockstep/services/api-gateway/gen/lockstep/v1"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/auth"
)

func TestWhatTheTableLacksIsRefused(t *testing.T) {
	t.Parallel()
	const token = "a-token-of-the-tests"
	for _, anonymous := range []bool{false, true} {
		guard := auth.New(auth.Options{AdminToken: token, AnonymousRead: anonymous, PublicURL: "http://127.0.0.1"}, nil, zap.NewNop())
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		if _, err := guard.Admit(r, "GET /none"); err == nil {
			t.Error("a route that is not in the table is served")
		}
	}
}

func TestEveryProcedureNeedsARight(t *testing.T) {
	t.Parallel()
	methods := 0
	protoregistry.GlobalFiles.RangeFilesByPackage(lockstepv1.File_lockstep_v1_run_proto.Package(), func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				methods++
				procedure := "/" + string(service.FullName()) + "/" + string(service.Methods().Get(j).Name())
				if right := auth.Needs(procedure); right < auth.Read {
					t.Errorf("%s needs %d", procedure, right)
				}
			}
		}
		return true
	})
	if methods < 10 {
		t.Errorf("only %d procedures found", methods)
	}
}
