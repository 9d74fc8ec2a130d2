// The ledger of a measurement: when each delivery set out, whether it was accepted, when the consumer had it. Owns the check
// that every accepted one arrived, once.
package main

import (
	"log"
	"sync"
	"sync/atomic"
	"time"
)

// patience is how long nothing may arrive until the rest counts as lost.
const patience = 10 * time.Second

// ledger is of one measurement.
type ledger struct {
	first        int
	began        time.Time
	entries      []entry
	arrivals     atomic.Int64
	repeated     atomic.Int64
	firstRefusal sync.Once
}

// entry is of one delivery; its times count from when the ledger began, and zero is never.
type entry struct {
	setOut   time.Duration
	accepted bool
	arrived  atomic.Int64
}

// flaws is what went wrong: deliveries that were not accepted, accepted ones that never arrived, arrivals of what had arrived
// before, and arrivals of nothing that was under way.
type flaws struct {
	refused, lost, repeated, strays int64
}

func (f *flaws) add(other flaws) {
	f.refused += other.refused
	f.lost += other.lost
	f.repeated += other.repeated
	f.strays += other.strays
}

func newLedger(deliveries []delivery) *ledger {
	return &ledger{first: deliveries[0].number, began: time.Now(), entries: make([]entry, len(deliveries))}
}

func (l *ledger) now() time.Duration {
	return time.Since(l.began)
}

// settle waits until every accepted delivery has arrived, and says how long after `end` the last one did.
func (l *ledger) settle(accepted int, end time.Duration) (behind time.Duration, seen flaws) {
	arrived, since := l.arrivals.Load(), time.Now()
	for arrived < int64(accepted) && time.Since(since) < patience {
		time.Sleep(time.Millisecond)
		if now := l.arrivals.Load(); now != arrived {
			arrived, since = now, time.Now()
		}
	}
	var last time.Duration
	for index := range l.entries {
		at := time.Duration(l.entries[index].arrived.Load())
		if l.entries[index].accepted && at == 0 {
			seen.lost++
		}
		last = max(last, at)
	}
	seen.repeated = l.repeated.Load()
	return max(last-end, 0), seen
}

// ledgers of one system, of which one is open at most.
type ledgers struct {
	open   atomic.Pointer[ledger]
	strays atomic.Int64
}

// arrived is what the consumer calls with every body it gets.
func (l *ledgers) arrived(body []byte) {
	number, err := numberOf(body)
	if err != nil {
		log.Fatalf("the consumer got something else: %q", body)
	}
	open := l.open.Load()
	if open == nil || number < open.first || number >= open.first+len(open.entries) {
		l.strays.Add(1)
		return
	}
	if !open.entries[number-open.first].arrived.CompareAndSwap(0, int64(open.now())) {
		open.repeated.Add(1)
		return
	}
	open.arrivals.Add(1)
}
