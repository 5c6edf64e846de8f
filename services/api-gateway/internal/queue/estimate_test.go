package queue

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
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
	of := func(buckets ...string) (p [3]*int64) {
		var h histogram
		for _, b := range buckets {
			if err := h.add(b); err != nil {
				t.Fatal(err)
			}
		}
		all := h.percentiles()
		return [3]*int64{all.P50Ms, all.P90Ms, all.P99Ms}
	}
	second, days := middle(73), middle(200)
	if second < 950 || second > 1050 || days < 100*3600*1000/3 {
		t.Errorf("the middles are %d and %d", second, days)
	}
	zero, one := int64(0), int64(1)
	for _, test := range []struct {
		name    string
		buckets []string
		want    [3]*int64
	}{
		{"of nothing", []string{`{}`}, [3]*int64{}},
		{"of one that took no time", []string{`{"0": 1}`}, [3]*int64{&zero, &zero, &zero}},
		{"the rank is the last of a bucket", []string{`{"1": 50, "73": 40, "200": 10}`}, [3]*int64{&one, &second, &days}},
		{"and one less", []string{`{"1": 49, "73": 49, "200": 2}`}, [3]*int64{&second, &second, &days}},
		{"of several, as added up", []string{`{"200":1}`, `{"1": 49, "73": 40}`, `{"73": 10, "1": 0}`}, [3]*int64{&second, &second, &second}},
	} {
		if diff := cmp.Diff(test.want, of(test.buckets...)); diff != "" {
			t.Errorf("%s: %s", test.name, diff)
		}
	}
	if err := (&histogram{}).add(`{"1000": 1}`); err == nil {
		t.Error("a bucket that cannot be is counted")
	}
}
