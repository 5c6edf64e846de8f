package tally

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

func TestCountOrdersByFrequencyThenAlphabet(t *testing.T) {
	for _, test := range []struct {
		name, text string
		want       []Word
	}{
		{"nothing", "", []Word{}},
		{"case does not matter", "The the THE", []Word{{"the", 3}}},
		{"marks separate words", "push, push; pull", []Word{{"push", 2}, {"pull", 1}}},
		{"an apostrophe may be within a word", "don't 'quote'", []Word{{"don't", 1}, {"quote", 1}}},
		{"words beyond ASCII", "Straße straße ÉTÉ", []Word{{"straße", 2}, {"été", 1}}},
		{"over several lines", "one two\ntwo\n", []Word{{"two", 2}, {"one", 1}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Count(strings.NewReader(test.text))
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("Count(%q) = %v, want %v", test.text, got, test.want)
			}
		})
	}
}

func TestCountReportsABrokenReader(t *testing.T) {
	broken := errors.New("broken")
	if _, err := Count(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("error %v, want %v", err, broken)
	}
}
