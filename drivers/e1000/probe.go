package e1000

import (
	"fmt"
	"os"

	"godwit/drivers/mmio"
	"godwit/drivers/pci"
	"godwit/kernel"
	"godwit/vnet/nic"
)

var models = map[uint32]Model{
	0x8086_100e: I82540EM,
	0x8086_10d3: I82574L,
}

// Find lists the machine's controllers that this package drives.
func Find(b *pci.Bus) []*pci.Function {
	return b.Find(0x8086_100e, 0x8086_10d3)
}

// ModelOf tells which controller a function is.
func ModelOf(f *pci.Function) Model { return models[id(f)] }

func id(f *pci.Function) uint32 { return uint32(f.Vendor)<<16 | uint32(f.Device) }

// Start claims a controller and opens it, its interrupts on the given CPU. The
// returned function closes it and gives it back.
func Start(f *pci.Function, cpu int, h nic.Handler) (d *Device, stop func() error, err error) {
	model, ok := models[id(f)]
	if !ok {
		return nil, nil, fmt.Errorf("e1000: %v is not a controller this driver knows", f)
	}
	if err := f.Claim("e1000"); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			f.Release()
		}
	}()
	if model == I82574L {
		// 82574 specification update: from a link in L1 or L0s the device may not come
		// back, and then its registers read as all ones until the next reset.
		f.DisableASPM()
	}
	region, err := f.Region(0)
	if err != nil {
		return nil, nil, err
	}
	if region.IO || region.Size < registerSpace {
		return nil, nil, fmt.Errorf("e1000: %v: BAR 0 of %#x bytes cannot hold the registers", f, region.Size)
	}
	window, err := kernel.MapMMIO(region.Address, region.Size)
	if err != nil {
		return nil, nil, fmt.Errorf("e1000: %v: map registers at %#x: %w", f, region.Address, err)
	}
	irq, err := f.ConnectInterrupt(cpu)
	if err != nil {
		return nil, nil, err
	}
	d, err = Open(Config{
		Model:     model,
		Registers: mmio.Window(window),
		Memory:    physical{},
		Interrupt: irq,
		BusMaster: f.SetBusMaster,
		Log:       func(s string) { fmt.Fprintln(os.Stderr, s) },
	}, h)
	if err != nil {
		irq.Close()
		return nil, nil, fmt.Errorf("%v: %w", f, err)
	}
	return d, func() error {
		err := d.Close()
		f.Release()
		return err
	}, nil
}

// physical is the machine's memory, where bus addresses are physical ones: there
// is no IOMMU in use.
type physical struct{}

func (physical) Alloc(size, align uint64) (uint64, []byte, error) {
	return kernel.AllocPhys(size, align)
}

func (physical) Free(bus, size uint64) { kernel.FreePhys(bus, size) }
