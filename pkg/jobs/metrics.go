package jobs

import (
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// metrics are what an operator wants to see of a queue's process.
type metrics struct {
	registry     *prometheus.Registry
	claims       *prometheus.CounterVec // by stage
	ends         *prometheus.CounterVec // by stage and outcome
	lost         *prometheus.CounterVec // by stage
	held         *prometheus.GaugeVec   // by stage
	wakes        prometheus.Counter
	listenerUp   prometheus.Gauge
	listenerLost prometheus.Counter
	reaped       *prometheus.CounterVec // by cause
}

func newMetrics(pool *pgxpool.Pool) *metrics {
	m := &metrics{
		registry:     prometheus.NewRegistry(),
		claims:       prometheus.NewCounterVec(prometheus.CounterOpts{Name: "lockstep_claims_total", Help: "Jobs claimed."}, []string{"stage"}),
		ends:         prometheus.NewCounterVec(prometheus.CounterOpts{Name: "lockstep_claims_ended_total", Help: "Claims ended by their holder, by the state the job went to."}, []string{"stage", "outcome"}),
		lost:         prometheus.NewCounterVec(prometheus.CounterOpts{Name: "lockstep_claims_lost_total", Help: "Claims that somebody else ended; their late writes were refused."}, []string{"stage"}),
		held:         prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "lockstep_claims_held", Help: "Claims held now."}, []string{"stage"}),
		wakes:        prometheus.NewCounter(prometheus.CounterOpts{Name: "lockstep_wakes_total", Help: "Notifications received."}),
		listenerUp:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "lockstep_listener_up", Help: "1 while the LISTEN connection is proven to deliver."}),
		listenerLost: prometheus.NewCounter(prometheus.CounterOpts{Name: "lockstep_listener_lost_total", Help: "Times the LISTEN connection was lost."}),
		reaped:       prometheus.NewCounterVec(prometheus.CounterOpts{Name: "lockstep_reaped_total", Help: "Claims ended by this reaper."}, []string{"cause"}),
	}
	m.registry.MustRegister(m.claims, m.ends, m.lost, m.held, m.wakes, m.listenerUp, m.listenerLost, m.reaped,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "lockstep_pool_connections_in_use", Help: "Connections of the pool in use."},
			func() float64 { return float64(pool.Stat().AcquiredConns()) }))
	return m
}
