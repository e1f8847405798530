package migrate

import (
	"sync"
	"time"
)

// A choice decides for each batch whether its pages are compressed: whichever way
// brings them over sooner. That is measured, not known: it depends on the line, on
// both hosts' processors, and on what the pages hold, which changes from one part of
// memory to the next.
//
// While pages go as they are, a few of them are compressed now and then to learn what
// that takes and gives. When the line keeps the encoder waiting this costs nothing,
// and when it does not, compressing can not help. If it promises a gain, short batches
// are sent both ways by turns: what the target takes to unpack, and which processors
// are shared, is not foretold, and what holds up one way by chance holds up the other
// as well. While pages are compressed, what is known of the other way fades, until both
// are compared again.
type choice struct {
	mu      sync.Mutex // the encoder and the sender meet here once a batch
	packing bool

	// What a byte of pages took lately: the whole pipeline, as they are and
	// compressed; the encoder, reading and compressing.
	plain, packed  pace
	read, compress pace
	ratio          float64 // to which pages were compressed lately; 0 if that is not known
	sampled        time.Time

	testing  bool
	hopeful  bool               // what is not part of the test goes compressed meanwhile
	toFill   int                // batches of the test
	toSend   int                // likewise
	measures [2][perWay]float64 // 0: none
	since    int                // batches since the last test
	tested   float64            // plain, then; an empty queue may have taken it all
	doubt    float64            // how many times longer than foretold compressing took then
}

// A pace is how long a byte took lately, in picoseconds; 0 if that is not known.
type pace struct {
	now  float64
	seen [2]float64 // the last measures; 0: none
}

// paceOf is that of so many bytes.
func paceOf(bytes uint64, took time.Duration) float64 {
	return max(1, float64(took)*1000/float64(bytes))
}

// set forgets what was known.
func (p *pace) set(to float64) { *p = pace{now: to} }

// add takes a measure. The middle one of three counts: one delay is not a slow line,
// and one batch that found the line's queue empty not a fast one.
func (p *pace) add(now float64) {
	a, b := p.seen[0], p.seen[1]
	known := p.now != 0 && (a != 0 || b == 0)
	p.seen = [2]float64{b, now}
	if a != 0 {
		now = max(min(a, b), min(max(a, b), now))
	}
	if known {
		now = (p.now + now) / 2
	}
	p.now = now
}

// fade forgets slowly: a way that was slow is tried again at some time, the sooner the
// less it was slower.
func (p *pace) fade() { p.now *= 255. / 256 }

const (
	// perWay is how many batches a test sends each way.
	perWay = 4
	// untested is how many batches lie between tests that compressing may lose.
	untested = 32
	// sampleShare: of the encoder's time at most this part goes into samples.
	sampleShare = 64
	// worth is what compressing must promise to take, of the time without.
	worth = 0.95
)

// next says how the next batch is to be filled. waited tells that the line kept the
// encoder waiting for it; last that the guest stands still, which is no time for
// trying.
func (c *choice) next(b *batch, now time.Time, waited, last bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b.compress, b.test, b.sample, b.short = c.packing, false, false, false
	if last {
		return
	}
	c.since++
	c.doubt = max(1, c.doubt-(c.doubt-1)/256)
	promise := c.forecast() * c.doubt
	if !c.testing && c.due(promise) {
		c.testing, c.toFill, c.toSend = true, 2*perWay, 2*perWay
		c.measures = [2][perWay]float64{}
		c.hopeful = c.packing || promise < c.plain.now/2
	}
	// While little is known, little is sent at a time.
	b.short = c.testing || c.plain.now == 0
	switch {
	case c.testing && c.toFill > 0:
		c.toFill--
		b.test, b.compress = true, c.toFill%2 == 1
	case c.testing:
		b.compress = c.hopeful
	case !c.packing:
		cost := time.Duration(c.compress.now * chunk * PageSize / 1000)
		b.sample = waited && now.Sub(c.sampled) >= cost*sampleShare
	}
}

// due tells whether it is time to compare the two ways.
func (c *choice) due(promise float64) bool {
	switch {
	case c.packing:
		return c.plain.now <= c.packed.now
	case c.plain.now == 0 || c.ratio == 0:
		return false
	case c.packed.now != 0 && c.since < untested && c.plain.now < 2*c.tested && promise > 0.75*c.packed.now:
		return false // it is as it was when that was tested
	}
	return promise < c.plain.now*worth
}

// forecast is what a byte of pages would take compressed: the encoder's time or the
// line's, whichever is longer.
func (c *choice) forecast() float64 {
	return max(c.read.now+c.compress.now, c.plain.now*c.ratio)
}

// filled takes what the encoder has learned from b.
func (c *choice) filled(b *batch, now time.Time) {
	if !b.telling() || b.deltas > 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	bytes := b.raw * PageSize
	if b.compress {
		c.compressed(bytes, uint64(b.data), b.took-time.Duration(c.read.now*float64(bytes)/1000))
		return
	}
	c.read.add(paceOf(bytes, b.took-b.sampleTook))
	if b.sampleIn > 0 {
		c.sampled = now
		c.compressed(b.sampleIn, b.sampleOut, b.sampleTook)
	}
}

// compressed takes what compressing took and gave.
func (c *choice) compressed(in, out uint64, took time.Duration) {
	c.compress.add(paceOf(in, took))
	now := float64(out) / float64(in)
	if c.ratio > 0 {
		now = (c.ratio + now) / 2
	}
	c.ratio = now
}

// sent takes how long the pipeline took for b, from the batch before to this one; 0 if
// that is not known.
func (c *choice) sent(b *batch, took time.Duration) {
	known := took > 0 && b.telling() && b.deltas == 0 // changes are neither way
	if !known && !b.test {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := 0.
	if known {
		now = paceOf(b.raw*PageSize, took)
	}
	switch {
	case b.test:
		c.toSend--
		way := 0
		if b.compress {
			way = 1
		}
		c.measures[way][c.toSend/2] = now
		if c.toSend == 0 {
			c.compare()
		}
	case b.compress && c.packing:
		c.packed.add(now)
		c.plain.fade()
	case !b.compress && !c.packing:
		c.plain.add(now)
	}
}

// compare ends a test.
func (c *choice) compare() {
	c.testing, c.since = false, 0
	plain, ok := usual(c.measures[0])
	packed, ok2 := usual(c.measures[1])
	switch {
	case ok && ok2:
	case c.packing: // too little was sent to tell: another time
		c.plain.set(c.plain.now * 2)
		return
	default:
		c.tested = c.plain.now
		c.packed.set(c.forecast() * c.doubt)
		return
	}
	c.tested = plain
	c.plain.set(plain)
	c.packed.set(packed)
	if c.packing = packed < plain; !c.packing {
		c.doubt = max(1, packed/c.forecast())
	}
}

// usual is the mean of the measures made without the longest: one that was held up says
// nothing of the way it went, and one that was not may have found room that another
// made.
func usual(m [perWay]float64) (float64, bool) {
	sum, longest, n := 0., 0., 0
	for _, x := range m {
		if x > 0 {
			sum, longest, n = sum+x, max(longest, x), n+1
		}
	}
	if n < 2 {
		return 0, false
	}
	return (sum - longest) / float64(n-1), true
}
