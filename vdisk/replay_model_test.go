package vdisk

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
)

// An oracle for the choice of a log sequence: section 2.3.3 of [MS-VHDX] word by
// word, for logs that fit in memory. It shares no code with the implementation
// and is written for plainness: the log is doubled so that nothing ever wraps, and
// every offset is tried from the start.

type oracleEntry struct {
	start, length int
	seq           uint64
	tail          int
	pages         map[int64]string
}

func oracleParse(twice []byte, at int, guid [16]byte) (e oracleEntry, ok bool) {
	L := len(twice) / 2
	u32 := func(o int) uint32 { return binary.LittleEndian.Uint32(twice[at+o:]) }
	u64 := func(o int) uint64 { return binary.LittleEndian.Uint64(twice[at+o:]) }
	n := int(u32(8))
	if string(twice[at:at+4]) != "loge" || n == 0 || n%4096 != 0 || n > L || u64(16) == 0 || [16]byte(twice[at+32:at+48]) != guid {
		return e, false
	}
	whole := append([]byte(nil), twice[at:at+n]...)
	want := binary.LittleEndian.Uint32(whole[4:])
	copy(whole[4:8], []byte{0, 0, 0, 0})
	if crc32.Checksum(whole, crc32.MakeTable(crc32.Castagnoli)) != want {
		return e, false
	}
	e = oracleEntry{at, n, u64(16), int(u32(12)), map[int64]string{}}
	count := int(u32(24))
	data := 4096
	for data < 64+32*count {
		data += 4096
	}
	for i := 0; i < count; i++ {
		d := 64 + 32*i
		if binary.LittleEndian.Uint64(whole[d+24:]) != e.seq {
			return e, false
		}
		off := int64(binary.LittleEndian.Uint64(whole[d+16:]))
		switch string(whole[d : d+4]) {
		case "desc":
			if data+4096 > n || string(whole[data:data+4]) != "data" {
				return e, false
			}
			hi, lo := binary.LittleEndian.Uint32(whole[data+4:]), binary.LittleEndian.Uint32(whole[data+4092:])
			if uint64(hi)<<32|uint64(lo) != e.seq {
				return e, false
			}
			e.pages[off] = string(whole[d+8:d+16]) + string(whole[data+8:data+4092]) + string(whole[d+4:d+8])
			data += 4096
		case "zero":
			for k := int64(0); k < int64(binary.LittleEndian.Uint64(whole[d+8:])); k += 4096 {
				e.pages[off+k] = string(make([]byte, 4096))
			}
		default:
			return e, false
		}
	}
	return e, data == n
}

// oracle returns what the pages of the file become, or false for a corrupt log.
func oracle(log []byte, guid [16]byte) (map[int64]string, []uint64, bool) {
	parsed := map[int]oracleEntry{}
	twice := append(append([]byte(nil), log...), log...)
	for o := 0; o < len(log); o += 4096 {
		if e, ok := oracleParse(twice, o, guid); ok {
			parsed[o] = e
		}
	}
	var best []oracleEntry
	for o := 0; o < len(log); o += 4096 {
		var run []oracleEntry
		for head, used := o, 0; ; {
			e, ok := parsed[head]
			if !ok || used+e.length > len(log) || len(run) > 0 && e.seq != run[len(run)-1].seq+1 {
				break
			}
			run, used = append(run, e), used+e.length
			head = (head + e.length) % len(log)
		}
		if len(run) == 0 {
			continue
		}
		newest := run[len(run)-1]
		from := slices.IndexFunc(run, func(e oracleEntry) bool { return e.start == newest.tail })
		if from >= 0 && (best == nil || newest.seq > best[len(best)-1].seq) {
			best = run[from:]
		}
	}
	if best == nil {
		return nil, nil, false
	}
	file := map[int64]string{}
	var seqs []uint64
	for _, e := range best {
		seqs = append(seqs, e.seq)
		for off, p := range e.pages {
			file[off] = p
		}
	}
	return file, seqs, true
}

// Random logs, wrapped, of many descriptor sectors, stale, torn and with gaps.
func TestReplayAgreesWithTheModel(t *testing.T) {
	corruptLogs, wrapped, large := 0, 0, 0
	for seed := range uint64(150) {
		rng := rand.New(rand.NewPCG(seed, 31))
		const length = mib
		log := make([]byte, length)
		guid, old := GUID{1}, GUID{2}
		at, seq := rng.IntN(length/4096)*4096, rng.Uint64N(1<<40)+1
		starts := []int{at}
		for range 1 + rng.IntN(12) {
			e := logEntry{Sequence: seq, GUID: guid}
			n := rng.IntN(6)
			switch rng.IntN(10) {
			case 0: // more than the first sector holds descriptors for
				for range 130 {
					e.Writes = append(e.Writes, logWrite{Offset: rng.Int64N(64) * 4096, Zeroes: 4096})
				}
				large++
			case 1:
				e.GUID = old
			}
			for range n {
				w := logWrite{Offset: rng.Int64N(64) * 4096, Data: make([]byte, 4096)}
				fill(rng, w.Data)
				e.Writes = append(e.Writes, w)
			}
			e.Tail = uint32(starts[max(0, len(starts)-1-rng.IntN(4))])
			b := make([]byte, e.size())
			e.encode(b)
			switch rng.IntN(8) {
			case 0: // torn
				k := rng.IntN(len(b)/512) * 512
				clear(b[k:min(len(b), k+512*(1+rng.IntN(8)))])
			}
			for i := range b {
				log[(at+i)%length] = b[i]
			}
			if at+len(b) > length {
				wrapped++
			}
			at = (at + len(b)) % length
			if rng.IntN(12) == 0 { // a gap
				at = (at + 4096) % length
			}
			if seq++; rng.IntN(15) == 0 {
				seq++
			}
			starts = append(starts, at)
		}
		m := NewMemory()
		m.WriteAt(log, 0)
		want, seqs, ok := oracle(log, guid)
		l := logReader{m, 0, length}
		s, err := l.findSequence(guid)
		if !ok {
			corruptLogs++
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("seed %d: the model finds no sequence; the implementation answers %v", seed, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("seed %d: %v; the model replays %v", seed, err, seqs)
		}
		var got []uint64
		o := &overlay{Backing: NewMemory(), pages: map[int64][]byte{}, size: 64 * 4096}
		for _, e := range s.entries {
			got = append(got, e.seq)
			full, _, _, err := l.entry(e.at, guid, true)
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range full.Writes {
				if err := apply(o, w); err != nil {
					t.Fatal(err)
				}
			}
		}
		if !slices.Equal(got, seqs) {
			t.Fatalf("seed %d: replays %v, the model %v", seed, got, seqs)
		}
		p := make([]byte, 4096)
		for off := int64(0); off < 64*4096; off += 4096 {
			if _, err := o.ReadAt(p, off); err != nil && err != io.EOF {
				t.Fatal(err)
			}
			w, ok := want[off]
			if !ok {
				w = string(make([]byte, 4096))
			}
			if string(p) != w {
				t.Fatalf("seed %d: the page at %#x differs from the model's", seed, off)
			}
		}
	}
	t.Logf("%d corrupt logs, %d wrapped entries, %d with several descriptor sectors", corruptLogs, wrapped, large)
	if corruptLogs == 0 || wrapped == 0 || large == 0 {
		t.Error("the logs were too alike")
	}
}
