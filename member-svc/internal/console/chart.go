package console

import (
	"fmt"
	"time"

	"github.com/signup-saga/signup-saga/contract/wire"
)

// Sizes of a chart, in units of its viewBox of 600 by 100.
const (
	chartMinutes = 60 // bars
	barStep      = 10 // from one bar to the next
	chartHeight  = 100
)

// chart has a bar for each minute of the last hour.
type chart struct {
	Name, Tone string
	Summary    string // the chart in words
	From       time.Time
	Bars       []bar
}

// bar is a minute with at least one occurrence.
type bar struct {
	X, Y, Height int
	Title        string
}

// newChart draws one number per minute. The newest minute is at the right end, even if there are fewer than
// sixty.
func newChart(name, tone string, minutes []wire.Minute, of func(wire.Minute) int) chart {
	c := chart{Name: name, Tone: tone, Summary: "no data yet"}
	if len(minutes) == 0 {
		return c
	}
	c.From = minutes[0].At
	last := minutes[len(minutes)-1]
	peak, total := minutes[0], 0
	for _, m := range minutes {
		total += of(m)
		if of(m) > of(peak) {
			peak = m
		}
	}
	for i, m := range minutes {
		n := of(m)
		if n == 0 {
			continue
		}
		height := max(2, n*chartHeight/of(peak))
		c.Bars = append(c.Bars, bar{(chartMinutes - len(minutes) + i) * barStep, chartHeight - height, height,
			fmt.Sprintf("%s UTC: %s", clock(m.At), number(n))})
	}
	c.Summary = "none since " + clock(c.From) + " UTC"
	if total > 0 {
		c.Summary = fmt.Sprintf("%s since %s UTC, at most %s in a minute (%s), %s in this minute so far", number(total),
			clock(c.From), number(of(peak)), clock(peak.At), number(of(last)))
	}
	return c
}

func clock(at time.Time) string { return at.UTC().Format("15:04") }
