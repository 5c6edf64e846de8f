package source

import (
	"crypto/rand"
	"errors"
	"io"
	"testing"
)

// Within the package, because a tree at the real limits takes long to pack.
func TestATreeThatIsTooLargeIsRefused(t *testing.T) {
	noise := make([]byte, 1<<20)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		maxPacked, maxTree int64
		content            []byte
		want               error
	}{
		"within both":                    {2 << 20, 2 << 20, noise, nil},
		"at the limit of the tree":       {2 << 20, 1 << 20, noise, nil},
		"packed too large":               {1 << 19, 2 << 20, noise, ErrTooLarge},
		"too large before it was packed": {2 << 20, 1<<20 - 1, make([]byte, 1<<20), ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			size, _, err := compress(io.Discard, row.maxPacked, row.maxTree, func(w io.Writer) error {
				for part := row.content; len(part) > 0; part = part[1<<10:] {
					if _, err := w.Write(part[:1<<10]); err != nil {
						return err
					}
				}
				return nil
			})
			if !errors.Is(err, row.want) || err == nil && size > row.maxPacked {
				t.Errorf("got %d bytes, %v; want %v", size, err, row.want)
			}
		})
	}
}
