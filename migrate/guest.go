package migrate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"
)

// Everything is counted in pages of this size, whatever size the hardware maps.
// A page number is a guest-physical address divided by it.
const (
	PageShift = 12
	PageSize  = 1 << PageShift
)

// A Region is a range of the guest's RAM, in bytes of guest-physical address
// space. Both fields are multiples of PageSize, Size is not zero.
type Region struct {
	Start, Size uint64
}

func (r Region) first() uint64 { return r.Start >> PageShift }
func (r Region) pages() uint64 { return r.Size >> PageShift }
func (r Region) end() uint64   { return (r.Start + r.Size) >> PageShift }

// A Machine is what a target must know to build an empty guest.
type Machine struct {
	Name    string
	Regions []Region // ascending, not overlapping
	Config  []byte   // the machine's own description; this package does not look into it
}

// A Guest is a machine on the host that it leaves. One goroutine at a time calls
// its methods, except that Counters, SetGroup, Written and ReadPages may be
// called while others are in progress.
//
// The order of calls is
//
//	Machine, BeginTracking, {Harvest, ReadPages, ...}, Pause, {Harvest,
//	ReadPages, SaveState}, and then either Release or [Resume,] EndTracking.
//
// From BeginTracking to Release or EndTracking the guest belongs to the
// migration: its memory stays where it is and readable even if it powers
// itself off, and whoever wants to delete, reset or stop it is refused or
// cancels the migration first.
type Guest interface {
	// Machine describes the guest. It does not change during a migration.
	Machine() Machine

	// BeginTracking takes the guest for a migration and makes every page of
	// its RAM read-only in the second-level tables. On return every later
	// write, by a VCPU, an emulated device, a clock page or anybody else, is
	// recorded before it happens. It fails if the guest is taken already or
	// does not run.
	//
	// group is how many pages one write fault opens: the naturally aligned
	// block of that many pages around the faulting one, cut to its region.
	// All of them count as written. It is a power of two from 1 to
	// MaxGroup.
	BeginTracking(group int) error
	// SetGroup changes the group's size for the faults to come.
	SetGroup(pages int)
	// EndTracking ends what BeginTracking began and makes memory writable at
	// full speed again. Calling it when no tracking is on does nothing.
	EndTracking()
	// Harvest adds all pages written since the last Harvest (or BeginTracking)
	// to dirty, forgets them, and protects them again. It returns how many
	// these were. All that is complete when it returns: no VCPU holds a
	// translation any more through which it could write one of them
	// unrecorded, so a page read after this either is as it will stay or will
	// be harvested again. dirty has a bit for every page below the end of
	// the last region.
	Harvest(dirty Bitmap) int
	// Written tells whether the page has been written since the last Harvest:
	// a hint, free of any lock, that sending it now is a waste.
	Written(page uint64) bool
	// Counters tells what tracking has seen.
	Counters() Counters
	// ReadPages copies whole pages, from first on, to dst. They lie in one
	// region. The guest may be writing them: what is read then can be torn,
	// and Harvest reports the page.
	ReadPages(first uint64, dst []byte)

	// Pause stops every VCPU and every device's activity. When it returns
	// without an error the guest's memory and state stand still. With an error
	// the guest is as it was before; errors wrap ErrGuestGone if it has ended
	// by itself.
	Pause(ctx context.Context) error
	// Resume undoes Pause. It can not fail: nothing was given up by Pause.
	Resume()
	// SaveState writes all state apart from memory. The guest is paused; it
	// can be resumed afterwards as if nothing had been.
	SaveState(w io.Writer) error
	// Release gives the paused guest up: another host runs it now. It frees
	// everything the guest had here, tracking included.
	Release()
}

// MaxGroup is the largest group of pages a write fault can open: what one entry
// of a page directory maps.
const MaxGroup = 512

// ErrGuestGone is in errors of a Guest that powered off, or was ended by its
// own fault, while it was being moved.
var ErrGuestGone = errors.New("the guest has ended")

// Counters of write tracking since BeginTracking.
type Counters struct {
	Dirty  uint64 // pages written (or opened with a written one) since the last Harvest
	Faults uint64 // write faults taken
	Opened uint64 // pages these faults opened
}

// A Target makes machines on the host where guests arrive.
type Target interface {
	// Prepare builds an empty machine: memory that reads as zero, VCPUs and
	// devices in reset state, none of them running. It checks everything that
	// can be checked before the guest has stopped running elsewhere (its name
	// is free here, the config's version and its every value, that regions and
	// config agree, the CPU model, memory) and takes all resources that the
	// machine will need, so that nothing later fails for want of them. m comes
	// from the network: an enemy may have written it.
	Prepare(ctx context.Context, m Machine) (Incoming, error)
}

// An Incoming is a machine being filled. One goroutine uses it. After Prepare
// comes any number of WritePages and ZeroPages, at most one LoadState, and then
// either Start or Abort.
type Incoming interface {
	// WritePages copies data, whole pages, to the RAM from page first on. The
	// range lies in one region.
	WritePages(first uint64, data []byte) error
	// ZeroPages makes n pages from first on read as zero.
	ZeroPages(first, n uint64) error
	// ReadPages is Guest.ReadPages, to verify what has arrived.
	ReadPages(first uint64, dst []byte)
	// LoadState loads what Guest.SaveState wrote and checks it whole: after
	// it only Start remains to be done. An enemy may have written it.
	LoadState(ctx context.Context, r io.Reader) error
	// Start runs the guest. An error means that no VCPU has executed an
	// instruction and no device has acted; Abort follows. Without an error the
	// machine is the host's, like any other.
	Start() error
	// Abort ends the machine, frees all it had and gives its name free.
	Abort()
}

// A Bitmap has one bit for each page.
type Bitmap []uint64

// NewBitmap makes a Bitmap for pages 0 to n-1.
func NewBitmap(n uint64) Bitmap { return make(Bitmap, (n+63)/64) }

func (b Bitmap) Set(page uint64)      { b[page/64] |= 1 << (page % 64) }
func (b Bitmap) Clear(page uint64)    { b[page/64] &^= 1 << (page % 64) }
func (b Bitmap) Has(page uint64) bool { return b[page/64]>>(page%64)&1 != 0 }

// Count is how many bits are set.
func (b Bitmap) Count() (n int) {
	for _, w := range b {
		n += bits.OnesCount64(w)
	}
	return n
}

// countRange is how many of n bits from first on are set.
func (b Bitmap) countRange(first, n uint64) (c uint64) {
	for n > 0 {
		m := min(n, 64-first%64)
		c += uint64(bits.OnesCount64(b[first/64] & ((^uint64(0) >> (64 - m)) << (first % 64))))
		first += m
		n -= m
	}
	return c
}

// SetRange sets n bits from first on.
func (b Bitmap) SetRange(first, n uint64) {
	for n > 0 {
		m := min(n, 64-first%64)
		b[first/64] |= (^uint64(0) >> (64 - m)) << (first % 64)
		first += m
		n -= m
	}
}

// Next is the first set bit at or after page, and whether there is one.
func (b Bitmap) Next(page uint64) (uint64, bool) {
	i := page / 64
	if i >= uint64(len(b)) {
		return 0, false
	}
	w := b[i] &^ (1<<(page%64) - 1)
	for w == 0 {
		if i++; i >= uint64(len(b)) {
			return 0, false
		}
		w = b[i]
	}
	return i*64 + uint64(bits.TrailingZeros64(w)), true
}

// NextBefore is Next that does not look at end and behind it.
func (b Bitmap) NextBefore(page, end uint64) (uint64, bool) {
	if page >= end {
		return 0, false
	}
	p, ok := b[:min(uint64(len(b)), (end+63)/64)].Next(page)
	return p, ok && p < end
}

// CheckRegions tells what is wrong with a list of regions, or with their sum
// exceeding maxBytes.
func CheckRegions(rs []Region, maxBytes uint64) error {
	if len(rs) == 0 || len(rs) > maxRegions {
		return fmt.Errorf("%d memory regions, not 1 to %d", len(rs), maxRegions)
	}
	var end, sum uint64
	for i, r := range rs {
		switch {
		case r.Start%PageSize != 0 || r.Size%PageSize != 0 || r.Size == 0:
			return fmt.Errorf("memory region %d (%#x+%#x) is not made of whole pages", i, r.Start, r.Size)
		case r.Start < end:
			return fmt.Errorf("memory region %d (%#x+%#x) is out of order or overlaps", i, r.Start, r.Size)
		case r.Size > maxAddress || r.Start > maxAddress-r.Size:
			return fmt.Errorf("memory region %d (%#x+%#x) ends beyond %#x", i, r.Start, r.Size, uint64(maxAddress))
		}
		end = r.Start + r.Size
		if sum += r.Size; sum > maxBytes {
			return fmt.Errorf("the guest has more than %d MiB of memory, the limit here", maxBytes>>20)
		}
	}
	// Bitmaps cover holes too, so an enemy's holes must not be free of charge.
	if end-sum > maxHoles {
		return fmt.Errorf("memory regions leave holes of %d MiB, more than %d", (end-sum)>>20, maxHoles>>20)
	}
	return nil
}

const (
	maxRegions = 64
	maxAddress = 1 << 46 // four-level second-level tables of either vendor reach 48 bits
	maxHoles   = 8 << 30
)

// regionOf finds the region that holds pages first to first+n-1 whole.
func regionOf(rs []Region, first, n uint64) (Region, bool) {
	for _, r := range rs {
		if first >= r.first() && first < r.end() {
			return r, n <= r.end()-first
		}
	}
	return Region{}, false
}
