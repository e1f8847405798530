// Package frames is the allocator of physical memory: a binary buddy system from
// 4 KiB to 1 GiB. It never allocates Go memory and stores no Go pointers, so that
// it works before the runtime starts and inside interrupt handlers. It has no
// lock; its owner serialises calls.
//
// A free block keeps its list links in its own first bytes; beside the memory
// itself there is one byte of state per frame.
//
// Blocks of 2 MiB are what guests are made of, so frames that stay must not be
// strewn over them. A block that is broken up is one of two kinds. Homes lend their
// frames to pages that lie in one piece of 2 MiB of somebody's addresses, each at
// the place that it has there (OpenHome, AllocAt): what is given up together is whole
// again together. Everything else shares the other blocks. Neither kind takes of the
// other before there is no whole block left. (The idea is that of reservations:
// Navarro, Iyer, Druschel, Cox, "Practical, transparent operating system support for
// superpages", OSDI 2002, 4.)
package frames

import "unsafe"

const (
	Shift    = 12
	Size     = 1 << Shift
	MaxOrder = 18 // 1 GiB

	blockOrder = 9
	BlockSize  = Size << blockOrder // 2 MiB
)

// The state of a frame. Only the first frame of a free block carries freeHead;
// everything else of it keeps whatever it had, so that taking and giving a 1 GiB
// block touches one byte and not 262,144.
const (
	absent   = 0    // not RAM, or never given to the allocator
	present  = 1    // RAM
	freeHead = 0x80 // | order
	home     = 0x40 // at the first frame of a 2 MiB block that is one
)

// links lie at the start of every free block.
type links struct{ next, prev uint64 }

// An Allocator owns the frames that Add gave it.
type Allocator struct {
	base  uintptr                 // where physical address 0 is mapped
	state []uint8                 // by frame number
	head  [2][MaxOrder + 1]uint64 // of free blocks in homes: [1]; of others, and whole ones: [0]
	total uint64
	free  uint64
}

// StateSize is how many bytes of state memory up to physical address end needs.
func StateSize(end uint64) uint64 { return (end + Size - 1) >> Shift }

// Init makes an empty allocator. base is the address at which physical address 0
// is mapped, state zeroed memory of StateSize bytes.
func (a *Allocator) Init(base uintptr, state []uint8) {
	*a = Allocator{base: base, state: state}
}

// Total is how many bytes Add brought.
func (a *Allocator) Total() uint64 { return a.total }

// Free is how many bytes are free.
func (a *Allocator) Free() uint64 { return a.free }

// Managed reports whether every frame of a range was given to the allocator.
func (a *Allocator) Managed(start, end uint64) bool {
	if start >= end || end > uint64(len(a.state))<<Shift {
		return false
	}
	for f := start >> Shift; f < (end+Size-1)>>Shift; f++ {
		if a.state[f] == absent {
			return false
		}
	}
	return true
}

// Add gives the allocator the whole frames of a range of RAM, and reports whether
// it could: the range must lie below the state's end and not overlap an earlier
// one. Frame 0 is never taken, because 0 ends the lists.
func (a *Allocator) Add(start, end uint64) bool {
	start, end = (start+Size-1)&^(Size-1), end&^(Size-1)
	if start == 0 {
		start = Size
	}
	if start >= end {
		return true
	}
	if end > uint64(len(a.state))<<Shift {
		return false
	}
	if !a.mark(start>>Shift, end>>Shift) {
		return false
	}
	a.total += end - start
	a.putRange(start, end)
	return true
}

// run is how many frames mark takes at once. A terabyte has 268 million frames.
const run = 4096

var absentRun, presentRun [run]uint8

// mark makes the frames in [from, to) present, if all of them are absent.
func (a *Allocator) mark(from, to uint64) bool {
	for f := from; f < to; f += run {
		n := min(run, to-f)
		if string(a.state[f:f+n]) != string(absentRun[:n]) {
			return false
		}
	}
	if presentRun[0] != present {
		for i := range presentRun {
			presentRun[i] = present
		}
	}
	for f := from; f < to; f += run {
		copy(a.state[f:to], presentRun[:])
	}
	return true
}

// Order is the smallest order whose block holds size bytes, MaxOrder+1 if none.
func Order(size uint64) int {
	for o := 0; o <= MaxOrder; o++ {
		if size <= Size<<o {
			return o
		}
	}
	return MaxOrder + 1
}

// AllocOrder takes one naturally aligned block of 4 KiB << order.
func (a *Allocator) AllocOrder(order int) (phys uint64, ok bool) {
	for kind := range a.head {
		for o := order; o <= MaxOrder; o++ {
			if p := a.head[kind][o]; p != 0 {
				a.unlink(p, o)
				a.cut(p, o, p, order)
				return p, true
			}
		}
	}
	return 0, false
}

// OpenHome makes a whole block a home and takes its frame at an offset, below 2 MiB.
func (a *Allocator) OpenHome(offset uint64) (phys uint64, ok bool) {
	for o := blockOrder; o <= MaxOrder; o++ {
		if p := a.head[0][o]; p != 0 {
			a.unlink(p, o)
			a.cut(p, o, p, blockOrder)
			a.state[p>>Shift] |= home
			a.free += BlockSize
			at := p + offset%BlockSize&^(Size-1)
			a.cut(p, blockOrder, at, 0)
			return at, true
		}
	}
	return 0, false
}

// AllocAt takes the frame at phys, if it is a home's and free.
func (a *Allocator) AllocAt(phys uint64) bool {
	phys &^= Size - 1
	if phys>>Shift >= uint64(len(a.state)) || a.kind(phys, 0) == 0 {
		return false
	}
	for o := range blockOrder {
		p := phys &^ (Size<<o - 1)
		if a.state[p>>Shift]&^home == uint8(freeHead|o) {
			a.unlink(p, o)
			a.cut(p, o, phys, 0)
			return true
		}
	}
	return false
}

// cut takes the block of 4 KiB << order at phys out of an unlinked one at p, and gives
// back the rest.
func (a *Allocator) cut(p uint64, o int, phys uint64, order int) {
	for o > order {
		o--
		if half := p + Size<<o; phys >= half {
			a.link(p, o)
			p = half
		} else {
			a.link(half, o)
		}
	}
	a.free -= Size << order
}

// kind is 1 for what lies in a home. A block that is whole is in none.
func (a *Allocator) kind(p uint64, o int) int {
	if o < blockOrder && a.state[p&^(BlockSize-1)>>Shift]&home != 0 {
		return 1
	}
	return 0
}

// Alloc takes size bytes (a multiple of 4 KiB, up to 1 GiB) aligned to align (a
// power of two up to 1 GiB).
func (a *Allocator) Alloc(size, align uint64) (phys uint64, ok bool) {
	if size == 0 || size%Size != 0 || align&(align-1) != 0 {
		return 0, false
	}
	o := Order(max(size, align))
	if o > MaxOrder {
		return 0, false
	}
	p, ok := a.AllocOrder(o)
	if ok && size < Size<<o {
		a.putRange(p+size, p+Size<<o)
	}
	return p, ok
}

// Release gives a range of frames back, all of an earlier allocation or part of
// it. It reports false, and does nothing, when the range was not allocated.
func (a *Allocator) Release(phys, size uint64) bool {
	if size == 0 || phys%Size != 0 || size%Size != 0 || phys+size < phys || !a.Managed(phys, phys+size) {
		return false
	}
	for p := phys; p < phys+size; p += Size {
		if a.isFree(p) {
			return false
		}
	}
	a.putRange(phys, phys+size)
	return true
}

// isFree reports whether the frame at p lies in a free block.
func (a *Allocator) isFree(p uint64) bool {
	for o := 0; o <= MaxOrder; o++ {
		s := a.state[p&^(Size<<o-1)>>Shift]
		if s&freeHead != 0 && int(s&^(freeHead|home)) >= o {
			return true
		}
	}
	return false
}

// putRange frees [start, end) as the largest aligned blocks that fit.
func (a *Allocator) putRange(start, end uint64) {
	for start < end {
		o := 0
		for o < MaxOrder && start&(Size<<o) == 0 && start+Size<<(o+1) <= end {
			o++
		}
		a.put(start, o)
		start += Size << o
	}
}

// put frees one block and joins it with its free buddies.
func (a *Allocator) put(p uint64, o int) {
	a.free += Size << o
	for q := p; o >= blockOrder && q < p+Size<<o; q += BlockSize { // given back at once, taken in pieces
		a.state[q>>Shift] &^= home
	}
	for o < MaxOrder {
		buddy := p ^ Size<<o
		f := buddy >> Shift
		if f >= uint64(len(a.state)) || a.state[f]&^home != uint8(freeHead|o) {
			break
		}
		a.unlink(buddy, o)
		p &^= Size << o
		if o++; o == blockOrder {
			a.state[p>>Shift] &^= home
		}
	}
	a.link(p, o)
}

func (a *Allocator) links(p uint64) *links {
	return (*links)(unsafe.Add(unsafe.Pointer(nil), a.base+uintptr(p)))
}

func (a *Allocator) link(p uint64, o int) {
	head := &a.head[a.kind(p, o)][o]
	*a.links(p) = links{next: *head}
	if *head != 0 {
		a.links(*head).prev = p
	}
	*head = p
	s := &a.state[p>>Shift]
	*s = freeHead | uint8(o) | *s&home
}

func (a *Allocator) unlink(p uint64, o int) {
	l := *a.links(p)
	if l.prev == 0 {
		a.head[a.kind(p, o)][o] = l.next
	} else {
		a.links(l.prev).next = l.next
	}
	if l.next != 0 {
		a.links(l.next).prev = l.prev
	}
	s := &a.state[p>>Shift]
	*s = present | *s&home
}
