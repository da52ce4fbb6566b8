package outboxtest_test

import (
	"errors"
	"testing"

	"github.com/signup-saga/signup-saga/outbox/outboxtest"
)

func TestFaultFiresAsOftenAsConfigured(t *testing.T) {
	for _, tt := range []struct {
		fault *outboxtest.Fault
		point string
	}{
		{outboxtest.FailBefore(outboxtest.Publish, 2), "publish"},
		{outboxtest.FailAfter(outboxtest.Publish, 2), "published"},
		{outboxtest.FailBefore(outboxtest.Checkpoint, 2), "checkpoint"},
		{outboxtest.FailAfter(outboxtest.Checkpoint, 2), "checkpointed"},
	} {
		failed := 0
		for range 5 {
			for _, point := range []string{"read", "publish", "published", "checkpoint", "checkpointed"} {
				if err := tt.fault.Hook(point); err != nil {
					failed++
					if point != tt.point || !errors.Is(err, outboxtest.ErrInjected) {
						t.Errorf("%s failed with %v, want only %s to fail", point, err, tt.point)
					}
				}
			}
		}
		if failed != 2 || tt.fault.Fired() != 2 {
			t.Errorf("%s failed %d times and reports %d, want 2", tt.point, failed, tt.fault.Fired())
		}
	}
}
