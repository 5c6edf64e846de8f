package pages

import (
	"fmt"
	"net/http"
	"time"

	lockstepv1 "github.com/lockstep-ci/lockstep/services/api-gateway/gen/lockstep/v1"
)

const queuedListed = 50 // of each state

// queuePage is what waits, and who works.
type queuePage struct {
	Jobs    []*lockstepv1.QueuedJob
	Stages  []queueStage
	Workers []*lockstepv1.Worker
}

type queueStage struct{ *lockstepv1.QueueStage }

// Figures are the columns of a stage's table.
func (s queueStage) Figures() []*lockstepv1.StageFigures {
	return []*lockstepv1.StageFigures{s.GetLastHour(), s.GetLastDay()}
}

// Queue answers GET /queue. What it may show depends on who asks, as in the API.
func (p *Pages) Queue(w http.ResponseWriter, r *http.Request) {
	limit := int32(queuedListed)
	queue, err := p.calls.ListQueue(r.Context(), &lockstepv1.ListQueueRequest{Limit: &limit})
	if err != nil {
		p.show(w, r, "queue.html", nil, err)
		return
	}
	workers, err := p.calls.ListWorkers(r.Context(), &lockstepv1.ListWorkersRequest{})
	page := queuePage{Jobs: queue.GetJobs(), Workers: workers.GetWorkers()}
	for _, stage := range queue.GetStages() {
		page.Stages = append(page.Stages, queueStage{stage})
	}
	p.show(w, r, "queue.html", page, err)
}

// ms is how long something takes: 850ms, 12s, 3m20s.
func ms(value *int64) string {
	from := time.Time{}
	to := from.Add(time.Duration(*value) * time.Millisecond)
	return duration(&from, &to)
}

// rate is how often something happens.
func rate(perMinute float64) string {
	if perMinute >= 10 {
		return fmt.Sprintf("%.0f", perMinute)
	}
	return fmt.Sprintf("%.3g", perMinute)
}
