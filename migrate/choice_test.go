package migrate

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// A world for a choice to be made in: nanoseconds for a byte of pages, and what they
// compress to.
type paces struct {
	read, squeeze, line float64
	unpack              float64 // at the other end, where it shares the processor with the line
	ratio               func(batch int) float64
	queue               float64 // bytes the line takes ahead
	lump                float64 // bytes: the line tells of room only when so much has become free
	stall               float64 // one batch in a hundred is held up for so many times its time
}

// carry sends n batches through a pipeline like that of pipeline.go: four batches go
// round. always is the way for all of them, if
// the choice is not asked.
func (p paces) carry(n int, ask bool, always bool) (total time.Duration) {
	var c choice
	rng := rand.New(rand.NewPCG(1, 2))
	start := time.Unix(1000, 0)
	var encoder, sender, carried float64 // when each is free, in nanoseconds
	var last time.Time
	n4 := 4 * n                 // batches can be short
	left := make([]float64, n4) // when each batch was sent
	told := 0
	batches := make([]batch, n4)
	took := make([]time.Duration, n4)
	at := func(ns float64) time.Time { return start.Add(time.Duration(ns)) }
	for i, done := 0, 0.0; done < float64(n); i++ {
		b := &batches[i]
		waited := false
		if i >= depth && left[i-depth] > encoder {
			waited, encoder = true, left[i-depth]
		}
		// What was sent by now is known by now.
		for ; told < i && left[told] <= encoder; told++ {
			c.sent(&batches[told], took[told])
		}
		b.compress = always
		if ask {
			c.next(b, at(encoder), waited, false)
		}
		b.raw = batchPages
		if b.short {
			b.raw /= 4
		}
		bytes := float64(b.raw * PageSize)
		r := p.ratio(int(done))
		done += float64(b.raw) / batchPages
		fill, wire := p.read*bytes, bytes
		switch {
		case b.compress:
			fill += p.squeeze * bytes
			wire *= min(r, 1)
			b.data = int(wire)
		case b.sample:
			const in = chunk * PageSize
			b.sampleIn, b.sampleOut, b.sampleTook = in, uint64(in*min(r, 1)), time.Duration(p.squeeze*in)
			fill += p.squeeze * in
		}
		if p.stall > 0 && rng.IntN(100) == 0 {
			fill *= p.stall
		}
		encoder += fill
		b.took = time.Duration(fill)
		if ask {
			c.filled(b, at(encoder))
		}
		cost := p.line * wire
		if b.compress {
			cost += p.unpack * bytes
		}
		if p.stall > 0 && rng.IntN(100) == 0 {
			cost *= p.stall
		}
		sender = max(sender, encoder)
		carried = max(carried, sender) + cost
		if room := carried - p.line*p.queue; room > sender {
			sender = room
			if lump := p.line * p.lump; lump > 0 {
				sender = math.Ceil(room/lump) * lump
			}
		}
		left[i] = sender
		if i > 0 {
			took[i] = max(at(sender).Sub(last), b.took)
		}
		last = at(sender)
	}
	return time.Duration(carried)
}

// On lines of three speeds, with pages of all kinds, on hosts quick and slow, the
// choice is within a twentieth of the better of the two ways; and where pages change
// on the way, better than both.
func TestTheChoiceComesWithinATwentiethOfTheBestWay(t *testing.T) {
	ratios := map[string]func(int) float64{
		"text":         func(int) float64 { return 0.4 },
		"random":       func(int) float64 { return 1 },
		"nearly empty": func(int) float64 { return 0.05 },
		"kernel image first": func(i int) float64 {
			if i < 16 {
				return 1
			}
			return 0.35
		},
		"by turns": func(i int) float64 { return 0.3 + 0.7*float64(i/64%2) },
	}
	for line, ns := range map[string]float64{"10 Mbit/s": 800, "1 Gbit/s": 8, "10 Gbit/s": 0.8, "100 Gbit/s": 0.08} {
		for host, h := range map[string]paces{
			"quick":     {read: 0.3, squeeze: 0.8, unpack: 0.3},
			"busy":      {read: 1.5, squeeze: 5, unpack: 0.3},
			"slow":      {read: 30, squeeze: 200, unpack: 50},
			"slow peer": {read: 0.3, squeeze: 0.8, unpack: 20},
		} {
			for pages, ratio := range ratios {
				for _, c := range []struct{ stall, queue, lump float64 }{{0, minQueue, 0}, {0, 2 << 20, 0}, {0, minQueue, minQueue}, {10, minQueue, 0}} {
					t.Run(fmt.Sprintf("%s/%s/%s/stall=%v/queue=%v/lump=%v", line, host, pages, c.stall, c.queue, c.lump), func(t *testing.T) {
						p := h
						p.line, p.ratio, p.stall, p.queue, p.lump = ns, ratio, c.stall, c.queue, c.lump
						const n = 1024 // 512 MiB
						plain, packed := p.carry(n, false, false), p.carry(n, false, true)
						best := min(plain, packed)
						// Of the first megabyte nothing can be known.
						slack := best/20 + time.Duration((1<<20)*p.line)
						if c.queue > minQueue {
							// While it fills nothing can be known; then four batches go round.
							slack += time.Duration((c.queue + depth*batchPages*PageSize) * p.line)
						}
						if c.lump != 0 {
							slack += best / 60 // one lump more or less tells less
						}
						if c.stall != 0 {
							slack = best / 7 // stalls fall on other batches than they did
						}
						if got := p.carry(n, true, false); got > best+slack {
							t.Errorf("%v, as they are %v, compressed %v: %.1f %% more than the best", got, plain, packed, 100*(float64(got)/float64(best)-1))
						}
					})
				}
			}
		}
	}
}

func TestRoundsTooSmallToTellDoNotChangeTheWay(t *testing.T) {
	c := choice{ratio: 0.3}
	c.plain.set(1000)
	c.read.set(1)
	c.compress.set(1)
	tests := 0
	for range 10 * untested {
		var b batch
		b.raw = 1
		c.next(&b, time.Now(), true, false)
		if b.test {
			tests++
		}
		c.filled(&b, time.Now())
		c.sent(&b, time.Millisecond)
	}
	if c.packing || c.plain.now != 1000 || tests > 10*2*perWay {
		t.Errorf("compressed: %v, as they are %v, %d batches of tests", c.packing, c.plain.now, tests)
	}
}
