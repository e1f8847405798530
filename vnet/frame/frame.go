// Package frame holds Ethernet frames on their way through the host: where their
// bytes lie, and what work on them was left to whoever sends them on.
package frame

// MaxSegments is how many pieces a frame may lie in. 64 KiB in pages is 17 when
// not aligned, headers apart.
const MaxSegments = 20

// NoDMA is a segment's Bus when a device cannot reach it.
const NoDMA = ^uint64(0)

// A Segment is a run of a frame's bytes that lies in one piece, for the CPU and
// for devices.
type Segment struct {
	Data []byte
	Bus  uint64 // address devices use for Data[0], or NoDMA
}

// A Frame is an Ethernet frame without its check sequence, from destination
// address on. It belongs to one goroutine at a time, which passes it on or
// releases it.
type Frame struct {
	// Segments lie in the frame itself, MaxSegments at most.
	Segments []Segment
	// Length is the sum of the segments' lengths. It is wider than IPv4's own
	// field, so that a guest may hand down more than 64 KiB at once.
	Length uint32
	Offload

	// Notify asks the sender to release the frame soon after it was sent, not
	// when it next has something to do: somebody waits for that.
	Notify bool

	owner    Owner
	segments [MaxSegments]Segment
}

// Flags say what an Offload holds.
type Flags uint8

const (
	// NeedsChecksum: the sender sums from ChecksumStart to the end and stores
	// the sum at ChecksumStart+ChecksumOffset, where the pseudo-header's sum
	// stands already.
	NeedsChecksum Flags = 1 << iota
	// ChecksumGood: a receiver found the transport checksum to be right.
	ChecksumGood
	// SegmentTCP4 and SegmentTCP6: the sender splits the frame into TCP segments
	// of GSOSize bytes of payload. NeedsChecksum is set too. The pseudo-header's
	// sum counts the length of the whole.
	SegmentTCP4
	SegmentTCP6
)

// Offload describes work left undone, or already done, on a frame. Offsets count
// from the frame's first byte.
type Offload struct {
	Flags          Flags
	NetworkHeader  uint8  // where the IP header begins
	HeaderLength   uint16 // all headers up to the payload; for segmentation
	GSOSize        uint32 // payload bytes of each segment but the last
	ChecksumStart  uint16
	ChecksumOffset uint16
}

// Segmented tells whether the frame is to be split.
func (o *Offload) Segmented() bool { return o.Flags&(SegmentTCP4|SegmentTCP6) != 0 }

// An Owner takes back the frames it made. Recycle may be called by any
// goroutine.
type Owner interface {
	Recycle(*Frame)
}

// New makes a frame that goes back to owner when released.
func New(owner Owner) *Frame {
	f := &Frame{owner: owner}
	f.Segments = f.segments[:0]
	return f
}

// Release gives the frame back to its owner. The caller must not touch it again.
func (f *Frame) Release() {
	if f.owner != nil {
		f.owner.Recycle(f)
	}
}

// Reset makes the frame empty.
func (f *Frame) Reset() {
	clear(f.segments[:])
	f.Segments = f.segments[:0]
	f.Length = 0
	f.Offload = Offload{}
	f.Notify = false
}

// Append adds a segment. It reports false when the frame has MaxSegments.
func (f *Frame) Append(s Segment) bool {
	if len(f.Segments) == MaxSegments {
		return false
	}
	f.Segments = append(f.Segments, s)
	f.Length += uint32(len(s.Data))
	return true
}

// Copy copies the frame's bytes to b and returns how many there were room for.
func (f *Frame) Copy(b []byte) int {
	n := 0
	for i := range f.Segments {
		n += copy(b[n:], f.Segments[i].Data)
	}
	return n
}
