package device

// Bytes is a device whose N ports from First on are a byte each. An access of several
// takes one after the other, as on an ISA bus: OUT 70h, AX writes the RTC's index and then
// its data. Nobody answers behind the last port.
type Bytes struct {
	First, N uint16
	Device   PortDevice
}

// In implements PortDevice.
func (b *Bytes) In(port uint16, size int) (v uint32) {
	if size == 1 {
		return b.Device.In(port, 1)
	}
	for i := range uint16(size) {
		x := uint32(0xff)
		if port+i-b.First < b.N {
			x = b.Device.In(port+i, 1) & 0xff
		}
		v |= x << (8 * i)
	}
	return v
}

// Out implements PortDevice.
func (b *Bytes) Out(port uint16, size int, v uint32) {
	if size == 1 {
		b.Device.Out(port, 1, v)
		return
	}
	for i := range uint16(size) {
		if port+i-b.First < b.N {
			b.Device.Out(port+i, 1, v>>(8*i)&0xff)
		}
	}
}
