package demo

import (
	"testing"

	"github.com/signup-saga/signup-saga/client"
	"github.com/signup-saga/signup-saga/contract/wire"
)

func TestBalance(t *testing.T) {
	promises := []accepted{{Signup: client.Signup{Signup: wire.Signup{MemberID: "a"}}},
		{Signup: client.Signup{Signup: wire.Signup{MemberID: "b"}}}}
	ready := map[string]string{"a": "ready", "b": "ready"}
	for name, c := range map[string]struct {
		states  map[string]string
		created map[string]int
		want    books
	}{
		"all well": {ready, map[string]int{"a": 1, "b": 1}, books{2, 2, 0, 0}},
		"one is still on its way": {map[string]string{"a": "ready", "b": "provisioning"}, map[string]int{"a": 1},
			books{2, 1, 0, 0}},
		"the database forgot one": {map[string]string{"a": "ready"}, map[string]int{"a": 1, "b": 1},
			books{2, 1, 1, 0}},
		"ready, but without a storage":  {ready, map[string]int{"a": 1}, books{2, 1, 1, 0}},
		"a storage was created twice":   {ready, map[string]int{"a": 2, "b": 1}, books{2, 2, 0, 1}},
		"a storage was made for nobody": {ready, map[string]int{"a": 1, "b": 1, "c": 1}, books{2, 2, 0, 1}},
		"others were there already": {map[string]string{"a": "ready", "b": "ready", "z": "ready"},
			map[string]int{"a": 1, "b": 1}, books{2, 2, 0, 0}},
		"nothing that was promised came": {nil, nil, books{2, 0, 2, 0}},
	} {
		got := balance(promises, c.states, c.created)
		if got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
		if well := name == "all well" || name == "others were there already"; got.balances() != well {
			t.Errorf("%s: balances is %v", name, got.balances())
		}
	}
}
