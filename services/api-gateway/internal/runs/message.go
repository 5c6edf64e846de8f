package runs

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	lockstepv1 "github.com/lockstep-ci/lockstep/services/api-gateway/gen/lockstep/v1"
)

// Message is the run as every interface tells it.
func (r *Run) Message() *lockstepv1.Run {
	m := &lockstepv1.Run{
		Id: r.ID, Repository: r.Repository, Ref: r.Ref, HeadSha: r.HeadSHA, Event: r.Event, PullRequest: r.PullRequest, Title: r.Title,
		Author: r.Author, Status: string(r.Status), Url: r.URL, CreatedAt: timestamppb.New(r.CreatedAt), FinishedAt: timestamp(r.FinishedAt),
		Version: r.Version,
	}
	for i := range r.Jobs {
		m.Jobs = append(m.Jobs, r.Jobs[i].Message())
	}
	return m
}

// Message is the run as lists of the newest tell it.
func (s *Summary) Message() *lockstepv1.RunSummary {
	return &lockstepv1.RunSummary{
		Id: s.ID, Repository: s.Repository, Ref: s.Ref, HeadSha: s.HeadSHA, Event: s.Event, PullRequest: s.PullRequest, Title: s.Title,
		Author: s.Author, Status: string(s.Status), Url: s.URL, CreatedAt: timestamppb.New(s.CreatedAt), FinishedAt: timestamp(s.FinishedAt),
	}
}

// Message is the job as every interface tells it.
func (j *Job) Message() *lockstepv1.Job {
	m := &lockstepv1.Job{
		Id: j.ID, Name: j.Name, Status: string(j.Status), Attempt: j.Attempt, Reason: j.Reason,
		StartedAt: timestamp(j.StartedAt), FinishedAt: timestamp(j.FinishedAt),
	}
	for _, s := range j.Steps {
		m.Steps = append(m.Steps, &lockstepv1.Step{
			Number: s.Number, Name: s.Name, Status: s.Status, ExitCode: s.ExitCode,
			StartedAt: timestamp(s.StartedAt), FinishedAt: timestamp(s.FinishedAt), LogOffset: s.LogOffset,
		})
	}
	return m
}

func timestamp(t *time.Time) *timestamppb.Timestamp {
	if t == nil {
		return nil
	}
	return timestamppb.New(*t)
}
