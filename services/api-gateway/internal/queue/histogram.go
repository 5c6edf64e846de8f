package queue

import (
	"maps"
	"math"
	"slices"

	lockstepv1 "github.com/lockstep-ci/lockstep/services/api-gateway/gen/lockstep/v1"
)

// histogram is how many durations are in each bucket of the database's function ci_bucket: 0 is less than 1 ms, k from
// growth^(k-1) ms up to growth^k.
type histogram map[int]int64

const growth = 1.1 // as in ci_bucket

func (h histogram) add(other histogram) {
	for bucket, n := range other {
		h[bucket] += n
	}
}

func (h histogram) percentiles() *lockstepv1.Percentiles {
	buckets := slices.Sorted(maps.Keys(h))
	var total int64
	for _, n := range h {
		total += n
	}
	if total == 0 {
		return &lockstepv1.Percentiles{}
	}
	// The smallest value that so many percent of the values do not exceed.
	at := func(percent int64) *int64 {
		rank, seen := (percent*total+99)/100, int64(0)
		for _, bucket := range buckets {
			if seen += h[bucket]; seen >= rank {
				ms := middle(bucket)
				return &ms
			}
		}
		panic("queue: a rank behind the last value")
	}
	return &lockstepv1.Percentiles{P50Ms: at(50), P90Ms: at(90), P99Ms: at(99)}
}

// middle is the value, in ms, that is nearest to all of a bucket: no value in it differs from it by more than
// (growth-1)/(growth+1) = 4.8 %, or by 1 ms.
func middle(bucket int) int64 {
	if bucket == 0 {
		return 0
	}
	return int64(math.Round(2 * math.Pow(growth, float64(bucket)) / (1 + growth)))
}
