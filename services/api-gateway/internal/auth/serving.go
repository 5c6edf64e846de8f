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
	lookEvery = time.Second // at the tokens of what is being served: a stream outlives its token by about this
	lookLimit = 5 * time.Second
)

var (
	//go:embed queries/live_tokens.sql
	liveTokensSQL string
	//go:embed queries/touch_tokens.sql
	touchTokensSQL string
)

// ErrEnded is the cause (context.Cause) with which the context of a request ends when its token does.
var ErrEnded = unauthorized("the token has expired or was revoked meanwhile")

// serving knows what is being served to whom, to end it with his token.
type serving struct {
	mu       sync.Mutex
	requests map[*request]struct{}
	used     map[int64]bool // tokens, since the last note
}

type request struct {
	token int64
	end   context.CancelCauseFunc
}

// begin returns the context in which a request of a token is served.
func (s *serving) begin(ctx context.Context, token int64) context.Context {
	ctx, end := context.WithCancelCause(ctx)
	one := &request{token, end}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used[token] = true
	s.requests[one] = struct{}{}
	context.AfterFunc(ctx, func() { // the server ends the context of what has been served
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.requests, one)
	})
	return ctx
}

// tokens are those that something is being served to.
func (s *serving) tokens() []int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := map[int64]bool{}
	for one := range s.requests {
		found[one.token] = true
	}
	return slices.Collect(maps.Keys(found))
}

// end ends what is served to those of the tokens that are not alive.
func (s *serving) end(tokens, alive []int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for one := range s.requests {
		if slices.Contains(tokens, one.token) && !slices.Contains(alive, one.token) {
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

// Run ends what is served to tokens that have ended, and notes which were used, until ctx ends.
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
			g.log.Debug("tokens not looked at", zap.Error(err))
		}
	}
}

func (g *Guard) look(ctx context.Context) error {
	tokens := g.serving.tokens()
	if len(tokens) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	rows, err := g.pool.Query(ctx, liveTokensSQL, pgx.NamedArgs{"tokens": tokens})
	if err != nil {
		return fmt.Errorf("look at tokens: %w", err)
	}
	alive, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return fmt.Errorf("look at tokens: %w", err)
	}
	g.serving.end(tokens, alive)
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
