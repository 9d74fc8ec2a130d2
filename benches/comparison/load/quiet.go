// How quiet the machine is, as the kernel counts it.
package main

import (
	"fmt"
	"os"
	"time"
)

// busyShare is how much of all cores is in use during the next moment, by whomever.
func busyShare(moment time.Duration) float64 {
	busyBefore, allBefore := ticks()
	time.Sleep(moment)
	busy, all := ticks()
	return (busy - busyBefore) / max(all-allBefore, 1)
}

// ticks are what all cores have spent since the machine started.
func ticks() (busy, all float64) {
	text, err := os.ReadFile("/proc/stat")
	check(err)
	var user, nice, system, idle, waiting, interrupts, softInterrupts, stolen float64
	_, err = fmt.Sscanf(string(text), "cpu %f %f %f %f %f %f %f %f",
		&user, &nice, &system, &idle, &waiting, &interrupts, &softInterrupts, &stolen)
	check(err)
	busy = user + nice + system + interrupts + softInterrupts + stolen
	return busy, busy + idle + waiting
}
