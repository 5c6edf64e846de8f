// Package table prints words and their counts in two columns.
package table

import (
	"fmt"
	"io"
	"unicode/utf8"

	"example.com/tally/tally"
)

// Write prints at most top of the words, one a line, so that their counts stand below each other.
func Write(out io.Writer, words []tally.Word, top int) error {
	words = words[:min(top, len(words))]
	width := 0
	for _, word := range words {
		width = max(width, utf8.RuneCountInString(word.Text))
	}
	for _, word := range words {
		if _, err := fmt.Fprintf(out, "%-*s  %d\n", width, word.Text, word.Count); err != nil {
			return fmt.Errorf("write table: %w", err)
		}
	}
	return nil
}
