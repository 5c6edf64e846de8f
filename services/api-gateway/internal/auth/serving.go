package auth

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
)

const (
	lookEvery = time.Second // at the tokens and sessions of what is being served: a stream outlives them by about this
	lookLimit = 5 * time.Second
)

var (
	//go:embed queries/live.sql
	liveSQL string
	//go:embed queries/touch_tokens.sql
	touchTokensSQL string
)

// ErrEnded is the cause (context.Cause) with which the context of a request ends when its token or session does.
var ErrEnded = unauthorized("the token or the session has ended meanwhile")

// serving knows what is being served to whom, to end it with his token or session.
type serving struct {
	mu       sync.Mutex
	requests map[*request]struct{}
	used     map[int64]bool // tokens, since the last note
}

// holds is what a request is served for: a token, a session, or the session of a token; 0 is none.
type holds struct{ token, session int64 }

type request struct {
	holds
	end context.CancelCauseFunc
}

// begin returns the context in which a request is served.
func (s *serving) begin(ctx context.Context, h holds) context.Context {
	ctx, end := context.WithCancelCause(ctx)
	one := &request{h, end}
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.token != 0 {
		s.used[h.token] = true
	}
	s.requests[one] = struct{}{}
	context.AfterFunc(ctx, func() { // the server ends the context of what has been served
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.requests, one)
	})
	return ctx
}

// held is all that something is being served for.
func (s *serving) held() []holds {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := map[holds]bool{}
	for one := range s.requests {
		found[one.holds] = true
	}
	return slices.Collect(maps.Keys(found))
}

// end ends what is served for those of asked that are not alive.
func (s *serving) end(asked, alive []holds) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for one := range s.requests {
		if slices.Contains(asked, one.holds) && !slices.Contains(alive, one.holds) {
			one.end(ErrEnded)
		}
	}
}

// taken returns the tokens that were used since it was asked last.
func (s *serving) taken() []int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := slices.Collect(maps.Keys(s.used))
	clear(s.used)
	return found
}

// Run ends what is served for tokens and sessions that have ended, and notes which were used, until ctx ends.
func (g *Guard) Run(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := errors.Join(g.look(ctx), g.touch(ctx)); err != nil && ctx.Err() == nil { // while the database is away, what is served goes on
			g.log.Debug("tokens and sessions not looked at", zap.Error(err))
		}
	}
}

func (g *Guard) look(ctx context.Context) error {
	held := g.serving.held()
	if len(held) == 0 {
		return nil
	}
	var tokens, sessions []int64
	for _, h := range held {
		tokens, sessions = append(tokens, h.token), append(sessions, h.session)
	}
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	rows, err := g.pool.Query(ctx, liveSQL, pgx.NamedArgs{"tokens": tokens, "sessions": sessions})
	if err != nil {
		return fmt.Errorf("look at tokens and sessions: %w", err)
	}
	alive, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (h holds, err error) { return h, row.Scan(&h.token, &h.session) })
	if err != nil {
		return fmt.Errorf("look at tokens and sessions: %w", err)
	}
	g.serving.end(held, alive)
	return nil
}

func (g *Guard) touch(ctx context.Context) error {
	used := g.serving.taken()
	if len(used) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	if _, err := g.pool.Exec(ctx, touchTokensSQL, pgx.NamedArgs{"tokens": used}); err != nil {
		return fmt.Errorf("note the use of tokens: %w", err)
	}
	return nil
}
