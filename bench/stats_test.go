package main

import (
	"math"
	"testing"
	"time"
)

func TestMedianAndSpread(t *testing.T) {
	if got := (series{30, 10, 20}).text(); got != "20.0 (10.0–30.0)" {
		t.Errorf("text = %q", got)
	}
	if got := (series{4, 1, 2, 3}).median(); got != 2.5 {
		t.Errorf("median of four = %v", got)
	}
	if !math.IsNaN(series{}.median()) {
		t.Error("a median of nothing")
	}
}

func TestRatioIsTakenPerRepetition(t *testing.T) {
	// The machine slowed down by half between the repetitions; each ratio is still right.
	got := series{90, 45, 22}.over(series{100, 50, 25})
	if got.median() != 0.9 || len(got) != 3 || got[2] != 0.88 {
		t.Errorf("ratios %v", got)
	}
}

func TestPercentiles(t *testing.T) {
	var l latencies
	for i := range 1000 {
		l = append(l, time.Duration(1000-i)*time.Millisecond)
	}
	if p50, p99 := l.percentiles(); p50 != 500.5 || p99 != 990 {
		t.Errorf("p50 %v, p99 %v", p50, p99)
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{1234567: "1,234,567", 1000: "1,000", 123.4: "123", 12.34: "12.3",
		0.857: "0.86", 0: "0.00"} {
		if got := number(v); got != want {
			t.Errorf("number(%v) = %q, want %q", v, got, want)
		}
	}
}
