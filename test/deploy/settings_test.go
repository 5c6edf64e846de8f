package deploy_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"
)

// settings are the environment variables that a service reads, as the envconfig tags in its source say; true where
// one is required. Structs of pkg/jobs/service count where the service embeds them.
func settings(t *testing.T, service string) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	shared := envconfigStructs(t, "pkg/jobs/service")
	for _, fields := range envconfigStructs(t, "services/"+service) {
		for _, field := range fields {
			if field.embeds != "" {
				for _, inner := range shared[field.embeds] {
					names[inner.setting] = inner.required
				}
			} else {
				names[field.setting] = field.required
			}
		}
	}
	return names
}

type field struct {
	setting  string
	required bool
	embeds   string // the struct of pkg/jobs/service, when it is embedded
}

// envconfigStructs finds the structs with settings in a folder and those below it.
func envconfigStructs(t *testing.T, folder string) map[string][]field {
	t.Helper()
	structs := map[string][]field{}
	inspect := func(node ast.Node) bool {
		spec, ok := node.(*ast.TypeSpec)
		if !ok {
			return true
		}
		structType, ok := spec.Type.(*ast.StructType)
		if !ok {
			return true
		}
		for _, f := range structType.Fields.List {
			if selector, ok := f.Type.(*ast.SelectorExpr); ok && len(f.Names) == 0 {
				if pkg, ok := selector.X.(*ast.Ident); ok && pkg.Name == "service" {
					structs[spec.Name.Name] = append(structs[spec.Name.Name], field{embeds: selector.Sel.Name})
				}
			}
			if f.Tag == nil {
				continue
			}
			text, err := strconv.Unquote(f.Tag.Value)
			if err != nil {
				t.Errorf("%s: tag %s: %v", folder, f.Tag.Value, err)
			}
			tag := reflect.StructTag(text)
			if name := tag.Get("envconfig"); name != "" {
				structs[spec.Name.Name] = append(structs[spec.Name.Name], field{setting: name, required: tag.Get("required") == "true"})
			}
		}
		return true
	}
	err := filepath.WalkDir(filepath.Join(root, folder), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, inspect)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return structs
}

// envconfig ignores a variable that it does not know: a misspelt one would silently be the default.
func TestManifestsSetOnlyWhatTheServiceReads(t *testing.T) {
	base := deployments(mustDecode(t, render(t, overlays["base"])))
	for _, service := range services(t) {
		t.Run(service, func(t *testing.T) {
			known := settings(t, service)
			if len(known) == 0 {
				t.Fatal("the service reads no settings")
			}
			set := map[string]bool{}
			for _, env := range base[service].template.Spec.Containers[0].Env {
				set[env.Name] = true
				if _, found := known[env.Name]; !found {
					t.Errorf("%s is not a setting of %s", env.Name, service)
				}
			}
			for name, required := range known {
				if required && !set[name] {
					t.Errorf("%s is required and not set", name)
				}
			}
		})
	}
}

// The names are those of cmd/migrate: a role without a password could not log in.
func TestMigrateGetsAPasswordForEachService(t *testing.T) {
	for _, w := range workloads(mustDecode(t, render(t, overlays["base"]))) {
		if w.name != "migrate" {
			continue
		}
		set := map[string]bool{}
		for _, env := range w.template.Spec.Containers[0].Env {
			set[env.Name] = true
		}
		for _, service := range services(t) {
			if name := "LOCKSTEP_" + strings.ToUpper(strings.ReplaceAll(service, "-", "_")) + "_PASSWORD"; !set[name] {
				t.Errorf("%s is not set", name)
			}
		}
		return
	}
	t.Error("there is no Job migrate")
}

// A worker that is killed before its own grace period ends gives nothing back.
func TestPodsLiveLongerThanTheirGrace(t *testing.T) {
	for name := range overlays {
		for _, w := range deployments(mustDecode(t, render(t, overlays[name]))) {
			for _, env := range w.template.Spec.Containers[0].Env {
				if env.Name != "GRACE" {
					continue
				}
				grace, err := time.ParseDuration(env.Value)
				if err != nil {
					t.Errorf("%s: %s: %v", name, w, err)
				}
				if period := time.Duration(*w.template.Spec.TerminationGracePeriodSeconds) * time.Second; period < grace+5*time.Second {
					t.Errorf("%s: %s is killed after %s, which leaves nothing of its GRACE of %s", name, w, period, grace)
				}
			}
		}
	}
}
