package vdisk

import (
	"fmt"
	"math/bits"
)

// blockState is the low three bits of a BAT entry (2.5.1.1, 2.5.1.2).
type blockState uint8

const (
	notPresent blockState = 0 // differencing: the parent's
	undefined  blockState = 1 // whatever was there
	zeroed     blockState = 2
	unmapped   blockState = 3 // trimmed
	present    blockState = 6 // also a sector bitmap block that is there
	partial    blockState = 7 // differencing: as the sector bitmap says
)

func (s blockState) String() string {
	switch s {
	case notPresent:
		return "not present"
	case undefined:
		return "undefined"
	case zeroed:
		return "zero"
	case unmapped:
		return "unmapped"
	case present:
		return "fully present"
	case partial:
		return "partially present"
	}
	return fmt.Sprintf("reserved state %d", uint8(s))
}

// batEntry is state 2:0, reserved 19:3, offset in MiB 63:20.
type batEntry uint64

func entry(s blockState, off int64) batEntry { return batEntry(uint64(off)&^(mib-1) | uint64(s)) }

func (e batEntry) state() blockState { return blockState(e & 7) }
func (e batEntry) offset() int64     { return int64(uint64(e) &^ (mib - 1)) }
func (e batEntry) reserved() uint64  { return uint64(e) >> 3 & 0x1ffff }

// check is what disks of this library may have at most (2.6.2).
func (p *params) check() error {
	switch {
	case p.LogicalSector != 512 && p.LogicalSector != 4096:
		return fmt.Errorf("logical sectors of %d bytes; only 512 and 4096 exist", p.LogicalSector)
	case p.PhysicalSector != 512 && p.PhysicalSector != 4096:
		return fmt.Errorf("physical sectors of %d bytes; only 512 and 4096 exist", p.PhysicalSector)
	case p.BlockSize < minBlock || p.BlockSize > maxBlock || !isPow2(uint64(p.BlockSize)):
		return fmt.Errorf("blocks of %d bytes; they are a power of two from 1 MiB to 256 MiB", p.BlockSize)
	case p.DiskSize == 0 || p.DiskSize > maxDisk:
		return fmt.Errorf("a disk of %d bytes; the format holds up to 64 TiB", p.DiskSize)
	case p.DiskSize%uint64(p.LogicalSector) != 0:
		return fmt.Errorf("a disk of %d bytes, which are not whole sectors of %d", p.DiskSize, p.LogicalSector)
	}
	return nil
}

// geometry is what follows from params (2.5).
type geometry struct {
	chunkRatio uint64 // payload blocks that one sector bitmap block describes
	blocks     uint64 // payload blocks
	chunks     uint64 // sector bitmap blocks, whether they are used or not
	entries    uint64 // of the BAT
	ratioShift int    // chunkRatio, a power of two, as a shift
}

func (p *params) geometry() geometry {
	var g geometry
	g.chunkRatio = chunkBits * uint64(p.LogicalSector) / uint64(p.BlockSize)
	g.ratioShift = bits.TrailingZeros64(g.chunkRatio)
	g.blocks = (p.DiskSize + uint64(p.BlockSize) - 1) / uint64(p.BlockSize)
	g.chunks = (g.blocks + g.chunkRatio - 1) / g.chunkRatio
	if p.HasParent {
		g.entries = g.chunks * (g.chunkRatio + 1)
	} else {
		g.entries = g.blocks + (g.blocks-1)/g.chunkRatio
	}
	return g
}

// batIndex is where block n's entry stands.
func (g *geometry) batIndex(n uint64) uint64 { return n + n>>(g.ratioShift&63) }

// bitmapIndex is where the entry of chunk c's sector bitmap stands.
func (g *geometry) bitmapIndex(c uint64) uint64 { return (c+1)*(g.chunkRatio+1) - 1 }
