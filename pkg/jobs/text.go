package jobs

import (
	"strings"
	"unicode/utf8"
)

// maxReason bounds a reason, in bytes: it is for people, and GitHub shows 140 characters of it.
const maxReason = 4000

// clean makes any text storable: valid UTF-8, no NUL, at most maxReason bytes.
func clean(text string) string {
	text = strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
	if len(text) <= maxReason {
		return text
	}
	cut := maxReason
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + " …"
}
