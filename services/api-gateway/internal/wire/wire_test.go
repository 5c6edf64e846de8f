package wire_test

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	lockstepv1 "github.com/lockstep-ci/lockstep/services/api-gateway/gen/lockstep/v1"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/wire"
)

// The very bytes that clients have got since the first release.
func TestJSONStaysAsItIs(t *testing.T) {
	t.Parallel()
	zone := time.FixedZone("", 2*60*60)
	ref, code, offset, number := "refs/heads/main", int32(2), int64(1)<<53+1, int32(5)
	run := &lockstepv1.Run{
		Id: "1", Repository: "https://example.com/a/b", Ref: &ref, Event: "pull_request", PullRequest: &number, Title: new(string), Status: "failure", Url: "http://h/run/1",
		CreatedAt:  timestamppb.New(time.Date(2026, 1, 2, 5, 4, 5, 120_000_000, zone)),
		FinishedAt: timestamppb.New(time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC)), Version: 7,
		Jobs: []*lockstepv1.Job{
			{Id: "2", Name: "<script>\x00\u2028é\"", Status: "failure", Attempt: 2, Steps: []*lockstepv1.Step{{Number: 1, Name: "a", Status: "failure", ExitCode: &code, LogOffset: &offset}}},
			{Id: "3"},
		},
	}
	const job2 = `{"id":"2","name":"\u003cscript\u003e\u0000\u2028é\"","status":"failure","attempt":2,"reason":"","started_at":null,"finished_at":null,"steps":[` +
		`{"number":1,"name":"a","status":"failure","exit_code":2,"started_at":null,"finished_at":null,"log_offset":9007199254740993}]}`
	const job3 = `{"id":"3","name":"","status":"","attempt":0,"reason":"","started_at":null,"finished_at":null,"steps":[]}`
	want := `{"id":"1","repository":"https://example.com/a/b","ref":"refs/heads/main","head_sha":null,"event":"pull_request","pull_request":5,"title":"","author":null,` +
		`"status":"failure","url":"http://h/run/1","created_at":"2026-01-02T03:04:05.12Z","finished_at":"2026-01-02T03:04:06Z","version":7,"jobs":[` + job2 + `,` + job3 + `]}`
	if got := string(wire.JSON(run)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	log := &lockstepv1.FollowLogResponse{JobId: "2", Attempt: 2, Offset: 3, Data: []byte("\xff\x00a"), Ended: true}
	if got := string(wire.Tagged("log", log)); got != `{"type":"log","job_id":"2","attempt":2,"offset":3,"data":"/wBh","ended":true}` {
		t.Errorf("got %s", got)
	}
}
