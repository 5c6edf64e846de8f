package main

import "time"

// size is how much of everything.
type size struct {
	rounds int

	burnJobs, burnSlots int // (a): ours and River
	articleJobs         int // (a): the article's design
	articleWorkers      []int
	clients, bulk       int           // (b): callers that wait for the acknowledgement of one run each
	slots               int           // (b): of a stage, over all its workers
	workers             []int         // (b): workers of a stage
	load                time.Duration // (b), (d): how long clients enqueue
	articleRuns         int           // (b)
	wakes, riverWakes   int           // (c), idle
	rate                int           // (c): runs a second
	rateFor             time.Duration
	kills               int // (c): of the listener's connection
	enqueuers           int // (d)
	history             []int
	claims              int           // (e)
	heldRate            int           // (f): runs a second
	heldFor             time.Duration // (f)
	replicas            int           // (g): of each service
	settle, watch       time.Duration // (g)
	bigJobs, bigSlots   int           // (h)
	arrivals            int           // (h): repositories with one job
	handler             time.Duration // (h): what a job takes
	deliveryRate        int           // (i): a second
	deliverFor          time.Duration
	deliveries, copies  int // (j)
	gateways, senders   int
	watchers            watcherCounts // (k)
	pages               int           // (k): runs that the watchers of "other" are spread over
	changes             int           // (k): a second
	changeFor           time.Duration
	ended, waiting      int // (l): jobs
	asks                int // (l): of each kind
}

// sizes by SCALE. Only the first one's figures are worth comparing.
var sizes = map[string]size{
	"": {
		rounds:   3,
		burnJobs: 200_000, burnSlots: 2_000, articleJobs: 5_000, articleWorkers: []int{1, 8, 32},
		clients: 256, bulk: 2_000, slots: 1_024, workers: []int{1, 2, 8, 32}, load: 5 * time.Second, articleRuns: 1_500,
		wakes: 250, riverWakes: 100, rate: 300, rateFor: 10 * time.Second, kills: 10,
		enqueuers: 32,
		history:   []int{0, 1_000_000, 10_000_000}, claims: 500,
		heldRate: 1_000, heldFor: 60 * time.Second,
		replicas: 4, settle: 15 * time.Second, watch: 30 * time.Second,
		bigJobs: 1_000, bigSlots: 4, arrivals: 10, handler: 10 * time.Millisecond,
		deliveryRate: 200, deliverFor: 20 * time.Second,
		deliveries: 1_000, copies: 100, gateways: 4, senders: 64,
		watchers: watcherCounts{sockets: 3_500, streams: 700, calls: 300, other: 500}, pages: 50,
		changes: 100, changeFor: 20 * time.Second,
		ended: 1_000_000, waiting: 10_000, asks: 500,
	},
	"quick": { // a tenth, once
		rounds:   1,
		burnJobs: 20_000, burnSlots: 2_000, articleJobs: 500, articleWorkers: []int{1, 8},
		clients: 256, bulk: 2_000, slots: 1_024, workers: []int{1, 32}, load: 2 * time.Second, articleRuns: 300,
		wakes: 50, riverWakes: 20, rate: 300, rateFor: 3 * time.Second, kills: 3,
		enqueuers: 32,
		history:   []int{0, 100_000}, claims: 200,
		heldRate: 1_000, heldFor: 6 * time.Second,
		replicas: 4, settle: 5 * time.Second, watch: 10 * time.Second,
		bigJobs: 1_000, bigSlots: 4, arrivals: 10, handler: 10 * time.Millisecond,
		deliveryRate: 200, deliverFor: 5 * time.Second,
		deliveries: 1_000, copies: 10, gateways: 4, senders: 64,
		watchers: watcherCounts{sockets: 3_500, streams: 700, calls: 300, other: 500}, pages: 50,
		changes: 100, changeFor: 10 * time.Second,
		ended: 100_000, waiting: 10_000, asks: 200,
	},
	"small": {
		rounds:   1,
		burnJobs: 300, burnSlots: 100, articleJobs: 50, articleWorkers: []int{2},
		clients: 8, bulk: 16, slots: 16, workers: []int{1, 2}, load: 100 * time.Millisecond, articleRuns: 20,
		wakes: 3, riverWakes: 3, rate: 100, rateFor: 200 * time.Millisecond, kills: 1,
		enqueuers: 4,
		history:   []int{0, 1_000}, claims: 5,
		heldRate: 50, heldFor: 300 * time.Millisecond,
		replicas: 1, settle: 500 * time.Millisecond, watch: time.Second,
		bigJobs: 200, bigSlots: 4, arrivals: 2, handler: 20 * time.Millisecond,
		deliveryRate: 50, deliverFor: 200 * time.Millisecond,
		deliveries: 20, copies: 5, gateways: 2, senders: 8,
		watchers: watcherCounts{sockets: 12, streams: 6, calls: 6, other: 6}, pages: 2,
		changes: 50, changeFor: 500 * time.Millisecond,
		ended: 1_000, waiting: 100, asks: 5,
	},
}
