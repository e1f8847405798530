package main

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// verdict collects what went wrong. Once bad, it stays bad.
type verdict struct {
	mu      sync.Mutex
	reasons []string
}

const maxReasons = 8

func (v *verdict) fail(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.reasons) < maxReasons {
		v.reasons = append(v.reasons, err.Error())
		say("trouble: %v", err)
	}
}

func (v *verdict) String() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.reasons) == 0 {
		return "ok"
	}
	return fmt.Sprintf("bad reasons=%q", strings.Join(v.reasons, "; "))
}

// line is what the rig reads:
//
//	guest: verdict ok up=12.345 cpus=2 pages=16384 writes=2000 checks=4000 passes=0 ticks=1234 lost=0 gap=10.1ms signals=55
//	guest: verdict bad reasons="..." up=...
//
// passes counts how often the slowest worker checked all its memory, gap is the longest time between two deliveries of
// the 10 ms timer since the last report that asked for it, drift compares the TSC's rate with its rate at the start.
func (w *work) line(word string) string {
	var pages, writes, checks uint64
	passes := ^uint64(0)
	for _, s := range w.slabs {
		pages += uint64(len(s.pages))
		writes += s.writes.Load()
		checks += s.checks.Load()
		passes = min(passes, s.passes.Load())
	}
	lost := w.ticker.lost()
	if lost > 1 || lost < -1 {
		w.verdict.fail(fmt.Errorf("%d ticks of the 10 ms timer are missing after %d", lost, w.ticker.ticks.Load()))
	}
	return fmt.Sprintf("%s %v up=%.3f cpus=%d pages=%d writes=%d checks=%d passes=%d ticks=%d lost=%d gap=%.1fms signals=%d drift=%dppm",
		word, &w.verdict, uptime().Seconds(), len(w.slabs), pages, writes, checks, passes,
		w.ticker.ticks.Load(), lost, float64(w.ticker.longest.Swap(0))/float64(time.Millisecond),
		w.signals.Load(), w.rate.driftPPM())
}
