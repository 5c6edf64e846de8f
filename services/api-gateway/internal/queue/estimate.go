package queue

import (
	"slices"
	"time"
)

// line is the queue before a stage, for guessing when a job will be claimed: whenever a slot is free, it takes the next one, and each
// job takes the mean of its repository's.
type line struct {
	now   time.Time
	slots int                                // of living workers
	held  []held                             // by them
	mean  func(string) (time.Duration, bool) // of a repository; false: nothing is known, of no repository
}

type held struct {
	Holds      string
	Repository string
	ClaimedAt  time.Time
	FillsSlot  bool
}

func (l *line) free() int { return max(0, l.slots-len(l.held)) }

// starts guesses when those at these places, from 1 on and in order, will be claimed; nil: there is nothing to go by. What stands
// between them counts with the mean of all.
func (l *line) starts(jobs []waiting) []*time.Time {
	guesses := make([]*time.Time, len(jobs))
	if l.slots == 0 {
		return guesses
	}
	usual, known := l.mean("")
	if !known { // then the first ones take the free slots, and who knows when these are free again
		for i := range jobs {
			if int(jobs[i].Position) <= l.free() {
				guesses[i] = &l.now
			}
		}
		return guesses
	}
	slots := make(times, 0, l.slots)
	for _, h := range l.held {
		took, _ := l.mean(h.Repository)
		if end := h.ClaimedAt.Add(took); end.After(l.now) {
			slots = append(slots, end)
		} else {
			slots = append(slots, l.now) // any moment
		}
	}
	for len(slots) < l.slots {
		slots = append(slots, l.now)
	}
	slices.SortFunc(slots, time.Time.Compare) // which is a heap
	place := int32(1)
	for i := range jobs {
		for ; place < jobs[i].Position; place++ {
			slots.take(usual)
		}
		took, _ := l.mean(jobs[i].Repository)
		start := slots.take(took)
		guesses[i] = &start
		place++
	}
	return guesses
}

// times is a heap: when each slot is free, the earliest first.
type times []time.Time

// take fills the slot that is free first for so long, and returns from when on.
func (t times) take(long time.Duration) time.Time {
	start := t[0]
	end, at := start.Add(long), 0
	for child := 1; child < len(t); child = 2*at + 1 {
		if child+1 < len(t) && t[child+1].Before(t[child]) {
			child++
		}
		if !t[child].Before(end) {
			break
		}
		t[at], at = t[child], child
	}
	t[at] = end
	return start
}
