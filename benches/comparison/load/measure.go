// The two loads: as fast as the answers come, and at a steady rate whatever the answers do.
package main

import (
	"log"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// ran is what one measurement saw.
type ran struct {
	// perSecond is how many deliveries were accepted a second.
	perSecond float64
	// behind is how long after the last answer the consumer had everything.
	behind time.Duration
	// ways is how long each accepted delivery took to the consumer.
	ways  []time.Duration
	flaws flaws
}

// begin opens senders and a ledger. What earlier measurements left is collected first.
func begin(measured *system, senders int, deliveries []delivery) ([]sender, *ledger) {
	runtime.GC()
	opened := make([]sender, senders)
	for index := range opened {
		var err error
		opened[index], err = measured.target.open()
		check(err)
	}
	ledger := newLedger(deliveries)
	measured.ledger.open.Store(ledger)
	return opened, ledger
}

// end waits for the consumer and sums up what `ledger` has of the first `sent` deliveries.
func end(measured *system, senders []sender, ledger *ledger, sent int, elapsed time.Duration) ran {
	for _, sender := range senders {
		sender.close()
	}
	accepted := 0
	for index := range ledger.entries[:sent] {
		if ledger.entries[index].accepted {
			accepted++
		}
	}
	behind, seen := ledger.settle(accepted, elapsed)
	measured.ledger.open.Store(nil)
	seen.refused = int64(sent - accepted)
	summed := ran{perSecond: float64(accepted) / elapsed.Seconds(), behind: behind, flaws: seen}
	for index := range ledger.entries[:sent] {
		entry := &ledger.entries[index]
		if at := time.Duration(entry.arrived.Load()); entry.accepted && at != 0 {
			summed.ways = append(summed.ways, at-entry.setOut)
		}
	}
	return summed
}

// deliver sends one delivery, which set out at that time, and waits for its answer.
func (l *ledger) deliver(sender sender, delivery delivery, setOut time.Duration) {
	entry := &l.entries[delivery.number-l.first]
	entry.setOut = setOut
	if err := sender.send(delivery); err != nil {
		l.firstRefusal.Do(func() { log.Printf("not accepted, and maybe not the last: %v", err) })
		return
	}
	entry.accepted = true
}

// closedLoop lets each of some connections send its next delivery when the one before is answered. It ends early if all that was
// prepared is sent.
func closedLoop(measured *system, connections int, duration time.Duration, deliveries []delivery) ran {
	senders, ledger := begin(measured, connections, deliveries)
	var next atomic.Int64
	var sending sync.WaitGroup
	for _, sender := range senders {
		sending.Go(func() {
			for ledger.now() < duration {
				index := int(next.Add(1)) - 1
				if index >= len(deliveries) {
					return
				}
				ledger.deliver(sender, deliveries[index], ledger.now())
			}
		})
	}
	sending.Wait()
	return end(measured, senders, ledger, min(int(next.Load()), len(deliveries)), ledger.now())
}

// openLoop sends so many deliveries a second. One that finds every connection busy waits, with its clock running.
func openLoop(measured *system, perSecond int, deliveries []delivery) ran {
	senders, ledger := begin(measured, connections, deliveries)
	free := make(chan sender, len(senders))
	for _, sender := range senders {
		free <- sender
	}
	interval := time.Second / time.Duration(perSecond)
	var sending sync.WaitGroup
	for index, delivery := range deliveries {
		time.Sleep(time.Duration(index)*interval - ledger.now())
		setOut := ledger.now()
		sender := <-free
		sending.Go(func() {
			ledger.deliver(sender, delivery, setOut)
			free <- sender
		})
	}
	sending.Wait()
	return end(measured, senders, ledger, len(deliveries), ledger.now())
}

// quantile is the value below which this share of the values lies.
func quantile[T float64 | time.Duration](values []T, share float64) T {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[int(share*float64(len(sorted)-1)+0.5)]
}
