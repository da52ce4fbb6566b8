package wire_test

import (
	"encoding/json"
	"testing"

	"github.com/signup-saga/signup-saga/contract/wire"
)

func TestCursors(t *testing.T) {
	for cursor, want := range map[wire.Cursor]string{"": "null", "a-1": `"a-1"`, "\"\x01é": `"\"\u0001é"`} {
		text, err := json.Marshal(cursor)
		var again wire.Cursor
		if err != nil || string(text) != want || json.Unmarshal(text, &again) != nil || again != cursor {
			t.Errorf("%q: %s %q %v", string(cursor), text, again, err)
		}
	}
}
