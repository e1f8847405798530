package vdisk

import (
	"errors"
	"fmt"
)

// A Flaw is a kind of damage, by its name. It is an error: errors.Is(err, ErrOverlap)
// tells whether err speaks of that one. Each error that has a Flaw is also
// ErrCorrupt or ErrUnsupported.
type Flaw string

// What makes an image, or a part of it, unreadable or unsafe to write.
const (
	ErrNotVHDX         Flaw = "not-vhdx"
	ErrTruncated       Flaw = "truncated"
	ErrHeaders         Flaw = "headers"
	ErrVersion         Flaw = "version"
	ErrLogPlace        Flaw = "log-place"
	ErrNoLog           Flaw = "no-log"
	ErrLog             Flaw = "log"
	ErrLogTarget       Flaw = "log-target"
	ErrRegionTable     Flaw = "region-table"
	ErrRegions         Flaw = "regions"
	ErrOverlap         Flaw = "overlap"
	ErrAbsurdSize      Flaw = "absurd-size"
	ErrUnknownRequired Flaw = "unknown-required"
	ErrMetadata        Flaw = "metadata"
	ErrLocator         Flaw = "parent-locator"
	ErrCircularParents Flaw = "circular-parents"
	ErrParentMissing   Flaw = "parent-missing"
	ErrParentChanged   Flaw = "parent-changed"
	ErrParentSectors   Flaw = "parent-sectors"
	ErrBlockState      Flaw = "block-state"
	ErrBlockPlace      Flaw = "block-place"
	ErrBlockBeyondEnd  Flaw = "block-beyond-end"
	ErrBlockCut        Flaw = "block-cut"
	ErrBitmapState     Flaw = "bitmap-state"
	ErrBitmapPlace     Flaw = "bitmap-place"
	ErrBitmapMissing   Flaw = "bitmap-missing"
)

// What only Check looks for: such an image opens.
const (
	flawHeaderCopy    Flaw = "header-copy"
	flawRegionCopy    Flaw = "region-copy"
	flawRegionsDiffer Flaw = "region-copies-differ"
	flawLogInUse      Flaw = "log-in-use"
	flawLogTorn       Flaw = "log-torn"
	flawLogGap        Flaw = "log-gap"
	flawLeak          Flaw = "leak"
	flawBitmapEmpty   Flaw = "bitmap-empty"
	flawBitmapFull    Flaw = "bitmap-full"
	flawBitmapUnused  Flaw = "bitmap-unused"
	flawBitsBeyond    Flaw = "bits-beyond-disk"
	flawEntryBeyond   Flaw = "entry-beyond-disk"
	flawReserved      Flaw = "reserved-bits"
	flawFixedHole     Flaw = "fixed-hole"
	flawUnknownItem   Flaw = "unknown-item"
	flawParentSmaller Flaw = "parent-smaller"
	flawNotSaid       Flaw = "damaged"
)

func (f Flaw) Error() string { return string(f) }

// A flawError is what errors about damage are made of.
type flawError struct {
	flaw  Flaw
	class error // ErrCorrupt or ErrUnsupported
	off   int64
	text  string
}

func (e *flawError) Error() string {
	return fmt.Sprintf("%v: offset %#x: %s", e.class, e.off, e.text)
}

func (e *flawError) Unwrap() []error { return []error{e.class, e.flaw} }

// at is an ErrCorrupt that says where and what.
func (f Flaw) at(off int64, format string, args ...any) error {
	return &flawError{f, ErrCorrupt, off, fmt.Sprintf(format, args...)}
}

func (f Flaw) unsupported(off int64, format string, args ...any) error {
	return &flawError{f, ErrUnsupported, off, fmt.Sprintf(format, args...)}
}

// flawOf takes an error about damage apart; ok is false for all others.
func flawOf(err error) (f Flaw, off int64, ok bool) {
	var e *flawError
	switch {
	case errors.As(err, &e):
		return e.flaw, e.off, true
	case errors.Is(err, ErrCorrupt), errors.Is(err, ErrUnsupported):
		return flawNotSaid, 0, true
	}
	return "", 0, false
}

// A Severity orders findings.
type Severity string

const (
	// Damaged: data is wrong, unreachable or in danger when the image is written.
	Damaged Severity = "damage"
	// Weakened: all data is there, but a copy is lost, or other tools may refuse
	// the image.
	Weakened Severity = "weakened"
	// Noted: waste, or what the next opening for writing settles by itself.
	Noted Severity = "note"
)

const (
	doRepair  = "run repair"
	doRestore = "restore the file from a copy; what can be read, convert takes out"
	doNothing = "nothing need be done"
)

// flaws says how grave each is and what to do about it.
var flaws = map[Flaw]struct {
	severity Severity
	do       string
}{
	ErrNotVHDX:         {Damaged, "see whether this is the right file"},
	ErrTruncated:       {Damaged, doRestore + "; if only blocks are missing, repair makes the rest usable"},
	ErrHeaders:         {Damaged, doRestore},
	ErrVersion:         {Damaged, "use the tool that made the file"},
	ErrLogPlace:        {Damaged, "run repair: it gives a log that lies beyond the file's end another place; else restore the file from a copy"},
	ErrNoLog:           {Damaged, "run repair: it gives the image a log"},
	ErrLog:             {Damaged, "run repair: it drops the log, which nothing can replay"},
	ErrRegionTable:     {Damaged, doRestore},
	ErrRegions:         {Damaged, doRestore},
	ErrOverlap:         {Damaged, "run repair before anything writes to it: blocks that share a place get their own copies"},
	ErrAbsurdSize:      {Damaged, doRestore},
	ErrUnknownRequired: {Damaged, "use the tool that made the file"},
	ErrMetadata:        {Damaged, doRestore},
	ErrLocator:         {Damaged, doRestore},
	ErrCircularParents: {Damaged, "give the child its right parent"},
	ErrParentMissing:   {Damaged, "put the parent where the child looks for it"},
	ErrParentChanged:   {Damaged, "find the parent as it was when the child was made; if it is lost, so is what the child does not hold"},
	ErrParentSectors:   {Damaged, "give the child its right parent"},
	ErrBlockState:      {Damaged, doRepair},
	ErrBlockPlace:      {Damaged, doRepair},
	ErrBlockBeyondEnd:  {Damaged, "restore the file from a copy, or run repair: the block then reads as if it had never been written"},
	ErrBlockCut:        {Damaged, "restore the file from a copy, or run repair: what is missing of the block then reads as zero"},
	ErrBitmapState:     {Damaged, doRepair},
	ErrBitmapPlace:     {Damaged, doRepair},
	ErrBitmapMissing:   {Damaged, "restore the file from a copy, or run repair: it guesses the bitmap from the block's contents"},
	flawHeaderCopy:     {Weakened, "run repair; the next opening for writing renews it too"},
	flawRegionCopy:     {Damaged, "run repair: it renews this copy from the other; some tools refuse the file until then"},
	flawRegionsDiffer:  {Damaged, "run repair: it keeps the one that leads to an image"},
	flawLogInUse:       {Noted, "open it for writing or run repair: either replays the log for good"},
	flawLogTorn:        {Noted, "nothing need be done: the entry was being written when the machine stopped, and is rightly ignored"},
	flawLogGap:         {Damaged, "restore the file from a copy: the log lost an entry in its midst, and what came after it is ignored"},
	ErrLogTarget:       {Damaged, doRestore},
	flawLeak:           {Noted, "run repair to give the space back; the next opening for writing uses it again"},
	flawBitmapEmpty:    {Noted, "run repair to give the space back"},
	flawBitmapFull:     {Noted, "run repair to make the block fully present, which reads faster"},
	flawBitmapUnused:   {Noted, "run repair to give the space back"},
	flawBitsBeyond:     {Weakened, "run repair: if the disk ever grows, these bits show wrong data"},
	flawEntryBeyond:    {Weakened, "run repair: if the disk ever grows, these entries show wrong data"},
	flawReserved:       {Weakened, "run repair where it is a table of blocks; other tools may refuse the file"},
	flawFixedHole:      {Noted, "nothing need be done: the blocks get their places when they are written"},
	flawUnknownItem:    {Noted, "nothing need be done: it is kept"},
	flawParentSmaller:  {Noted, "nothing need be done: beyond the parent's end the child reads zero"},
	flawNotSaid:        {Damaged, doRestore},
}
