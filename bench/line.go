package main

import (
	"fmt"
	"strings"
)

// line is one line of the result.
type line struct {
	what, unit   string
	limit, value series
	goal         goal
}

// goal is a bound on the ratio of a line to its limit, or on the line's value.
type goal struct {
	bound float64
	most  bool // the bound is an upper bound
	plain bool // for the value, although the line has a limit
	set   bool
}

func atLeast(bound float64) goal { return goal{bound: bound, set: true} }
func atMost(bound float64) goal  { return goal{bound: bound, most: true, set: true} }

// ofValue makes a goal apply to the value itself.
func (g goal) ofValue() goal { g.plain = true; return g }

// judged returns what the goal applies to.
func (l line) judged() series {
	if l.limit == nil || l.goal.plain {
		return l.value
	}
	return l.value.over(l.limit)
}

// met reports whether the median meets the goal.
func (l line) met() bool {
	got := l.judged().median()
	if l.goal.most {
		return got <= l.goal.bound
	}
	return got >= l.goal.bound
}

func (l line) markdown() string {
	ratio, wanted, verdict := "", "", ""
	if l.limit != nil {
		ratio = l.value.over(l.limit).text()
	}
	if l.goal.set {
		sign, of := "≥", ""
		if l.goal.most {
			sign = "≤"
		}
		if l.goal.plain {
			of = " " + l.unit
		}
		wanted = sign + " " + strings.TrimSuffix(number(l.goal.bound), ".00") + of
		verdict = "met"
		if !l.met() {
			verdict = "**missed**"
		}
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %s | %s | %s |", l.what, l.unit, l.limit.text(), l.value.text(), ratio,
		wanted, verdict)
}
