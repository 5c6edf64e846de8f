package plan

import (
	"cmp"
	"slices"
	"strings"

	"github.com/rhysd/actionlint"
)

// combination is one job of a matrix: its values in the order of the file.
type combination []value

type value struct {
	name  string // lower case: GitHub looks it up without regard to case
	value string
}

func (c combination) get(name string) (string, bool) {
	for _, v := range c {
		if v.name == name {
			return v.value, true
		}
	}
	return "", false
}

// values are what matrix.<name> stands for. A name that only other combinations have is empty, as on GitHub.
func (c combination) values(names map[string]bool) map[string]string {
	m := map[string]string{}
	for n := range names {
		m[n], _ = c.get(n)
	}
	return m
}

func (c combination) String() string {
	var s []string
	for _, v := range c {
		s = append(s, v.value)
	}
	return strings.Join(s, ", ")
}

// matches says whether c has all the values.
func (c combination) matches(values combination) bool {
	for _, v := range values {
		if have, ok := c.get(v.name); !ok || have != v.value {
			return false
		}
	}
	return true
}

// matrix returns the combinations: the product of the rows, the last varying fastest, without what exclude matches;
// then include, as GitHub's documentation of jobs.<job_id>.strategy.matrix.include has it: an entry is added to each
// original combination whose original values it does not change, else it is a combination of its own.
func (w *workflow) matrix(m *actionlint.Matrix, sc scope) []combination {
	if m.Expression != nil {
		w.mistakef(at(m.Expression.Pos), "an expression is not supported here")
		return nil
	}
	rows := make([]*actionlint.MatrixRow, 0, len(m.Rows))
	for _, row := range m.Rows {
		if row.Expression != nil {
			w.mistakef(at(row.Expression.Pos), "an expression is not supported here")
			return nil
		}
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(a, b *actionlint.MatrixRow) int { return before(a.Name.Pos, b.Name.Pos) })

	mistakes := len(w.mistakes)
	size := 1
	for _, row := range rows {
		// Both factors are small: size is below the limit, and a list has at most maxEntries.
		if size *= len(row.Values); size > 10*maxMatrixJobs {
			w.mistakef(at(m.Pos), "the matrix has more than %d combinations, the limit is %d", 10*maxMatrixJobs, maxMatrixJobs)
			return nil
		}
	}
	var all []combination
	if len(rows) > 0 {
		all = []combination{nil}
	}
	for _, row := range rows {
		var next []combination
		for _, c := range all {
			for _, v := range row.Values {
				next = append(next, append(slices.Clip(c), value{strings.ToLower(row.Name.Value), w.matrixValue(v, sc)}))
			}
		}
		all = next
	}
	for _, out := range w.combinations(m.Exclude, sc) {
		all = slices.DeleteFunc(all, func(c combination) bool { return c.matches(out) })
	}

	originals := slices.Clone(all)
	for _, in := range w.combinations(m.Include, sc) {
		added := false
		for i, original := range originals {
			changes := slices.ContainsFunc(in, func(v value) bool {
				have, ok := original.get(v.name)
				return ok && have != v.value
			})
			if !changes {
				all[i] = all[i].with(in)
				added = true
			}
		}
		if !added {
			all = append(all, in)
		}
	}
	switch {
	case len(all) == 0 && len(w.mistakes) == mistakes:
		w.mistakef(at(m.Pos), "the matrix has no combination left")
	case len(all) > maxMatrixJobs:
		w.mistakef(at(m.Pos), "the matrix has %d combinations, the limit is %d", len(all), maxMatrixJobs)
		return nil
	}
	return all
}

// with returns c with the values set: in their place, or behind the others.
func (c combination) with(values combination) combination {
	c = slices.Clone(c)
	for _, v := range values {
		if i := slices.IndexFunc(c, func(have value) bool { return have.name == v.name }); i >= 0 {
			c[i] = v
		} else {
			c = append(c, v)
		}
	}
	return c
}

// combinations reads an include or exclude list.
func (w *workflow) combinations(list *actionlint.MatrixCombinations, sc scope) (all []combination) {
	if list == nil {
		return nil
	}
	if list.Expression != nil {
		w.mistakef(at(list.Expression.Pos), "an expression is not supported here")
		return nil
	}
	for _, entry := range list.Combinations {
		if entry.Expression != nil {
			w.mistakef(at(entry.Expression.Pos), "an expression is not supported here")
			continue
		}
		assigns := make([]*actionlint.MatrixAssign, 0, len(entry.Assigns))
		for _, a := range entry.Assigns {
			assigns = append(assigns, a)
		}
		slices.SortFunc(assigns, func(a, b *actionlint.MatrixAssign) int { return before(a.Key.Pos, b.Key.Pos) })
		var c combination
		for _, a := range assigns {
			c = append(c, value{strings.ToLower(a.Key.Value), w.matrixValue(a.Value, sc)})
		}
		all = append(all, c)
	}
	return all
}

// matrixValue is a value as text. Lists and mappings are outside the subset; the shape has said so.
func (w *workflow) matrixValue(v actionlint.RawYAMLValue, sc scope) string {
	s, ok := v.(*actionlint.RawYAMLString)
	if !ok {
		return broken
	}
	return w.expand(&actionlint.String{Value: s.Value, Pos: s.Pos()}, sc)
}

func before(a, b *actionlint.Pos) int {
	return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
}
