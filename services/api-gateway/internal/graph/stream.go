package graph

import (
	"context"
	"errors"
	"fmt"
)

// ending is how a subscription's stream ended; it is written before the stream is closed.
type ending struct{ err error }

type endingKey struct{}

func withEnding(ctx context.Context) (context.Context, *ending) {
	e := &ending{}
	return context.WithValue(ctx, endingKey{}, e), e
}

var errUnserved = errors.New("the stream ended before it began")

// stream is what serve sends, one by one: it is held up until the client has taken what was sent before. Serve sends nil when
// it begins; the error of one that does not begin is returned.
func stream[T any](ctx context.Context, serve func(send func(*T) error) error) (<-chan *T, error) {
	end, _ := ctx.Value(endingKey{}).(*ending) // every subscription has it
	out, began := make(chan *T), make(chan error, 1)
	go func() {
		err := errUnserved
		defer func() {
			if value := recover(); value != nil { // nobody else would: it is a goroutine of ours
				err = fmt.Errorf("stream panicked: %v", value)
			}
			end.err = err
			began <- err // no effect when it has begun: nobody reads it any more
			close(out)
		}()
		err = serve(func(item *T) error {
			if item == nil {
				began <- nil
				return nil
			}
			select {
			case out <- item:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	if err := <-began; err != nil {
		return nil, err
	}
	return out, nil
}
