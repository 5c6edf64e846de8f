package spec_test

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/lockstep-ci/lockstep/pkg/jobs/spec"
)

func valid() spec.Spec {
	return spec.Spec{
		Version:  spec.Version,
		SourceID: math.MaxInt64,
		SHA:      strings.Repeat("0a", 20),
		Env:      map[string]string{"CGO_ENABLED": "0"},
		Steps: []spec.Step{
			{Number: 1, Name: "Run actions/checkout@v4", Uses: spec.Checkout, With: map[string]string{"fetch-depth": "1"}},
			{Number: 2, ID: "test", Name: "test", Run: "go test ./...\n", Shell: "bash", WorkingDirectory: "sub",
				Env: map[string]string{"A": "ä <&> \u2028"}, TimeoutMinutes: 0.5},
		},
		RunsOn:         []string{"linux"},
		TimeoutMinutes: spec.DefaultTimeoutMinutes,
	}
}

func TestWhatIsEncodedIsDecoded(t *testing.T) {
	data, err := spec.Encode(valid())
	if err != nil {
		t.Fatal(err)
	}
	got, err := spec.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(valid(), got); diff != "" {
		t.Errorf("decoded differs (-want +got):\n%s", diff)
	}
	if !strings.Contains(string(data), `"source_id":"9223372036854775807"`) {
		t.Errorf("ids are strings in JSON: %s", data)
	}
}

func TestAnotherVersionIsRefusedAsSuch(t *testing.T) {
	for name, data := range map[string]string{
		"newer, with fields of its own": `{"version":2,"container":"golang"}`,
		"none":                          `{}`,
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := spec.Decode([]byte(data)); !errors.Is(err, spec.ErrVersion) {
				t.Errorf("got %v, want ErrVersion", err)
			}
		})
	}
}

func TestNothingInASpecIsIgnored(t *testing.T) {
	good, err := json.Marshal(valid())
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{
		"unknown field":           strings.Replace(string(good), `"sha"`, `"if":"always()","sha"`, 1),
		"unknown field of a step": strings.Replace(string(good), `"run"`, `"if":"always()","run"`, 1),
		"a second value":          string(good) + `{}`,
		"not JSON":                `version: 1`,
		"empty":                   ``,
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := spec.Decode([]byte(data)); err == nil || errors.Is(err, spec.ErrVersion) {
				t.Errorf("got %v, want an error that is not ErrVersion", err)
			}
		})
	}
}

func TestABrokenRuleIsRefusedByBothSides(t *testing.T) {
	for name, spoil := range map[string]func(*spec.Spec){
		"no source":                  func(s *spec.Spec) { s.SourceID = 0 },
		"short commit":               func(s *spec.Spec) { s.SHA = "0a0a0a" },
		"no label":                   func(s *spec.Spec) { s.RunsOn = nil },
		"no timeout":                 func(s *spec.Spec) { s.TimeoutMinutes = 0 },
		"timeout too long":           func(s *spec.Spec) { s.TimeoutMinutes = spec.MaxTimeoutMinutes + 0.1 },
		"no steps":                   func(s *spec.Spec) { s.Steps = nil },
		"too many steps":             func(s *spec.Spec) { s.Steps = make([]spec.Step, spec.MaxSteps+1) },
		"step numbers with a gap":    func(s *spec.Spec) { s.Steps[1].Number = 3 },
		"step without a name":        func(s *spec.Spec) { s.Steps[1].Name = "" },
		"step that does nothing":     func(s *spec.Spec) { s.Steps[1].Run = "" },
		"step that does both":        func(s *spec.Spec) { s.Steps[1].Uses = spec.Checkout },
		"step with unknown uses":     func(s *spec.Spec) { s.Steps[0].Uses = "actions/cache" },
		"step with unknown shell":    func(s *spec.Spec) { s.Steps[1].Shell = "fish" },
		"step with negative timeout": func(s *spec.Spec) { s.Steps[1].TimeoutMinutes = -1 },
		"script with inputs":         func(s *spec.Spec) { s.Steps[1].With = map[string]string{"a": "b"} },
		"uses with a shell":          func(s *spec.Spec) { s.Steps[0].Shell = "sh" },
		"NUL in a script":            func(s *spec.Spec) { s.Steps[1].Run = "a\x00b" },
		"broken UTF-8 in the env":    func(s *spec.Spec) { s.Env["A"] = "\xff" },
		"broken UTF-8 in an input":   func(s *spec.Spec) { s.Steps[0].With["\xff"] = "" },
	} {
		t.Run(name, func(t *testing.T) {
			s := valid()
			spoil(&s)
			if _, err := spec.Encode(s); err == nil {
				t.Error("Encode accepted it")
			}
			data, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(name, "UTF-8") { // json.Marshal has mended it
				return
			}
			if _, err := spec.Decode(data); err == nil {
				t.Error("Decode accepted it")
			}
		})
	}
}

func TestATimeoutThatIsNotANumberIsRefused(t *testing.T) {
	s := valid()
	s.TimeoutMinutes = math.NaN()
	if _, err := spec.Encode(s); err == nil {
		t.Error("Encode accepted NaN")
	}
}

func FuzzDecodeNeverPanics(f *testing.F) {
	good, _ := spec.Encode(valid())
	f.Add(good)
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := spec.Decode(data)
		if err != nil {
			return
		}
		again, err := spec.Encode(s)
		if err != nil {
			t.Fatalf("decoded, but not encodable: %v", err)
		}
		if got, err := spec.Decode(again); err != nil || !cmp.Equal(s, got, cmpopts.EquateEmpty()) {
			t.Fatalf("not stable: %v", err)
		}
	})
}
