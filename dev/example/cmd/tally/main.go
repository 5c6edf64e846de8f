// Command tally prints the most frequent words of a file.
package main

import (
	"flag"
	"fmt"
	"os"

	"example.com/tally/table"
	"example.com/tally/tally"
)

func main() {
	top := flag.Int("top", 10, "how many words to print")
	flag.Parse()
	if err := run(flag.Arg(0), *top); err != nil {
		fmt.Fprintln(os.Stderr, "tally:", err)
		os.Exit(1)
	}
}

func run(path string, top int) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	words, err := tally.Count(file)
	if err != nil {
		return err
	}
	return table.Write(os.Stdout, words, top)
}
