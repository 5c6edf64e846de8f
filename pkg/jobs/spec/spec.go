// Package spec is the format in which an initializer tells a runner what one job is to do: the JSON in
// ci_job_specs.spec. It is complete and literal: every expression is expanded when the job is planned, and the
// runner evaluates none.
package spec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode/utf8"
)

// Version is the only version of the format that this package writes and reads. A new field is a new version:
// a runner that ignored it would do something else than what was planned.
const Version = 1

// Limits of a job. Minutes may have a fraction.
const (
	DefaultTimeoutMinutes = 360  // of a job that names none, as on GitHub
	MaxTimeoutMinutes     = 4320 // 3 days
	MaxSteps              = 1000
)

// What a step may use. Both stand for something the runner does itself.
const (
	Checkout = "actions/checkout" // nothing to do: the source is there
	SetupGo  = "actions/setup-go" // check that the Go which is there fits With["go-version"] or With["go-version-file"]
)

// ErrVersion means that the specification was written by another release. It says nothing about the user's job:
// give it back, a runner of that release will take it.
var ErrVersion = errors.New("spec: version is not known")

// Spec is what one job is to do.
type Spec struct {
	Version int `json:"version"`
	// SourceID is the row of ci_sources that holds the tree (package source), as a string in JSON like every id.
	SourceID int64 `json:"source_id,string"`
	// SHA is the commit, 40 lower-case hex digits.
	SHA string `json:"sha"`
	// Env is the workflow's and the job's environment, the job's winning. Steps add their own.
	Env map[string]string `json:"env,omitempty"`
	// Steps in the order in which they run: 1 to MaxSteps of them.
	Steps []Step `json:"steps"`
	// RunsOn are the labels a runner must have, all of them; at least one.
	RunsOn []string `json:"runs_on"`
	// TimeoutMinutes is what all steps together may take: more than 0, at most MaxTimeoutMinutes.
	TimeoutMinutes float64 `json:"timeout_minutes"`
}

// Step is one step. Exactly one of Run and Uses is set.
type Step struct {
	// Number counts from 1 without gaps.
	Number int `json:"number"`
	// ID is the user's id of the step, or empty.
	ID string `json:"id,omitempty"`
	// Name is what people see; never empty.
	Name string `json:"name"`

	// Run is a script.
	Run string `json:"run,omitempty"`
	// Shell that runs it: "bash" (bash --noprofile --norc -eo pipefail), "sh" (sh -e), or empty: bash -e if there
	// is a bash, else sh -e. So says GitHub's documentation of jobs.<job_id>.steps[*].shell.
	Shell string `json:"shell,omitempty"`
	// WorkingDirectory of the script, below the tree's top; empty: the top. It never leaves the tree by name, but
	// may do so through a symbolic link of the user's.
	WorkingDirectory string `json:"working_directory,omitempty"`

	// Uses is Checkout or SetupGo.
	Uses string `json:"uses,omitempty"`
	// With are the inputs of Uses.
	With map[string]string `json:"with,omitempty"`

	// Env is added to the job's for this step alone.
	Env map[string]string `json:"env,omitempty"`
	// TimeoutMinutes of this step, at most MaxTimeoutMinutes; 0: only the job's timeout.
	TimeoutMinutes float64 `json:"timeout_minutes,omitempty"`
}

// Encode returns the JSON of s. It sets the version, and fails if s breaks a rule stated at its fields or holds
// text that PostgreSQL's jsonb refuses (NUL, broken UTF-8).
func Encode(s Spec) ([]byte, error) {
	s.Version = Version
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("encode spec: %w", err)
	}
	data, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode spec: %w", err)
	}
	return data, nil
}

// Decode reads what Encode wrote. Another version is ErrVersion; an unknown field, anything behind the value and a
// broken rule are errors too, because to go on would be to do something else than what was planned.
func Decode(data []byte) (Spec, error) {
	var v struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return Spec{}, fmt.Errorf("decode spec: %w", err)
	}
	if v.Version != Version {
		return Spec{}, fmt.Errorf("decode spec: version %d, this binary reads %d: %w", v.Version, Version, ErrVersion)
	}

	var s Spec
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return Spec{}, fmt.Errorf("decode spec: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Spec{}, errors.New("decode spec: data behind the value")
	}
	if err := s.check(); err != nil {
		return Spec{}, fmt.Errorf("decode spec: %w", err)
	}
	return s, nil
}

var fullSHA = regexp.MustCompile(`^[0-9a-f]{40}$`)

func (s *Spec) check() error {
	switch {
	case s.SourceID <= 0:
		return fmt.Errorf("source id %d is not positive", s.SourceID)
	case !fullSHA.MatchString(s.SHA):
		return fmt.Errorf("commit %q is not 40 hex digits", s.SHA)
	case len(s.RunsOn) == 0:
		return errors.New("no runner label")
	case !(s.TimeoutMinutes > 0 && s.TimeoutMinutes <= MaxTimeoutMinutes): // also refuses NaN
		return fmt.Errorf("timeout of %v minutes is out of range", s.TimeoutMinutes)
	case len(s.Steps) == 0 || len(s.Steps) > MaxSteps:
		return fmt.Errorf("%d steps, want 1 to %d", len(s.Steps), MaxSteps)
	}
	if err := checkText(s.Env, s.RunsOn...); err != nil {
		return err
	}
	for i := range s.Steps {
		if err := s.Steps[i].check(i + 1); err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
	}
	return nil
}

func (s *Step) check(number int) error {
	switch {
	case s.Number != number:
		return fmt.Errorf("has number %d", s.Number)
	case s.Name == "":
		return errors.New("has no name")
	case (s.Run == "") == (s.Uses == ""):
		return errors.New("wants exactly one of run and uses")
	case s.Uses != "" && s.Uses != Checkout && s.Uses != SetupGo:
		return fmt.Errorf("uses %q, which is not known", s.Uses)
	case s.Uses != "" && (s.Shell != "" || s.WorkingDirectory != ""):
		return errors.New("uses something and has a shell or a working directory")
	case s.Run != "" && len(s.With) > 0:
		return errors.New("runs a script and has inputs")
	case s.Shell != "" && s.Shell != "bash" && s.Shell != "sh":
		return fmt.Errorf("shell %q is not known", s.Shell)
	case !(s.TimeoutMinutes >= 0 && s.TimeoutMinutes <= MaxTimeoutMinutes):
		return fmt.Errorf("timeout of %v minutes is out of range", s.TimeoutMinutes)
	}
	if err := checkText(s.With); err != nil {
		return err
	}
	return checkText(s.Env, s.ID, s.Name, s.Run, s.WorkingDirectory)
}

func checkText(m map[string]string, more ...string) error {
	for k, v := range m {
		more = append(more, k, v)
	}
	for _, t := range more {
		if !utf8.ValidString(t) || strings.ContainsRune(t, 0) {
			return fmt.Errorf("text %.100q has a NUL or is not UTF-8", t)
		}
	}
	return nil
}
