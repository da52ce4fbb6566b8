package e2e

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// redocly is the linter of the OpenAPI documents, pinned.
const redocly = "@redocly/cli@2.77.0"

// An independent linter reports nothing for the three OpenAPI documents, not even a warning.
func TestOpenAPIDocumentsLintClean(t *testing.T) {
	t.Parallel()
	lint := exec.CommandContext(t.Context(), "npx", "--yes", redocly, "lint")
	lint.Dir = repository
	lint.Env = append(os.Environ(), "REDOCLY_TELEMETRY=off", "REDOCLY_SUPPRESS_UPDATE_NOTICE=true")
	out, err := lint.CombinedOutput()
	if err != nil || strings.Count(string(out), ": validated in ") != 3 {
		t.Errorf("%v\n%s", err, out)
	}
}
