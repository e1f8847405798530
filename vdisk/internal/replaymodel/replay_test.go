package replaymodel

import (
	"bytes"
	"errors"
	"testing"
)

var logGUID = [16]byte{1, 2, 3}

// makeFile returns a file of 4 MiB with a log of 1 MiB at 1 MiB.
func makeFile(guid [16]byte) []byte {
	file := make([]byte, 4*mib)
	copy(file, "vhdxfile")
	copy(file[header2:], Header{Sequence: 7, LogGUID: guid, Version: 1, LogLength: mib, LogOffset: mib}.Encode())
	copy(file[header1:], Header{Sequence: 6, Version: 1, LogLength: mib, LogOffset: mib}.Encode())
	return file
}

// put writes an entry into the log at offset at, wrapping, and returns the
// offset past it.
func put(file []byte, at int, b []byte) int {
	for i, c := range b {
		file[mib+(at+i)%mib] = c
	}
	return (at + len(b)) % mib
}

func page(c byte) []byte { return bytes.Repeat([]byte{c}, sector) }

func data(at uint64, c byte) Write { return Write{Offset: at, Length: sector, Data: page(c)} }

func entryOf(seq uint64, tail int, w ...Write) Entry {
	return Entry{LogGUID: logGUID, Tail: uint32(tail), Sequence: seq, Flushed: 4 * mib, Last: 4 * mib, Writes: w}
}

func TestReplayWritesTailToHead(t *testing.T) {
	for _, start := range []int{0, 300 * kib, mib - sector} {
		file := makeFile(logGUID)
		at := put(file, start, entryOf(9, start, data(2*mib, 1), data(3*mib, 1)).Encode())
		tail := at
		at = put(file, at, entryOf(10, tail, data(2*mib, 2)).Encode())
		put(file, at, entryOf(11, tail, Write{Offset: 2*mib + sector, Length: 2 * sector}, data(2*mib, 3)).Encode())
		copy(file[2*mib+sector:], page(8))
		p, err := Find(file)
		if err != nil || p.First != 10 || p.Last != 11 {
			t.Fatalf("start %d: %+v, %v", start, p, err)
		}
		got, err := Replay(file, 8*mib)
		if err != nil {
			t.Fatal(err)
		}
		if got[2*mib] != 3 || got[2*mib+sector] != 0 || got[3*mib] != 0 {
			t.Errorf("start %d: %d %d %d", start, got[2*mib], got[2*mib+sector], got[3*mib])
		}
	}
}

func TestReplayManyDescriptorSectors(t *testing.T) {
	for _, n := range []int{1, 126, 127, 200} {
		file := makeFile(logGUID)
		var w []Write
		for i := range n {
			w = append(w, data(2*mib+uint64(i)*sector, byte(i+1)))
		}
		put(file, 400*kib, entryOf(1, 400*kib, w...).Encode())
		got, err := Replay(file, 8*mib)
		if err != nil {
			t.Fatal(n, err)
		}
		for i := range n {
			if !bytes.Equal(got[2*mib+i*sector:][:sector], page(byte(i+1))) {
				t.Fatalf("%d descriptors: number %d is not there", n, i)
			}
		}
	}
}

func TestReplayFillsTheLog(t *testing.T) {
	file := makeFile(logGUID)
	for i := range 256 {
		put(file, i*sector, entryOf(uint64(i+1), 0).Encode())
	}
	if p, err := Find(file); err != nil || p.First != 1 || p.Last != 256 {
		t.Fatal(p, err)
	}
}

func TestReplayRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		want error
		make func(file []byte)
	}{
		{"identifier", ErrIdentifier, func(f []byte) { f[0] = 0 }},
		{"both headers torn", ErrHeader, func(f []byte) { f[header1+9]++; f[header2+9]++ }},
		{"equal sequence numbers", ErrHeader, func(f []byte) { copy(f[header1:], f[header2:header2+headerSize]) }},
		{"log version", ErrVersion, func(f []byte) { f[header2+64] = 1; Seal(f[header2 : header2+headerSize]) }},
		{"log past the end", ErrLogRegion, func(f []byte) { f[header2+74] = 0x40; Seal(f[header2 : header2+headerSize]) }},
		{"no entry", ErrSequence, func(f []byte) {}},
		{"other GUID", ErrSequence, func(f []byte) { e := entryOf(1, 0); e.LogGUID[0]++; put(f, 0, e.Encode()) }},
		{"tail lost", ErrSequence, func(f []byte) { put(f, sector, entryOf(2, 0).Encode()) }},
		{"tail between entries", ErrSequence, func(f []byte) { put(f, 0, entryOf(2, sector, data(2*mib, 1)).Encode()) }},
		{"torn data sector", ErrSequence, func(f []byte) {
			put(f, 0, entryOf(2, 0, data(2*mib, 1)).Encode())
			clear(f[mib+sector+512 : mib+sector+1024])
		}},
		{"data sector of another entry", ErrSequence, func(f []byte) {
			b := entryOf(2, 0, data(2*mib, 1)).Encode()
			b[len(b)-4]++
			put(f, 0, Seal(b))
		}},
		{"truncated", ErrTruncated, func(f []byte) { e := entryOf(2, 0); e.Flushed = 5 * mib; put(f, 0, e.Encode()) }},
		{"over a header", ErrTarget, func(f []byte) { put(f, 0, entryOf(2, 0, data(header1, 1)).Encode()) }},
		{"over the log", ErrTarget, func(f []byte) { put(f, 0, entryOf(2, 0, data(2*mib-sector, 1)).Encode()) }},
		{"far away", ErrSize, func(f []byte) { put(f, 0, entryOf(2, 0, data(1<<50, 1)).Encode()) }},
	} {
		file := makeFile(logGUID)
		c.make(file)
		if _, err := Replay(file, 8*mib); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

func TestReplayCleanAndGrowing(t *testing.T) {
	file := makeFile([16]byte{})
	if got, err := Replay(file, 8*mib); err != nil || !bytes.Equal(got, file) {
		t.Error("a clean file changed", err)
	}
	file = makeFile(logGUID)
	e := entryOf(2, 0, data(4*mib+sector, 1))
	e.Last = 6 * mib
	put(file, 0, e.Encode())
	if got, err := Replay(file, 8*mib); err != nil || len(got) != 6*mib || got[4*mib+sector] != 1 {
		t.Error(len(got), err)
	}
}
