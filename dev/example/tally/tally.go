// Package tally counts words.
package tally

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
)

// Word is a word, in lower case, and how often it occurred.
type Word struct {
	Text  string
	Count int
}

// Count reads text and returns its words, the most frequent first; equally frequent ones are in alphabetical order.
// A word is a run of letters and digits; an apostrophe within it belongs to it.
func Count(text io.Reader) ([]Word, error) {
	counts := map[string]int{}
	lines := bufio.NewScanner(text)
	for lines.Scan() {
		for _, field := range strings.FieldsFunc(lines.Text(), isGap) {
			if word := strings.ToLower(strings.Trim(field, "'")); word != "" {
				counts[word]++
			}
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read text: %w", err)
	}
	words := make([]Word, 0, len(counts))
	for text, count := range counts {
		words = append(words, Word{Text: text, Count: count})
	}
	slices.SortFunc(words, func(a, b Word) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Text, b.Text))
	})
	return words, nil
}

func isGap(r rune) bool {
	return !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '\''
}
