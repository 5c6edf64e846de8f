package watch

import (
	"encoding/json"
	"testing"
)

func FuzzClientMessage(f *testing.F) {
	for _, seed := range []string{
		`{"type":"follow","job_id":"1","attempt":1,"offset":0}`, `{"type":"unfollow","job_id":"1"}`, `{"type":"follow","job_id":"1","attempt":1,"Attempt":2}`,
		`{"type":"follow","job_id":"9223372036854775807","attempt":2147483647,"offset":9223372036854775807}`, `[]`, `{}`, "null", `{"type":"\ud800"}`, `{"type":"unfollow","job_id":"1"}]`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		feed := &Feed{hub: &Hub{wake: make(chan struct{}, 1), followers: map[*Feed]struct{}{}}, topic: &topic{}, tails: map[int64]*tail{}}
		wrong := obey(feed, text)
		if wrong != nil {
			if len(feed.tails) > 0 || wrong.Status >= 500 || wrong.Detail == "" {
				t.Errorf("%q is refused with %+v, and %d logs are followed", text, wrong, len(feed.tails))
			}
			return
		}
		var said struct {
			Type            string
			JobID           string `json:"job_id"`
			Attempt, Offset int64
		}
		if err := json.Unmarshal(text, &said); err != nil {
			t.Fatalf("%q is obeyed and cannot be read: %v", text, err)
		}
		for job, tail := range feed.tails {
			if int64(tail.attempt) != said.Attempt || tail.offset != said.Offset || job != tail.job || said.Type != "follow" {
				t.Errorf("%q is taken for attempt %d from byte %d of job %d", text, tail.attempt, tail.offset, job)
			}
		}
	})
}
