// Puts the same signed deliveries through several systems in turn, and writes what it saw as Markdown and SVG. Owns the plan:
// what is measured for how long, and in which order.
//
//	load --secret-file FILE --output DIRECTORY [--quick] [--note TEXT]... --system 'TITLE|TARGET|SOURCE'...
//
// What a TARGET is says target.go, what a SOURCE is says source.go.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"slices"
	"strings"
	"time"
)

// The connections of the loop that goes as fast as it can, and what is prepared for it, and for one connection alone.
const (
	connections          = 64
	preparedPerSecond    = 60_000
	preparedPerSecondOne = 15_000
)

// The deliveries of the steady load, a second.
const rate = 200

// rest lets disk, index and garbage come to rest, so that one system does not pay for another. What keeps the cores busy after
// that, and for how long this is watched, is nothing of ours.
const (
	rest         = 400 * time.Millisecond
	watch        = 200 * time.Millisecond
	busyShareMax = 0.2
)

// plan says how much is measured: with many connections, with one, and at a steady rate.
type plan struct {
	Rounds                   int
	WarmUp, Many, One, Paced time.Duration
}

var (
	fullPlan  = plan{Rounds: 5, WarmUp: 2 * time.Second, Many: 2 * time.Second, One: time.Second, Paced: 3 * time.Second}
	quickPlan = plan{Rounds: 1, WarmUp: 500 * time.Millisecond, Many: time.Second, One: 500 * time.Millisecond, Paced: time.Second}
)

// system is one of those that are compared, and what was measured of it.
type system struct {
	title  string
	target target
	ledger *ledgers

	manyPerSecond, onePerSecond []float64
	p50, p99                    []time.Duration
	behind                      []time.Duration
	flaws                       flaws
}

func main() {
	log.SetFlags(0)
	var descriptions, notes texts
	flag.Var(&descriptions, "system", "`TITLE|TARGET|SOURCE` of a system; may be repeated")
	flag.Var(&notes, "note", "a sentence about where and with what this runs; may be repeated")
	secretFile := flag.String("secret-file", "", "a `FILE` with the secret that signs deliveries")
	output := flag.String("output", "", "the `DIRECTORY` for what is written")
	quick := flag.Bool("quick", false, "one short round")
	flag.Parse()
	secret, err := os.ReadFile(*secretFile)
	check(err)
	chosen := fullPlan
	if *quick {
		chosen = quickPlan
	}

	var systems []*system
	for _, description := range descriptions {
		systems = append(systems, connect(context.Background(), description))
	}
	disturbed := chosen.run(systems, &deliverer{secret: secret})
	check(write(*output, systems, chosen, notes, disturbed))
}

// connect reaches both ends of a system.
func connect(ctx context.Context, description string) *system {
	parts := strings.Split(description, "|")
	if len(parts) != 3 {
		log.Fatalf("not TITLE|TARGET|SOURCE: %s", description)
	}
	connected := &system{title: parts[0], ledger: &ledgers{}}
	check(follow(ctx, parts[2], connected.ledger.arrived))
	var err error
	connected.target, err = targetOf(parts[1])
	check(err)
	return connected
}

// run measures all systems, and says before how many of the measurements the machine was not quiet.
func (p plan) run(systems []*system, from *deliverer) (disturbed int) {
	each := func(systems []*system, prepared int, measure func(*system, []delivery)) {
		deliveries := from.next(prepared)
		for _, measured := range systems {
			time.Sleep(rest)
			if busyShare(watch) > busyShareMax {
				disturbed++
			}
			measure(measured, deliveries)
		}
	}
	prepared := func(perSecond int, duration time.Duration) int {
		return int(float64(perSecond) * duration.Seconds())
	}

	each(systems, prepared(preparedPerSecond, p.WarmUp), func(measured *system, deliveries []delivery) {
		ran := closedLoop(measured, connections, p.WarmUp, deliveries)
		measured.flaws.add(ran.flaws)
	})
	for round := range p.Rounds {
		// There and back again, so that nobody always follows the same one.
		inOrder := slices.Clone(systems)
		if round%2 == 1 {
			slices.Reverse(inOrder)
		}
		each(inOrder, prepared(preparedPerSecond, p.Many), func(measured *system, deliveries []delivery) {
			ran := closedLoop(measured, connections, p.Many, deliveries)
			measured.manyPerSecond = append(measured.manyPerSecond, ran.perSecond)
			measured.behind = append(measured.behind, ran.behind)
			measured.flaws.add(ran.flaws)
			log.Printf("round %d, %d connections: %-60s %8.0f /s", round+1, connections, measured.title, ran.perSecond)
		})
		each(inOrder, prepared(preparedPerSecondOne, p.One), func(measured *system, deliveries []delivery) {
			ran := closedLoop(measured, 1, p.One, deliveries)
			measured.onePerSecond = append(measured.onePerSecond, ran.perSecond)
			measured.flaws.add(ran.flaws)
			log.Printf("round %d, one connection: %-63s %8.0f /s", round+1, measured.title, ran.perSecond)
		})
		each(inOrder, prepared(rate, p.Paced), func(measured *system, deliveries []delivery) {
			ran := openLoop(measured, rate, deliveries)
			p50, p99 := quantile(ran.ways, 0.5), quantile(ran.ways, 0.99)
			measured.p50, measured.p99 = append(measured.p50, p50), append(measured.p99, p99)
			measured.flaws.add(ran.flaws)
			log.Printf("round %d, %d/s: %-70s %v, %v", round+1, rate, measured.title, p50, p99)
		})
	}
	for _, measured := range systems {
		measured.flaws.strays = measured.ledger.strays.Load()
	}
	return disturbed
}

// texts is a flag that may be repeated.
type texts []string

func (t *texts) String() string {
	return fmt.Sprint(*t)
}

func (t *texts) Set(text string) error {
	*t = append(*t, text)
	return nil
}

// check ends the program, because a benchmark stops at what it does not expect.
func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
