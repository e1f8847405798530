package pci

import "fmt"

// An Address names one function of one device.
type Address struct {
	Segment  uint16
	Bus      uint8
	Device   uint8 // 0 to 31
	Function uint8 // 0 to 7
}

// String is the usual form, 00:03.0, with the segment in front if it is not 0.
func (a Address) String() string {
	s := fmt.Sprintf("%02x:%02x.%d", a.Bus, a.Device, a.Function)
	if a.Segment != 0 {
		s = fmt.Sprintf("%04x:%s", a.Segment, s)
	}
	return s
}
