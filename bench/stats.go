package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// series holds one figure per repetition.
type series []float64

// median returns the median of the values, or NaN if there are none.
func (s series) median() float64 { return quantile(slices.Sorted(slices.Values(s)), 0.5) }

// over returns this series divided by another, repetition by repetition.
func (s series) over(limit series) series {
	ratios := make(series, 0, len(s))
	for i := range min(len(s), len(limit)) {
		ratios = append(ratios, s[i]/limit[i])
	}
	return ratios
}

// text formats the median with the smallest and the largest value.
func (s series) text() string {
	if len(s) == 0 {
		return ""
	}
	return fmt.Sprintf("%s (%s–%s)", number(s.median()), number(slices.Min(s)), number(slices.Max(s)))
}

// number formats three significant digits, and thousands with a comma.
func number(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v):
		return "–"
	case a >= 1000:
		digits := fmt.Sprintf("%.0f", v)
		var parts []string
		for len(digits) > 3 {
			parts = append([]string{digits[len(digits)-3:]}, parts...)
			digits = digits[:len(digits)-3]
		}
		return strings.Join(append([]string{digits}, parts...), ",")
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// quantile returns the q-quantile of ascending values: the mean of the two middle values for q = 0.5 and an even
// count, the nearest rank otherwise.
func quantile[T float64 | time.Duration](ascending []T, q float64) T {
	n := len(ascending)
	if n == 0 {
		return T(math.NaN())
	}
	if q == 0.5 && n%2 == 0 {
		return (ascending[n/2-1] + ascending[n/2]) / 2
	}
	return ascending[max(0, int(math.Ceil(q*float64(n)))-1)]
}

// latencies holds durations in any order.
type latencies []time.Duration

// percentiles returns the median and the 99th percentile in milliseconds.
func (l latencies) percentiles() (p50, p99 float64) {
	if len(l) == 0 {
		return math.NaN(), math.NaN()
	}
	sorted := slices.Sorted(slices.Values(l))
	return milliseconds(quantile(sorted, 0.5)), milliseconds(quantile(sorted, 0.99))
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
