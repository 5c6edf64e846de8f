package queue

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// The slots are a heap: it must say the same as looking through all of them.
func TestTakeFillsTheSlotThatIsFreeFirst(t *testing.T) {
	t.Parallel()
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 1))
		slots := make(times, 1+random.IntN(9))
		for i := range slots {
			slots[i] = time.Unix(random.Int64N(20), 0)
		}
		slices.SortFunc(slots, time.Time.Compare)
		plain := slices.Clone(slots)
		for range 50 {
			long := time.Duration(random.IntN(10)) * time.Second
			first := 0
			for i := range plain {
				if plain[i].Before(plain[first]) {
					first = i
				}
			}
			want := plain[first]
			plain[first] = want.Add(long)
			if got := slots.take(long); !got.Equal(want) {
				t.Fatalf("seed %d: %s, want %s", seed, got, want)
			}
		}
	}
}

func TestPercentilesOfAHistogram(t *testing.T) {
	t.Parallel()
	if p := (histogram{}).percentiles(); p.P50Ms != nil || p.P99Ms != nil {
		t.Errorf("of nothing: %v", p)
	}
	if p := (histogram{0: 1}).percentiles(); p.GetP50Ms() != 0 || p.P50Ms == nil || p.GetP99Ms() != 0 {
		t.Errorf("of one that took no time: %v", p)
	}
	p := histogram{1: 50, 73: 49, 200: 1}.percentiles() // 1 ms, about a second, about two days
	if p.GetP50Ms() != 1 || p.GetP90Ms() != middle(73) || p.GetP99Ms() != middle(73) || middle(73) < 950 || middle(73) > 1050 {
		t.Errorf("%v", p)
	}
	if p := (histogram{1: 49, 73: 49, 200: 2}).percentiles(); p.GetP50Ms() != middle(73) || p.GetP99Ms() != middle(200) {
		t.Errorf("%v", p)
	}
}
