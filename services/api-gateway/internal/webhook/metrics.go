package webhook

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
)

// counter counts deliveries. Who sends one chooses the event's name, so only names that we know become labels.
func counter(registry *prometheus.Registry) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "lockstep_webhook_deliveries_total",
		Help: "Webhook deliveries, by event (other: one that is not known) and outcome (run, approval, moved, withdrawn, ignored, refused, failed).",
	}, []string{"event", "outcome"})
	registry.MustRegister(c)
	return c
}

var outcomes = map[string]string{madeRun: "run", madeAsk: "approval", moved: "moved", withdrawn: "withdrawn", ignored: "ignored"}

func (rc *Receiver) count(event, kind string, err error) {
	_, reads := readers[event]
	if _, known := others[event]; !known && !reads {
		event = "other"
	}
	outcome := outcomes[kind]
	if err != nil {
		outcome = "failed"
		if problem.Of(err).Status < http.StatusInternalServerError {
			outcome = "refused"
		}
	}
	rc.deliveries.WithLabelValues(event, outcome).Inc()
}
