package table

import (
	"os"
	"strings"
	"testing"

	"example.com/tally/tally"
)

func TestWriteStopsAtTop(t *testing.T) {
	var out strings.Builder
	words := []tally.Word{{Text: "a", Count: 3}, {Text: "b", Count: 2}, {Text: "c", Count: 1}}
	if err := Write(&out, words, 2); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), "a  3\nb  2\n"; got != want {
		t.Errorf("wrote %q, want %q", got, want)
	}
}

func ExampleWrite() {
	_ = Write(os.Stdout, []tally.Word{{Text: "straße", Count: 12}, {Text: "of", Count: 7}}, 10)
	// Output:
	// straße  12
	// of      7
}
