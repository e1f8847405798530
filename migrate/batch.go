package migrate

import (
	"bytes"
	"encoding/binary"
	"time"

	"github.com/klauspost/compress/s2"
)

// The payload of Pages is page data, then a table of runs, then a tail:
//
//	data of the runs that have any, in order
//	runs, each:  u64 first page, u16 pages, u8 method, u8 zero, u32 bytes of data
//	tail:        u32 round, u32 number of runs
//
// The table stands behind the data so that an encoder copies pages from the
// guest straight to where they are sent from.
const (
	runSize   = 16
	batchTail = 8
)

// A method is how a run's pages are encoded. Zero is none.
type method uint8

const (
	_           method = iota
	methodRaw          // as they are
	methodZero         // all bytes zero: no data
	methodS2           // one S2 block, smaller than the pages; needs featS2
	methodDelta        // such a block of what came last for the pages, exclusive or what they are now; needs featDelta
	numMethods
)

// A run is contiguous pages in one encoding.
type run struct {
	first  uint64
	pages  uint16
	method method
	bytes  uint32
}

const maxRunPages = 1<<16 - 1

// A batch is a Pages message being built. It is used again and again.
type batch struct {
	buf   []byte // room for header, data, table and tail
	data  int    // bytes of data so far
	runs  []run
	raw   uint64 // pages with data, compressed or not
	zero  uint64
	block []byte
	took  time.Duration // to fill it

	compress bool   // pages are compressed, by way of block
	packed   uint64 // compressed pages, of raw
	test     bool   // one of those by which the two ways are compared
	short    bool   // full when it is telling, so that little goes a way that may be slow
	sample   bool   // the next pages are compressed to see what that takes

	copies *copies // of pages sent before; nil: none are kept
	deltas uint64  // pages of which only changes are sent, of raw
	same   uint64  // and those that have none

	sampleIn, sampleOut uint64 // bytes
	sampleTook          time.Duration
}

func newBatch() *batch {
	return &batch{
		buf:  make([]byte, headerSize+batchPages*PageSize+maxRuns*runSize+batchTail),
		runs: make([]run, 0, maxRuns),
		// Encode wants room for its worst case.
		block: make([]byte, s2.MaxEncodedLen(chunk*PageSize)),
	}
}

func (b *batch) reset() {
	b.data, b.runs, b.raw, b.zero, b.packed = 0, b.runs[:0], 0, 0, 0
	b.sampleIn, b.sampleOut, b.sampleTook = 0, 0, 0
	b.copies, b.deltas, b.same = nil, 0, 0
}

// telling says whether so much is in it that its time tells something.
func (b *batch) telling() bool { return b.raw >= batchPages/4 }

// full says whether to send it before another chunk is added.
func (b *batch) full() bool {
	return b.room() < chunk || b.zero >= maxScan || b.short && b.telling()
}

func (b *batch) empty() bool { return len(b.runs) == 0 }

// room is how many pages can be added for certain.
func (b *batch) room() uint64 {
	return uint64(min(batchPages-(b.data+PageSize-1)/PageSize, maxRuns-len(b.runs)))
}

// add reads n pages, at most room and chunk, from first on and appends them.
func (b *batch) add(g Guest, first, n uint64) {
	at := headerSize + b.data
	p := b.buf[at : at+int(n)*PageSize]
	g.ReadPages(first, p)
	for i := uint64(0); i < n; {
		k := i
		for k < n && !isZero(p[k*PageSize:(k+1)*PageSize]) {
			k++
		}
		for i < k {
			n, known := k-i, false
			if b.copies != nil {
				n, known = b.copies.stretch(first+i, k-i)
			}
			b.put(first+i, n, p[i*PageSize:(i+n)*PageSize], known)
			i += n
		}
		for ; i < n && isZero(p[i*PageSize:(i+1)*PageSize]); i++ {
			b.extend(first+i, methodZero, 0)
			b.zero++
			if b.copies != nil {
				b.copies.zero(first + i)
			}
		}
	}
}

// put appends n pages that are not zero; known tells that there are copies of all of
// them, not of none. They lie in buf already, where they are to be sent from or behind
// that; those behind zero pages, or behind what was compressed, move down.
func (b *batch) put(first, n uint64, pages []byte, known bool) {
	if known {
		block, ok := b.copies.changes(b.block[:0], first, pages)
		if ok && len(block) == 0 {
			b.same += n
			return
		}
		if ok {
			b.putBlock(run{first, uint16(n), methodDelta, uint32(len(block))}, block)
			b.raw += n
			b.deltas += n
			return
		}
	} else if b.copies != nil {
		b.copies.keep(first, pages)
	}
	b.raw += n
	if b.compress || b.sample {
		block := b.squeeze(pages)
		if worthwhile(len(block), len(pages)) {
			b.putBlock(run{first, uint16(n), methodS2, uint32(len(block))}, block)
			b.packed += n
			return
		}
	}
	if to := b.buf[headerSize+b.data:]; &to[0] != &pages[0] {
		copy(to, pages)
	}
	b.data += len(pages)
	for i := range n {
		b.extend(first+i, methodRaw, PageSize)
	}
}

func (b *batch) putBlock(r run, block []byte) {
	b.data += copy(b.buf[headerSize+b.data:], block)
	b.runs = append(b.runs, r)
}

// squeeze compresses pages.
func (b *batch) squeeze(pages []byte) []byte {
	if !b.sample {
		return s2.Encode(b.block, pages)
	}
	begin := time.Now()
	block := s2.Encode(b.block, pages)
	b.sample = false
	b.sampleIn, b.sampleOut, b.sampleTook = uint64(len(pages)), uint64(min(len(block), len(pages))), time.Since(begin)
	return block
}

// worthwhile tells whether to send a block instead of pages: if it saves an eighth,
// since the target has to unpack it.
func worthwhile(block, pages int) bool { return block <= pages-pages/8 }

func (b *batch) extend(page uint64, m method, size uint32) {
	if k := len(b.runs); k > 0 {
		r := &b.runs[k-1]
		if r.method == m && r.first+uint64(r.pages) == page && r.pages < maxRunPages {
			r.pages++
			r.bytes += size
			return
		}
	}
	b.runs = append(b.runs, run{page, 1, m, size})
}

// frame finishes the message.
func (b *batch) frame(round uint32) []byte {
	le := binary.LittleEndian
	w := b.buf[:headerSize+b.data]
	for _, r := range b.runs {
		w = le.AppendUint64(w, r.first)
		w = le.AppendUint16(w, r.pages)
		w = append(w, byte(r.method), 0)
		w = le.AppendUint32(w, r.bytes)
	}
	w = le.AppendUint32(w, round)
	return le.AppendUint32(w, uint32(len(b.runs)))
}

// unpack decodes a methodS2 run into buf, which has room for chunk pages.
func (r run) unpack(buf, data []byte) ([]byte, error) {
	want := int(r.pages) * PageSize
	if n, err := s2.DecodedLen(data); err != nil || n != want {
		return nil, protocolError("Pages: a compressed block of %d bytes (%v), not %d, at page %#x", n, err, want, r.first)
	}
	p, err := s2.Decode(buf[:want], data)
	if err != nil {
		return nil, protocolError("Pages: the compressed block at page %#x: %v", r.first, err)
	}
	return p, nil
}

var zeroPage [PageSize]byte

func isZero(page []byte) bool { return bytes.Equal(page, zeroPage[:]) }

// A pages is a Pages message being read.
type pages struct {
	round uint32
	table []byte
	data  []byte
}

func parsePages(b []byte) (p pages, err error) {
	le := binary.LittleEndian
	if len(b) < batchTail {
		return p, protocolError("Pages: %d bytes are too few", len(b))
	}
	body, tail := b[:len(b)-batchTail], b[len(b)-batchTail:]
	n := le.Uint32(tail[4:])
	if n == 0 || n > maxRuns || int(n)*runSize > len(body) {
		return p, protocolError("Pages: a table of %d runs in a message of %d bytes", n, len(b))
	}
	cut := len(body) - int(n)*runSize
	return pages{le.Uint32(tail), body[cut:], body[:cut]}, nil
}

// next takes a run and its data off p. The run's place in memory is not yet
// checked, everything else is.
func (p *pages) next() (r run, data []byte, ok bool, err error) {
	le := binary.LittleEndian
	if len(p.table) == 0 {
		if len(p.data) != 0 {
			return r, nil, false, protocolError("Pages: %d bytes of data that belong to no run", len(p.data))
		}
		return r, nil, false, nil
	}
	t := p.table[:runSize]
	p.table = p.table[runSize:]
	r = run{le.Uint64(t), le.Uint16(t[8:]), method(t[10]), le.Uint32(t[12:])}
	var want uint32
	switch r.method {
	case methodRaw:
		want = uint32(r.pages) * PageSize
	case methodZero:
	case methodS2, methodDelta:
		if r.pages > chunk || r.bytes == 0 || r.bytes >= uint32(r.pages)*PageSize {
			return r, nil, false, protocolError("Pages: %d bytes for %d compressed pages at page %#x", r.bytes, r.pages, r.first)
		}
		want = r.bytes
	default:
		return r, nil, false, protocolError("Pages: encoding %d does not exist", r.method)
	}
	switch {
	case t[11] != 0:
		return r, nil, false, protocolError("Pages: reserved byte set in the run at page %#x", r.first)
	case r.pages == 0:
		return r, nil, false, protocolError("Pages: an empty run at page %#x", r.first)
	case r.bytes != want:
		return r, nil, false, protocolError("Pages: %d bytes for %d pages at page %#x, not %d", r.bytes, r.pages, r.first, want)
	case int64(r.bytes) > int64(len(p.data)):
		return r, nil, false, protocolError("Pages: the data ends in the run at page %#x", r.first)
	}
	data, p.data = p.data[:r.bytes], p.data[r.bytes:]
	return r, data, true, nil
}
