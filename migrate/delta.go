package migrate

import (
	"bytes"
	"encoding/binary"
	"time"
)

// What a guest writes again and again are mostly a few words of the same pages: counters,
// stacks, heads of lists. The target has those pages as they were sent last, so once
// little is left, the source keeps what it sends, and sends of a page that it sent
// before only the words that have changed; a page that is as it was is not sent at all.
//
// That is for the last rounds, where pages are few and each of them may be downtime;
// before them most pages are sent for the first time.
//
// The data of a run of such pages are its changes in order, each:
//
//	uvarint words that stay, uvarint words that change, those words
//
// What lies behind the last change stays.

const wordSize = 8

// step is how many bytes are compared at once, where nothing has changed.
const step = 256

// maxCopies is how many pages' copies are kept, so many megabytes as pages/256, and at
// most how many a round but the last may have to be sent so. A line that carries more in a
// moment needs no differences.
const maxCopies = 1024

// slab is how many copies are allocated at once.
const slab = 64

// copies are pages as the target has them.
type copies struct {
	slot map[uint64]int // of a page
	held []held
	mem  [][]byte // slabs
	hand int      // where to look for one that is not needed any more
	now  uint32   // the round
	last bool     // it is the last: no more are taken

	// What differences took and gave: bytes of pages, and how long.
	in, out uint64
	took    time.Duration
	rest    int // rounds for which they are not tried
}

// held is what a slot holds.
type held struct {
	page  uint64
	round uint32 // in which it was last sent
}

func newCopies() *copies {
	return &copies{
		slot: make(map[uint64]int, maxCopies),
		held: make([]held, 0, maxCopies),
	}
}

// untried is for how many rounds differences are not tried after they lost.
const untried = 8

// begin begins a round of so many pages over a line of so many bytes a second, and tells
// whether copies are used in it. A round without them makes them worthless: pages change
// at the target, but not here. In the last round, the guest stands still: those that are
// there serve, however many pages have none, and no more are taken.
func (c *copies) begin(round uint32, pages uint64, rate float64, last bool) bool {
	if c.rest > 0 {
		c.rest--
	}
	if c.rest == 0 && !c.pays(rate) {
		c.rest, c.in, c.out, c.took = untried, 0, 0, 0
	}
	if c.rest > 0 || pages > maxCopies && !last {
		clear(c.slot)
		c.held = c.held[:0]
		return false
	}
	c.now, c.last = round, last
	return !last || len(c.slot) > 0
}

// pays tells whether the line would have taken longer for the pages than both the
// encoder and the line for the differences. Until that was measured it is supposed.
func (c *copies) pays(rate float64) bool {
	if c.in == 0 {
		return true
	}
	return c.took.Seconds() < float64(c.in-c.out)/max(rate, 1)
}

func (c *copies) has(page uint64) bool {
	_, ok := c.slot[page]
	return ok
}

// lack is how many of so many written pages have no copies; 0 if none are kept, and all
// go as they went.
func (c *copies) lack(g Guest, pages uint64) uint64 {
	if len(c.slot) == 0 {
		return 0
	}
	for page := range c.slot {
		if g.Written(page) && pages > 0 {
			pages--
		}
	}
	return pages
}

// of is the copy in a slot.
func (c *copies) of(slot int) []byte {
	at := slot % slab * PageSize
	return c.mem[slot/slab][at : at+PageSize]
}

// stretch is how many of n pages from first on have copies, or, if the first one has
// none, how many have none.
func (c *copies) stretch(first, n uint64) (k uint64, have bool) {
	have = c.has(first)
	for k = 1; k < n && c.has(first+k) == have; k++ {
	}
	return k, have
}

// changes appends to b what has changed in pages, all of which have copies, as long as
// that is worthwhile. The copies are as pages then.
func (c *copies) changes(b []byte, first uint64, pages []byte) (_ []byte, ok bool) {
	begin := time.Now()
	ok = true
	var stay uint64
	for i := 0; i < len(pages); i += PageSize {
		slot := c.slot[first+uint64(i/PageSize)]
		old, now := c.of(slot), pages[i:i+PageSize]
		c.held[slot].round = c.now
		if ok {
			was := len(b)
			b, stay = appendChanges(b, stay, old, now)
			if ok = worthwhile(len(b), len(pages)); ok && len(b) == was {
				continue // it is as it was
			}
		}
		copy(old, now)
	}
	c.in += uint64(len(pages))
	c.out += uint64(min(len(b), len(pages)))
	c.took += time.Since(begin)
	return b, ok
}

// appendChanges appends what makes old to now; stay words before these stay. It returns
// how many stay at the end.
func appendChanges(b []byte, stay uint64, old, now []byte) ([]byte, uint64) {
	le := binary.LittleEndian
	for at := 0; at < PageSize; {
		if at%step == 0 && bytes.Equal(old[at:at+step], now[at:at+step]) {
			stay += step / wordSize
			at += step
			continue
		}
		if le.Uint64(old[at:]) == le.Uint64(now[at:]) {
			stay++
			at += wordSize
			continue
		}
		end := at + wordSize
		for end < PageSize && le.Uint64(old[end:]) != le.Uint64(now[end:]) {
			end += wordSize
		}
		b = binary.AppendUvarint(b, stay)
		b = binary.AppendUvarint(b, uint64(end-at)/wordSize)
		b = append(b, now[at:end]...)
		stay, at = 0, end
	}
	return b, stay
}

// change makes of pages what they are by now.
func (r run) change(pages, data []byte) error {
	for len(data) > 0 {
		stay, n := binary.Uvarint(data)
		words, m := binary.Uvarint(data[max(n, 0):])
		left := uint64(len(pages)) / wordSize
		if n <= 0 || m <= 0 || words == 0 || stay > left || words > left-stay || words > uint64(len(data)-n-m)/wordSize {
			return protocolError("Pages: the changes at page %#x go beyond its %d pages, or end early", r.first, r.pages)
		}
		data, pages = data[n+m:], pages[stay*wordSize:]
		size := int(words) * wordSize
		copy(pages, data[:size])
		data, pages = data[size:], pages[size:]
	}
	return nil
}

// keep takes copies of pages that had none.
func (c *copies) keep(first uint64, pages []byte) {
	if c.last {
		return
	}
	for ; len(pages) > 0; pages = pages[PageSize:] {
		if slot, ok := c.room(); ok {
			c.held[slot] = held{first, c.now}
			c.slot[first] = slot
			copy(c.of(slot), pages)
		}
		first++
	}
}

// room finds a slot for another page: a new one, or that of one that was sent neither in
// this round nor in the one before.
func (c *copies) room() (int, bool) {
	if n := len(c.held); n < maxCopies {
		if n == len(c.mem)*slab {
			c.mem = append(c.mem, make([]byte, slab*PageSize))
		}
		c.held = append(c.held, held{})
		return n, true
	}
	for range c.held {
		slot := c.hand
		c.hand = (c.hand + 1) % len(c.held)
		if h := c.held[slot]; h.round+1 < c.now {
			delete(c.slot, h.page)
			return slot, true
		}
	}
	return 0, false
}

// zero says that a page was sent as zero.
func (c *copies) zero(page uint64) {
	if slot, ok := c.slot[page]; ok {
		clear(c.of(slot))
		c.held[slot].round = c.now
	}
}
