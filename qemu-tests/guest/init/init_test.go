package main

import (
	"crypto/sha256"
	"strings"
	"testing"
	"time"
)

func TestOptions(t *testing.T) {
	o, complaints := parseOptions("console=ttyS0 guest=shell guest.mem=96M guest.rate=0 guest.report=250ms quiet\n")
	if want := (options{modeShell, 96 << 20, 0, 250 * time.Millisecond}); o != want || len(complaints) != 0 {
		t.Errorf("got %+v %q, want %+v and no complaint", o, complaints, want)
	}
	defaults, _ := parseOptions("")
	o, complaints = parseOptions("guest=party guest.mem=0 guest.mem=9999999999G guest.rate=-1 guest.report=1ns guest.colour=red guesthouse=1")
	if o != defaults {
		t.Errorf("bad options changed %+v to %+v", defaults, o)
	}
	if len(complaints) != 6 {
		t.Errorf("six bad options, complaints %q", complaints)
	}
}

func FuzzParseOptions(f *testing.F) {
	f.Add("guest=workload guest.mem=1K")
	f.Fuzz(func(t *testing.T, s string) {
		if o, _ := parseOptions(s); o.mem > 1<<40 || o.rate < 0 || o.report <= 0 || o.mode == "" {
			t.Errorf("%q gives %+v", s, o)
		}
	})
}

func TestEveryChangedBitIsFound(t *testing.T) {
	s, err := newSlab(4*pageBytes, 1)
	if err != nil {
		t.Fatal(err)
	}
	s.fill()
	if err := s.work(16); err != nil {
		t.Fatal(err)
	}
	before, err := s.sum()
	if err != nil {
		t.Fatal(err)
	}
	for bit := 0; bit < 64; bit += 7 {
		for _, word := range []int{0, 1, pageWords - 1} {
			s.pages[2][word] ^= 1 << bit
			if _, err := s.sum(); err == nil || !strings.Contains(err.Error(), "page 2 of 4") {
				t.Errorf("bit %d of word %d: got %v", bit, word, err)
			}
			s.pages[2][word] ^= 1 << bit
		}
	}
	s.write(1)
	after, err := s.sum()
	if err != nil || after == before {
		t.Errorf("sum %#x did not change with a page: %v", after, err)
	}
}

func TestClockThatGoesBackIsSeen(t *testing.T) {
	var w watermark
	for _, c := range []struct{ now, back uint64 }{{10, 0}, {10, 0}, {12, 0}, {11, 1}, {12, 0}, {2, 10}} {
		if got := w.observe(func() uint64 { return c.now }); got != c.back {
			t.Errorf("reading %d: went back by %d, want %d", c.now, got, c.back)
		}
	}
}

func TestTicksAgreeWithTheClock(t *testing.T) {
	tick, err := startTicker(func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(5 * tickPeriod)
	lost := tick.lost() // waits for what is late, so it comes first
	if n := tick.ticks.Load(); n < 4 || lost < 0 || lost > 1 {
		t.Errorf("%d ticks, %d lost", n, lost)
	}
}

func TestVectorCheckHolds(t *testing.T) {
	for seed := range uint64(100) {
		if err := vectorCheck(sha256.New(), seed); err != nil {
			t.Fatal(err)
		}
	}
}

func TestKernelTroubleIsRecognised(t *testing.T) {
	for record, want := range map[string]string{
		"4,600,5000,-;watchdog: BUG: soft lockup - CPU#0 stuck for 22s!\n SUBSYSTEM=cpu": "watchdog: BUG: soft lockup - CPU#0 stuck for 22s!",
		"3,1,1,-;rcu: INFO: rcu_sched self-detected stall on CPU":                        "rcu: INFO: rcu_sched self-detected stall on CPU",
		"6,1,1,-;clocksource: Switched to clocksource tsc":                               "",
		"6,1,1,-;Linux version 6.1":                                                      "",
		"4,1,1,-;hrtimer: interrupt took 3021908077 ns":                                  "",
		"4,1,1,-;hrtimer: interrupt took 11908077000 ns":                                 "hrtimer: interrupt took 11908077000 ns",
	} {
		if got, _ := trouble(record); got != want {
			t.Errorf("%q gives %q, want %q", record, got, want)
		}
	}
}

// A TSC that Linux could not compare is remarked; one that differs is a trouble, also after that.
func TestATSCThatWasNotComparedIsNoTrouble(t *testing.T) {
	const (
		slow = "4,1,1,-;clocksource: timekeeping watchdog on CPU0: acpi_pm read-back delay of 139000ns, attempt 2, marking unstable"
		skew = "4,1,1,-;clocksource: timekeeping watchdog on CPU0: Marking clocksource 'tsc' as unstable because the skew is too large:"
		up   = "6,1,1,-;tsc: Marking TSC unstable due to clocksource watchdog"
	)
	for _, c := range []struct {
		records []string
		bad     int
	}{{[]string{slow, up}, 0}, {[]string{up}, 1}, {[]string{skew, up}, 2}, {[]string{slow, skew, up}, 1}, {[]string{slow, up, up}, 1}} {
		var k kernelLog
		bad := 0
		for _, r := range c.records {
			if _, b, _ := k.judge(r); b {
				bad++
			}
		}
		if bad != c.bad {
			t.Errorf("%q: %d troubles, want %d", c.records, bad, c.bad)
		}
	}
}

func TestPaceKeepsTheRateAndBoundsTheBurst(t *testing.T) {
	p := pace{rate: 1000, last: time.Now().Add(-time.Hour)}
	if n := p.due(); n != 64 {
		t.Errorf("%d pages due after an hour, want the burst of 64", n)
	}
	p.last = time.Now().Add(-10 * time.Millisecond)
	if n := p.due(); n < 10 || n > 64 {
		t.Errorf("%d pages due after 10 ms at 1000 a second", n)
	}
}
