package jobs

import (
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

const (
	remindEvery = time.Minute      // a trouble that lasts is told of again
	flapEvery   = 10 * time.Second // one that comes and goes, at most so often
)

// outages tells an operator of trouble with the database in few lines, however many statements it fails: a warning for
// each kind of trouble, again each minute while it lasts, and one line when everything works again.
type outages struct {
	log  *zap.Logger
	busy func() []zap.Field // how many connections are

	any     atomic.Bool // failing is not empty: for the hot path
	mu      sync.Mutex
	failing map[string]trouble    // what we are doing → what keeps us from it
	said    map[trouble]time.Time // when we last warned of it
	warned  bool                  // during this outage
	since   time.Time             // its beginning
	tries   int                   // that it failed
}

func newOutages(log *zap.Logger, busy func() []zap.Field) *outages {
	return &outages{log: log, busy: busy, failing: map[string]trouble{}, said: map[trouble]time.Time{}}
}

// failed notes that the database kept us from doing something, and says what happens next.
func (o *outages) failed(doing, next string, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now, what := time.Now(), troubleOf(err)
	if len(o.failing) == 0 {
		o.since, o.tries, o.warned = now, 0, false
		o.any.Store(true)
	}
	o.failing[doing] = what
	o.tries++
	fields := []zap.Field{zap.String("trouble", string(what)), zap.String("doing", doing), zap.String("next", next),
		zap.Duration("for", now.Sub(o.since)), zap.Int("failed_tries", o.tries), zap.Error(err)}
	if what == slow {
		fields = append(fields, o.busy()...)
	}
	quiet := flapEvery
	if !o.said[what].Before(o.since) {
		quiet = remindEvery
	}
	if now.Sub(o.said[what]) < quiet {
		o.log.Debug("the database does not serve us", fields...)
		return
	}
	o.said[what], o.warned = now, true
	o.log.Warn("the database does not serve us", fields...)
}

// worked notes that something is done.
func (o *outages) worked(doing string) {
	if !o.any.Load() {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, is := o.failing[doing]; !is {
		return
	}
	delete(o.failing, doing)
	if len(o.failing) > 0 {
		return
	}
	o.any.Store(false)
	if o.warned {
		o.log.Info("the database is back", zap.Duration("after", time.Since(o.since)), zap.Int("failed_tries", o.tries))
	}
}

// Note tells the operator how it went to do something with the database, in few lines however often it is called: a warning
// for each kind of trouble, again each minute while it lasts, and one line when everything noted works again. doing is a few
// words, the same ones each time; next says what happens while it fails. A nil err means that it worked.
func (db *DB) Note(doing, next string, err error) {
	if err != nil {
		db.outages.failed(doing, next, err)
	} else {
		db.outages.worked(doing)
	}
}
