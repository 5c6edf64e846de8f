package supervise

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestFramesArriveAsTheyWereSent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var sent, got []frame
		var pipe bytes.Buffer
		w := frameWriter{w: &pipe}
		for range rapid.IntRange(0, 5).Draw(t, "frames") {
			f := frame{
				kind:  kind(rapid.Byte().Draw(t, "kind")),
				id:    rapid.Uint32().Draw(t, "id"),
				value: rapid.Uint32().Draw(t, "value"),
				text:  rapid.SliceOf(rapid.Byte()).Draw(t, "text"),
			}
			if err := w.write(f); err != nil {
				t.Fatal(err)
			}
			sent = append(sent, f)
		}
		for {
			f, err := readFrame(&pipe)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, f)
		}
		if diff := cmp.Diff(sent, got, cmp.AllowUnexported(frame{})); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestCommandsArriveAsTheyWereSent(t *testing.T) {
	text := rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) })
	rapid.Check(t, func(t *rapid.T) {
		sent := Command{
			Args: rapid.SliceOfN(text, 1, -1).Draw(t, "args"),
			Env:  rapid.SliceOf(text).Draw(t, "env"),
			Dir:  text.Draw(t, "dir"),
			UID:  rapid.Uint32().Draw(t, "uid"),
		}
		got, err := startFrame(1, sent).command()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(sent, got, cmp.Transformer("nil", func(l []string) []string { return append([]string{}, l...) })); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestAFrameThatIsTooLongIsRefusedOnBothSides(t *testing.T) {
	w := frameWriter{w: io.Discard}
	if err := w.write(frame{kind: kindStart, text: make([]byte, maxText+1)}); !errors.Is(err, errBadFrame) {
		t.Errorf("write: got %v, want errBadFrame", err)
	}
	if _, err := readFrame(bytes.NewReader([]byte{'o', 0xff, 0xff, 0xff, 0xff})); !errors.Is(err, errBadFrame) {
		t.Errorf("read: got %v, want errBadFrame", err)
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte{'o', 0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 'x'})
	f.Add([]byte{'S', 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 1, '/', 0, 0})
	f.Add([]byte{'o', 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		for {
			fr, err := readFrame(r)
			if err != nil {
				return
			}
			c, err := fr.command()
			if err != nil {
				continue
			}
			again, err := startFrame(fr.id, c).command()
			if err != nil {
				t.Fatalf("%q was decoded, but not what it encodes to: %v", fr.text, err)
			}
			if diff := cmp.Diff(c, again); diff != "" {
				t.Fatal(diff)
			}
		}
	})
}
