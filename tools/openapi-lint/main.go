// Command openapi-lint looks for faults in an OpenAPI document, by the rules of github.com/speakeasy-api/openapi. It is a module
// of its own: what the linter needs is no need of ours.
//
//	openapi-lint <rules.yaml> <openapi.json>
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/speakeasy-api/openapi/linter"
	"github.com/speakeasy-api/openapi/openapi"
	openapilinter "github.com/speakeasy-api/openapi/openapi/linter"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "openapi-lint:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return errors.New("usage: openapi-lint <rules.yaml> <openapi.json>")
	}
	rules, err := linter.LoadConfigFromFile(args[0])
	if err != nil {
		return fmt.Errorf("read %s: %w", args[0], err)
	}
	file, err := os.Open(args[1])
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	doc, invalid, err := openapi.Unmarshal(ctx, file)
	if err != nil {
		return fmt.Errorf("read %s: %w", args[1], err)
	}
	lint, err := openapilinter.NewLinter(rules)
	if err != nil {
		return fmt.Errorf("read %s: %w", args[0], err)
	}
	found, err := lint.Lint(ctx, linter.NewDocumentInfo(doc, args[1]), invalid, nil)
	if err != nil {
		return fmt.Errorf("look at %s: %w", args[1], err)
	}
	for _, fault := range found.Results {
		fmt.Println(fault)
	}
	if n := len(found.Results); n > 0 {
		return fmt.Errorf("%s: %d faults", args[1], n)
	}
	return nil
}
