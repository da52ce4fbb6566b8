package main

import (
	"image/color"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
)

// curve is a system's latency over time.
type curve struct {
	name   string
	points []point
}

var palette = []color.RGBA{{31, 119, 180, 255}, {214, 39, 40, 255}, {44, 160, 44, 255}, {148, 103, 189, 255}}

// drawSVG writes the curves as a picture: p99 as a line, p50 dashed.
func drawSVG(path string, curves []curve) error {
	p := plot.New()
	p.Title.Text = "Commit to consumer beside a pinned snapshot, 1,000 events/s"
	p.X.Label.Text = "seconds since the snapshot was taken"
	p.Y.Label.Text = "milliseconds"
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	p.Legend.Top, p.Legend.Left = true, true
	p.Add(plotter.NewGrid())
	for i, c := range curves {
		for _, part := range []struct {
			name   string
			value  func(point) float64
			dashes []vg.Length
		}{
			{"p99", func(p point) float64 { return p.p99 }, nil},
			{"p50", func(p point) float64 { return p.p50 }, []vg.Length{vg.Points(3), vg.Points(3)}},
		} {
			xys := make(plotter.XYs, len(c.points))
			for j, pt := range c.points {
				xys[j] = plotter.XY{X: pt.second, Y: max(part.value(pt), 0.01)} // a log scale needs positive values
			}
			l, err := plotter.NewLine(xys)
			if err != nil {
				return err
			}
			l.Color, l.Dashes = palette[i%len(palette)], part.dashes
			p.Add(l)
			p.Legend.Add(c.name+" "+part.name, l)
		}
	}
	return p.Save(20*vg.Centimeter, 12*vg.Centimeter, path)
}
