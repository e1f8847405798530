package kernel

import (
	"fmt"
	"slices"
	"testing"
)

// Firmware that still has the power registers is told to let go of them, and waited for,
// before the machine is switched off. What else the registers hold stays.
func TestSwitchingOff(t *testing.T) {
	for _, c := range []struct {
		name string
		s    sleepS5
		pm1  uint16 // at first
		slow int    // looks until firmware has let go; negative: it never does
		want []string
	}{
		{"ACPI mode", sleepS5{pm1a: 0x604, typA: 5, smi: 0xb2, enable: 0xf1}, 0x0205, 0,
			[]string{"604=1605", "604=3605"}},
		{"legacy mode", sleepS5{pm1a: 0x604, typA: 5, smi: 0xb2, enable: 0xf1}, 0, 2,
			[]string{"b2=f1", "604=1401", "604=3401"}},
		{"firmware that does not let go", sleepS5{pm1a: 0x604, typA: 7, smi: 0xb2, enable: 0xf1}, 0, -1,
			[]string{"b2=f1", "604=1c00", "604=3c00"}},
		{"no SMI port", sleepS5{pm1a: 0x604, enable: 0xf1}, 0, 0, []string{"604=0", "604=2000"}},
		{"two registers", sleepS5{pm1a: 0x604, pm1b: 0x704, typA: 1, typB: 2}, 1, 0,
			[]string{"604=401", "704=800", "604=2401", "704=2800"}},
	} {
		ports := map[uint16]uint16{0x604: c.pm1}
		var did []string
		waited := uint64(0)
		c.s.enter(
			func(p uint16) uint16 { return ports[p] },
			func(p, v uint16) { ports[p] = v; did = append(did, fmt.Sprintf("%x=%x", p, v)) },
			func(p uint16, v uint8) { did = append(did, fmt.Sprintf("%x=%x", p, v)) },
			func(us uint64) {
				if waited += us; c.slow > 0 && waited >= uint64(c.slow)*1000 {
					ports[c.s.pm1a] |= pm1SCI
				}
			})
		if !slices.Equal(did, c.want) {
			t.Errorf("%s: wrote %v, want %v", c.name, did, c.want)
		}
		if waited > 10_000_000 {
			t.Errorf("%s: waited for %d s", c.name, waited/1_000_000)
		}
	}
}
