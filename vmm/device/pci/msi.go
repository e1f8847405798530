package pci

import "encoding/binary"

// MSI capability with 64-bit address and per-vector masks (PCI Local Bus
// Specification 3.0, section 6.8.1), offsets from its start.
const (
	msiControl = 2
	msiAddress = 4
	msiData    = 12
	msiMask    = 16
	msiPending = 20
	msiSize    = 24
)

const (
	msiEnable  = 1 << 0
	msi64      = 1 << 7
	msiMasking = 1 << 8
)

// AddMSI gives the function 1<<log2 MSI vectors, log2 at most 5.
func (f *Function) AddMSI(log2 uint8) {
	if log2 > 5 {
		panic("pci: " + f.name + ": MSI has at most 32 vectors")
	}
	var body, writable [msiSize - 2]byte
	le := binary.LittleEndian
	le.PutUint16(body[msiControl-2:], uint16(log2)<<1|msi64|msiMasking)
	le.PutUint16(writable[msiControl-2:], msiEnable|7<<4)
	le.PutUint64(writable[msiAddress-2:], ^uint64(3))
	le.PutUint16(writable[msiData-2:], 0xffff)
	le.PutUint32(writable[msiMask-2:], uint32(1<<(1<<log2)-1))
	f.msi = f.AddCapability(CapMSI, body[:], writable[:], nil)
}

func (f *Function) clearMSI() {
	binary.LittleEndian.PutUint32(f.config[f.msi+msiPending:], 0)
}

// msiVectors is how many vectors software enabled: never more than there are.
func (f *Function) msiVectors() int {
	c := f.config[f.msi+msiControl]
	return 1 << min(c>>4&7, c>>1&7)
}

// sendMSI sends or, if it is masked, remembers vector n. mu is held.
func (f *Function) sendMSI(n int) {
	le := binary.LittleEndian
	cap := f.config[f.msi:]
	n &= f.msiVectors() - 1
	pending := le.Uint32(cap[msiPending:])
	if le.Uint32(cap[msiMask:])>>n&1 != 0 || f.command()&cmdMaster == 0 {
		le.PutUint32(cap[msiPending:], pending|1<<n)
		return
	}
	le.PutUint32(cap[msiPending:], pending&^(1<<n))
	// With several vectors the low bits of the data tell them apart.
	data := le.Uint16(cap[msiData:])&^uint16(f.msiVectors()-1) | uint16(n)
	f.host.msi.Message(le.Uint64(cap[msiAddress:]), uint32(data))
}

// flushMSI sends what waited for a mask to be lifted. mu is held.
func (f *Function) flushMSI() {
	if f.msi == 0 || f.config[f.msi+msiControl]&msiEnable == 0 || f.host == nil {
		return
	}
	for n := range f.msiVectors() {
		if binary.LittleEndian.Uint32(f.config[f.msi+msiPending:])>>n&1 != 0 {
			f.sendMSI(n)
		}
	}
}
