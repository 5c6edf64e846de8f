// Package statements reads the SQL that a package keeps in files.
package statements

import "embed"

// In returns what reads the statement of a name from queries/<name>.sql of the embedded files.
func In(files embed.FS) func(name string) string {
	return func(name string) string {
		text, err := files.ReadFile("queries/" + name + ".sql")
		if err != nil {
			panic(err) // the files are part of the binary
		}
		return string(text)
	}
}
