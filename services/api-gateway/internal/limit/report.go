package limit

import (
	"context"
	_ "embed"
	"fmt"
	"math"
	"net/netip"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
)

const (
	reportEvery = time.Minute
	reportLimit = 5 * time.Second
	reported    = 100      // addresses in one report
	others      = "others" // is all further ones
)

//go:embed queries/report.sql
var reportSQL string

// misses counts wrong credentials and signatures by address, since the last report.
type misses struct {
	mu sync.Mutex
	of map[string]int
}

func (m *misses) add(from netip.Prefix) {
	address := from.String()
	if from.IsSingleIP() {
		address = from.Addr().String()
	}
	m.addTimes(address, 1)
}

func (m *misses) addTimes(address string, times int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, known := m.of[address]; !known && len(m.of) >= reported {
		address = others
	}
	m.of[address] = min(m.of[address]+times, math.MaxInt32)
}

func (m *misses) take() map[string]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	taken := m.of
	m.of = map[string]int{}
	return taken
}

// Run writes who was wrong, and how often, into the audit log once a minute, and once more when ctx ends.
func (l *Limiter) Run(ctx context.Context) {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			l.tell(context.WithoutCancel(ctx))
			return
		case <-tick.C:
			l.tell(ctx)
		}
	}
}

func (l *Limiter) tell(ctx context.Context) {
	taken := l.misses.take()
	if err := l.report(ctx, taken); err != nil {
		l.log.Warn("refused credentials not written into the audit log yet", zap.Error(err))
		for address, times := range taken { // next time
			l.misses.addTimes(address, times)
		}
	}
}

func (l *Limiter) report(ctx context.Context, misses map[string]int) error {
	if len(misses) == 0 {
		return nil
	}
	var addresses []string
	var times []int
	for address, n := range misses {
		addresses, times = append(addresses, address), append(times, n)
	}
	ctx, cancel := context.WithTimeout(ctx, reportLimit)
	defer cancel()
	if _, err := l.pool.Exec(ctx, reportSQL, pgx.NamedArgs{"addresses": addresses, "times": times}); err != nil {
		return fmt.Errorf("report %d addresses with wrong credentials: %w", len(addresses), err)
	}
	return nil
}
