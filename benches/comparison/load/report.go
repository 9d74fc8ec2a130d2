// What is written at the end: page.md filled in, and the plot beside it. Owns how figures are written.
package main

import (
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
	"time"
)

const (
	pageName = "performance-comparison.md"
	plotName = "performance-comparison.svg"
)

// behindMax is how long after the last answer a consumer may have everything before that is worth a sentence.
const behindMax = 100 * time.Millisecond

//go:embed page.md
var pageText string

// page is what page.md is filled in with.
type page struct {
	Plot              string
	Rows              []row
	Outcome           string
	Disturbed         int
	Measurements      int
	Plan              plan
	Connections, Rate int
	Notes             []string
}

// row is of one system.
type row struct {
	Title, Many, One, P50, P99 string
}

func write(directory string, systems []*system, measured plan, notes []string, disturbed int) error {
	filled := page{
		Plot: plotName, Outcome: outcome(systems), Plan: measured,
		Disturbed: disturbed, Measurements: len(systems) * (1 + 3*measured.Rounds),
		Connections: connections, Rate: rate, Notes: notes,
	}
	for _, system := range systems {
		filled.Rows = append(filled.Rows, row{
			system.title, spread(system.manyPerSecond, grouped), spread(system.onePerSecond, grouped),
			spread(system.p50, milliseconds), spread(system.p99, milliseconds),
		})
	}
	var text strings.Builder
	if err := template.Must(template.New("").Parse(pageText)).Execute(&text, filled); err != nil {
		return err
	}
	fmt.Print("\n", text.String())
	if err := os.WriteFile(filepath.Join(directory, plotName), []byte(plot(systems)), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(directory, pageName), []byte(text.String()), 0o644)
}

// outcome says whether each accepted delivery arrived once, and which consumers could not keep up.
func outcome(systems []*system) string {
	var said []string
	for _, system := range systems {
		if system.flaws != (flaws{}) {
			said = append(said, fmt.Sprintf("**%s: %d deliveries not accepted, %d accepted and not received, %d received again, "+
				"%d received out of turn.**", system.title, system.flaws.refused, system.flaws.lost, system.flaws.repeated, system.flaws.strays))
		}
	}
	if len(said) == 0 {
		said = append(said, "Every system accepted every delivery, and its consumer received each once.")
	}
	for _, system := range systems {
		if behind := quantile(system.behind, 0.5); behind > behindMax {
			said = append(said, fmt.Sprintf("%s: with %d connections, the consumer received the last event %.1f s after the last answer.",
				system.title, connections, behind.Seconds()))
		}
	}
	return strings.Join(said, "\n")
}

// spread writes a median, and what it is the median of if that is more than one value.
func spread[T float64 | time.Duration](values []T, format func(T) string) string {
	median := format(quantile(values, 0.5))
	if len(values) < 2 {
		return median
	}
	return fmt.Sprintf("**%s** (%s–%s)", median, format(slices.Min(values)), format(slices.Max(values)))
}

// grouped writes thousands apart: 12 345.
func grouped(value float64) string {
	digits := fmt.Sprintf("%.0f", value)
	if split := len(digits) - 3; split > 0 {
		return digits[:split] + " " + digits[split:]
	}
	return digits
}

func milliseconds(duration time.Duration) string {
	return fmt.Sprintf("%.2f", milli(duration))
}
