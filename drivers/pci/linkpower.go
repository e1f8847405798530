package pci

// PCI Express capability, PCIe 7.8.
const (
	expressLinkControl = 0x10 // 7.8.7

	linkASPM = 3 << 0 // L0s and L1 entry
)

// DisableASPM keeps the function's link out of the power states that hardware enters
// by itself. Firmware may have switched them on. The lower end of a link goes first,
// PCIe 5.4.1.3.1.
func (f *Function) DisableASPM() {
	f.clearASPM()
	for _, above := range f.bus.functions {
		if above.header&headerLayout == headerBridge && f.bus.cfg.Read(above.Address, regSecondary, 1) == uint32(f.Bus) {
			above.clearASPM()
		}
	}
}

func (f *Function) clearASPM() {
	if off, ok := f.capability(CapExpress); ok && off+expressLinkControl+2 <= legacySize {
		f.update(off+expressLinkControl, linkASPM, 0)
	}
}
