package stack

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
)

// Variable is one environment variable that says how to reach the stack.
type Variable struct{ Name, Value string }

// Variables are the settings of a stack, in the order in which they are shown.
type Variables []Variable

// Get returns the value of a variable, or "" if there is none.
func (v Variables) Get(name string) string {
	for _, one := range v {
		if one.Name == name {
			return one.Value
		}
	}
	return ""
}

var plain = regexp.MustCompile(`^[\w./:@?=%+,-]*$`)

// file returns the variables in a form that a shell can source with ".".
func (v Variables) file() []byte {
	var b bytes.Buffer
	for _, one := range v {
		value := one.Value
		if !plain.MatchString(value) {
			value = "'" + strings.ReplaceAll(value, "'", `'\''`) + "'"
		}
		fmt.Fprintf(&b, "%s=%s\n", one.Name, value)
	}
	return b.Bytes()
}
