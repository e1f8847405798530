package migrate

import (
	"bytes"
	"encoding/binary"
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
	_          method = iota
	methodRaw         // as they are
	methodZero        // all bytes zero: no data
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
	buf  []byte // room for header, data, table and tail
	data int    // bytes of data so far
	runs []run
	raw  uint64 // pages, by method
	zero uint64
}

func newBatch() *batch {
	return &batch{
		buf:  make([]byte, headerSize+batchPages*PageSize+maxRuns*runSize+batchTail),
		runs: make([]run, 0, maxRuns),
	}
}

func (b *batch) reset() {
	b.data, b.runs, b.raw, b.zero = 0, b.runs[:0], 0, 0
}

func (b *batch) empty() bool { return len(b.runs) == 0 }

// room is how many pages can be added for certain.
func (b *batch) room() uint64 {
	return uint64(min(batchPages-b.data/PageSize, maxRuns-len(b.runs)))
}

// add reads n pages, at most room, from first on and appends them.
func (b *batch) add(g Guest, first, n uint64) {
	at := headerSize + b.data
	p := b.buf[at : at+int(n)*PageSize]
	g.ReadPages(first, p)
	// The pages lie where they are to be sent from; those behind a zero page
	// move down over it.
	for i := range n {
		page := p[i*PageSize : (i+1)*PageSize]
		if isZero(page) {
			b.extend(first+i, methodZero, 0)
			b.zero++
			continue
		}
		if to := headerSize + b.data; to != at+int(i)*PageSize {
			copy(b.buf[to:to+PageSize], page)
		}
		b.data += PageSize
		b.extend(first+i, methodRaw, PageSize)
		b.raw++
	}
}

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
