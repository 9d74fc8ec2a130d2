// The plot: for each system a bar of deliveries a second and a line from p50 to p99 of the way to the consumer, as SVG.
package main

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
	"time"
)

// Lengths in pixels.
const (
	plotWidth   = 940
	titlesWidth = 320
	panelWidth  = 230
	panelGap    = 80
	headHeight  = 64
	rowHeight   = 30
	footHeight  = 16
	barHeight   = 14
)

func plot(systems []*system) string {
	var svg strings.Builder
	draw := func(format string, arguments ...any) {
		fmt.Fprintf(&svg, format+"\n", arguments...)
	}
	height := headHeight + rowHeight*len(systems) + footHeight
	draw(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13" fill="#222">`, plotWidth, height)
	draw(`<rect width="100%%" height="100%%" fill="#fff"/>`)

	// Not zero, even if nothing was accepted at all.
	perSecondMax, wayMax := 1.0, time.Microsecond
	for _, system := range systems {
		perSecondMax = max(perSecondMax, slices.Max(system.manyPerSecond))
		wayMax = max(wayMax, quantile(system.p99, 0.5))
	}
	rates := panel{left: titlesWidth, perUnit: panelWidth / perSecondMax}
	ways := panel{left: titlesWidth + panelWidth + panelGap, perUnit: panelWidth / milli(wayMax)}
	bottom := height - footHeight
	rates.axis(draw, bottom, perSecondMax, fmt.Sprintf("Deliveries a second, %d connections", connections))
	ways.axis(draw, bottom, milli(wayMax), fmt.Sprintf("At %d/s, ms to the consumer, p50 to p99", rate))

	for index, system := range systems {
		middle := headHeight + rowHeight*index + rowHeight/2
		fill := "#9aa5b1"
		if strings.HasPrefix(system.title, "hookstream") {
			fill = "#2563eb"
		}
		draw(`<text x="%d" y="%d" text-anchor="end">%s</text>`, titlesWidth-10, middle+5, html.EscapeString(system.title))
		median := quantile(system.manyPerSecond, 0.5)
		least, most := rates.at(slices.Min(system.manyPerSecond)), rates.at(slices.Max(system.manyPerSecond))
		draw(`<path d="M%d %dH%.1f" stroke="%s" stroke-width="%d"/>`, rates.left, middle, rates.at(median), fill, barHeight)
		draw(`<path d="M%.1f %dH%.1f" stroke="#222"/>`, least, middle, most)
		draw(`<text x="%.1f" y="%d" font-size="11">%s</text>`, most+5, middle+4, grouped(median))
		p50, p99 := ways.at(milli(quantile(system.p50, 0.5))), ways.at(milli(quantile(system.p99, 0.5)))
		draw(`<path d="M%.1f %dH%.1f" stroke="%s" stroke-width="3"/>`, p50, middle, p99, fill)
		draw(`<circle cx="%.1f" cy="%d" r="5" fill="%s"/>`, p50, middle, fill)
		draw(`<path d="M%.1f %dv12" stroke="%s" stroke-width="3"/>`, p99, middle-6, fill)
	}
	draw(`</svg>`)
	return svg.String()
}

// panel is one of the two, from its zero on.
type panel struct {
	left    int
	perUnit float64
}

func (p panel) at(value float64) float64 {
	return float64(p.left) + value*p.perUnit
}

// axis draws a heading and three to six lines at round values.
func (p panel) axis(draw func(string, ...any), bottom int, largest float64, heading string) {
	draw(`<text x="%d" y="22" font-weight="bold">%s</text>`, p.left, html.EscapeString(heading))
	step := math.Pow(10, math.Floor(math.Log10(largest)))
	switch {
	case largest/step < 2:
		step /= 2
	case largest/step > 5:
		step *= 2
	}
	for value := 0.0; value <= largest; value += step {
		draw(`<path d="M%.1f %dV%d" stroke="#ddd"/>`, p.at(value), headHeight-6, bottom)
		draw(`<text x="%.1f" y="%d" font-size="11" fill="#666" text-anchor="middle">%s</text>`, p.at(value), headHeight-12, tick(value))
	}
}

// tick writes a number beside an axis.
func tick(value float64) string {
	if value >= 1000 {
		return grouped(value)
	}
	return fmt.Sprintf("%g", value)
}

func milli(duration time.Duration) float64 {
	return float64(duration.Microseconds()) / 1e3
}
