// Package ledger reads the provider's ledger: the file to which its effective creates and deletes are appended.
package ledger

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Creations returns how often each member's storage has been created. A ledger that does not exist yet is empty.
func Creations(path string) (map[string]int, error) {
	created := map[string]int{}
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for line := range bytes.Lines(text) {
		var entry struct {
			Op       string `json:"op"`
			MemberID string `json:"member_id"`
		}
		if err := json.Unmarshal(line, &entry); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if entry.Op == "create" {
			created[entry.MemberID]++
		}
	}
	return created, nil
}
