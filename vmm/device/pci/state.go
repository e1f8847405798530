package pci

import (
	"errors"
	"fmt"

	"godwit/vmm/state"
)

// StateName implements state.Device: the bridge's ports. Functions are apart.
func (h *Host) StateName() string { return "pci" }

// StateVersion implements state.Device.
func (h *Host) StateVersion() uint16 { return 1 }

// SaveState implements state.Device.
func (h *Host) SaveState(w *state.Writer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w.U32(h.address)
	w.U8(h.control)
}

// LoadState implements state.Device.
func (h *Host) LoadState(_ uint16, r *state.Reader) error {
	address, control := r.U32(), r.U8()
	if control&^0x0e != 0 {
		r.Fail(fmt.Errorf("the reset control register is %#x", control))
	}
	if r.Err() != nil {
		return r.Err()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.address, h.control = address, control
	return nil
}

// Reset implements device.Device: nothing, for the Host resets its functions and
// then gives them addresses again.
func (f *Function) Reset() {}

// StateName implements state.Device.
func (f *Function) StateName() string { return f.name }

// StateVersion implements state.Device.
func (f *Function) StateVersion() uint16 { return 1 }

// SaveState implements state.Device.
func (f *Function) SaveState(w *state.Writer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w.Blob(f.config[:])
	w.Bool(f.intx)
	w.Bool(f.driven)
	if f.msix == nil {
		w.U16(0)
		return
	}
	w.U16(uint16(len(f.msix.entries)))
	for _, e := range f.msix.entries {
		w.U64(e.address)
		w.U32(e.data)
		w.U32(e.control)
	}
	for _, p := range f.msix.pending {
		w.U64(p)
	}
}

// volatile are the read-only bits that change: INTx status and MSI's pending bits.
func (f *Function) volatile() (mask [256]byte) {
	mask[regStatus] = statusINTx
	if f.msi != 0 {
		for i := range 4 {
			mask[f.msi+msiPending+i] = f.writable[f.msi+msiMask+i]
		}
	}
	return mask
}

// LoadState implements state.Device. What software can not write must be the same
// here as where the state comes from: it is another device otherwise.
func (f *Function) LoadState(_ uint16, r *state.Reader) error {
	config := r.Blob(len(f.config))
	intx, driven := r.Bool(), r.Bool()
	n := int(r.U16())
	have := 0
	if f.msix != nil {
		have = len(f.msix.entries)
	}
	if r.Err() != nil {
		return r.Err()
	}
	if len(config) != len(f.config) {
		return fmt.Errorf("configuration space is %d bytes long", len(config))
	}
	if n != have {
		return fmt.Errorf("%d MSI-X vectors; this device has %d", n, have)
	}
	entries := make([]msixEntry, n)
	var pending [len(msix{}.pending)]uint64
	for i := range entries {
		e := &entries[i]
		e.address, e.data, e.control = r.U64(), r.U32(), r.U32()
		if e.address&3 != 0 || e.control&^entryMasked != 0 {
			r.Fail(fmt.Errorf("MSI-X vector %d: address %#x, control %#x", i, e.address, e.control))
		}
	}
	if n > 0 {
		for i := range pending {
			pending[i] = r.U64()
			if top := n - 64*i; top < 64 && pending[i]>>max(top, 0) != 0 {
				r.Fail(errors.New("MSI-X vectors that do not exist are pending"))
			}
		}
	}
	if r.Err() != nil {
		return r.Err()
	}
	if f.host != nil {
		f.host.mu.Lock()
		defer f.host.mu.Unlock()
	}
	if err := f.load(config, entries, pending, intx, driven); err != nil {
		return err
	}
	if f.host != nil {
		f.host.reroute()
	}
	return nil
}

func (f *Function) load(config []byte, entries []msixEntry, pending [len(msix{}.pending)]uint64, intx, driven bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	volatile := f.volatile()
	for i, v := range config {
		if (v^f.config[i])&^(f.writable[i]|volatile[i]) != 0 {
			return fmt.Errorf("configuration byte %#x is %#x; this device has %#x", i, v, f.config[i])
		}
	}
	if intx != (config[regStatus]&statusINTx != 0) {
		return errors.New("the interrupt pin and its status bit differ")
	}
	copy(f.config[:], config)
	f.intx, f.driven = intx, driven
	if f.msix != nil {
		copy(f.msix.entries, entries)
		f.msix.pending = pending
	}
	return nil
}
