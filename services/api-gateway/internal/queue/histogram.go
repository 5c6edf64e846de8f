package queue

import (
	"fmt"
	"math"

	lockstepv1 "github.com/lockstep-ci/lockstep/services/api-gateway/gen/lockstep/v1"
)

// histogram is how many durations are in each bucket of the database's function ci_bucket: 0 is less than 1 ms, k from
// growth^(k-1) ms up to growth^k.
type histogram []int64

const (
	growth     = 1.1  // as in ci_bucket
	maxBuckets = 1000 // more than any duration of PostgreSQL needs
)

// add counts what a column `buckets` says: {"<bucket>": <number>, …}. It is read by hand, since a page adds up 25,000 of these pairs,
// which takes encoding/json 25 ms.
func (h *histogram) add(buckets string) error {
	var numbers [2]int64 // bucket and number, in turns
	which, digits := 0, 0
	for i := range len(buckets) {
		c := buckets[i]
		if c >= '0' && c <= '9' {
			numbers[which] = numbers[which]*10 + int64(c-'0')
			digits++
			continue
		}
		if digits == 0 {
			continue
		}
		if which == 1 {
			if numbers[0] >= maxBuckets {
				return fmt.Errorf("read a histogram: there is no bucket %d", numbers[0])
			}
			for int64(len(*h)) <= numbers[0] {
				*h = append(*h, 0)
			}
			(*h)[numbers[0]] += numbers[1]
			numbers = [2]int64{}
		}
		which, digits = 1-which, 0
	}
	return nil
}

func (h *histogram) percentiles() *lockstepv1.Percentiles {
	var total int64
	for _, n := range *h {
		total += n
	}
	if total == 0 {
		return &lockstepv1.Percentiles{}
	}
	// The smallest value that so many percent of the values do not exceed.
	at := func(percent int64) *int64 {
		rank, seen := (percent*total+99)/100, int64(0)
		for bucket, n := range *h {
			if seen += n; seen >= rank {
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
