package jobs

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
)

// Channel is the one channel of all services. The trigger notifies `<job id>[,<job id>…]:<status>` on it.
const Channel = "ci_jobs_status_channel"

const (
	pingEvery    = 5 * time.Second // a half-open socket is noticed within pingEvery + pingDeadline
	pingDeadline = 5 * time.Second
	probePrefix  = "probe:"
)

// Wake is a hint that a job changed: look at the table. The zero Wake means "look at everything": notifications may
// have been missed.
type Wake struct {
	JobID  int64  // more than 0; it may be of no job, since every role of the database can notify
	Status Status // to which it changed; by now it may have gone on
}

// listener is the process's one LISTEN connection, fanned out in memory. Reading never waits for work.
type listener struct {
	config  *pgx.ConnConfig
	log     *zap.Logger
	outages *outages
	metrics *metrics
	anew    chan struct{} // size 1: the server has become read-only
	done    chan struct{}

	mu          sync.Mutex
	subscribers map[int]func(Wake)
	lastID      int
}

func newListener(config *pgx.ConnConfig, anew chan struct{}, log *zap.Logger, outages *outages, metrics *metrics) *listener {
	return &listener{
		config: config, log: log, outages: outages, metrics: metrics,
		anew: anew, done: make(chan struct{}), subscribers: map[int]func(Wake){},
	}
}

// Listen calls do for each notification, and with a zero Wake after each (re)connection. Subscribe first, then look at
// the table, so that no wake falls between; and look now and then without one, because wakes may get lost. [DB.Work] does
// all that by itself: Listen is for whoever watches.
//
// do runs on the goroutine that reads: it must not block, nor call stop. After stop has returned, do is not called again.
func (db *DB) Listen(do func(Wake)) (stop func()) {
	l := db.listener
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lastID++
	id := l.lastID
	l.subscribers[id] = do
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.subscribers, id)
	}
}

func (l *listener) broadcast(wake Wake) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, do := range l.subscribers {
		do(wake)
	}
}

var errReadOnly = errors.New("the server has become read-only")

var errDeaf = errors.New("the connection does not deliver notifications (a transaction-mode pooler? set LISTEN_DATABASE_URL to a direct one); polling only")

func (l *listener) run(ctx context.Context) {
	defer close(l.done)
	wait := &Backoff{Next: 50 * time.Millisecond, Most: time.Second}
	for {
		began := time.Now()
		err := l.session(ctx)
		if ctx.Err() != nil {
			return
		}
		l.metrics.listenerUp.Set(0)
		l.metrics.listenerLost.Inc()
		switch {
		case errors.Is(err, errDeaf):
			l.log.Warn("notifications do not arrive", zap.Error(err))
			wait = &Backoff{Next: time.Minute, Most: time.Minute}
		case errors.Is(err, errReadOnly): // said by whoever was told
			wait = &Backoff{Next: time.Second, Most: time.Second}
		default:
			l.outages.failed("listen", "polling only until it works", err)
			if time.Since(began) > pingEvery {
				wait = &Backoff{Next: 50 * time.Millisecond, Most: time.Second}
			}
		}
		if !wait.Sleep(ctx) {
			return
		}
	}
}

// session listens on one connection until it breaks.
func (l *listener) session(ctx context.Context) error {
	conn, err := pgx.ConnectConfig(ctx, l.config)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing) // it may be broken already
	}()
	if err := l.prove(ctx, conn); err != nil {
		return err
	}
	l.metrics.listenerUp.Set(1)
	l.outages.worked("listen")
	l.broadcast(Wake{}) // LISTEN first, then look: what was notified before is in the table

	for {
		waiting, cancel := context.WithTimeout(ctx, pingEvery)
		notification, err := conn.WaitForNotification(waiting)
		cancel()
		switch {
		case err == nil:
			l.receive(notification.Payload)
		case ctx.Err() != nil:
			return ctx.Err()
		case waiting.Err() != nil: // quiet for pingEvery: is anybody there?
			select {
			case <-l.anew:
				return errReadOnly
			default:
			}
			pinging, cancel := context.WithTimeout(ctx, pingDeadline)
			err := conn.Ping(pinging)
			cancel()
			if err != nil {
				return fmt.Errorf("ping: %w", err)
			}
		default:
			return fmt.Errorf("wait for notification: %w", err)
		}
	}
}

// prove listens, and notifies itself: behind some poolers LISTEN succeeds and hears nothing.
func (l *listener) prove(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, pingDeadline)
	defer cancel()
	if _, err := conn.Exec(ctx, "LISTEN "+Channel); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	probe := probePrefix + strconv.FormatUint(uint64(conn.PgConn().PID()), 10) + "." + strconv.FormatInt(time.Now().UnixNano(), 36)
	if _, err := conn.Exec(ctx, "SELECT pg_notify($1, $2)", Channel, probe); err != nil {
		return fmt.Errorf("notify myself: %w", err)
	}
	for {
		notification, err := conn.WaitForNotification(ctx)
		switch {
		case err == nil && notification.Payload == probe:
			return nil
		case err == nil: // a job's; the broadcast that follows covers it
		case ctx.Err() != nil && !conn.IsClosed():
			return errDeaf
		default:
			return fmt.Errorf("wait for my own notification: %w", err)
		}
	}
}

// receive hands a payload on, `<id>[,<id>…]:<status>`. Any role can notify any channel, so what makes no sense is dropped.
func (l *listener) receive(payload string) {
	ids, status, _ := strings.Cut(payload, ":")
	for id := range strings.SplitSeq(ids, ",") {
		jobID, err := strconv.ParseInt(id, 10, 64)
		if err != nil || jobID <= 0 {
			if !strings.HasPrefix(payload, probePrefix) {
				l.log.Debug("ignored a notification", zap.Int("bytes", len(payload)))
			}
			return
		}
		l.metrics.wakes.Inc()
		l.broadcast(Wake{JobID: jobID, Status: Status(status)})
	}
}
