package e1000

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"godwit/vnet/frame"
	"godwit/vnet/nic"
)

// Registers is the device's register window. mmio.Window is one.
type Registers interface {
	Read32(reg uint64) uint32
	Write32(reg uint64, v uint32)
}

// Interrupt is the device's interrupt; *kernel.Interrupt and pci's are.
type Interrupt interface {
	// Wait returns true when an interrupt came since the last Wait.
	Wait(timeout time.Duration) bool
	// Ack lets a level-triggered interrupt come again.
	Ack()
	// Close stops it and wakes Wait.
	Close()
}

// Model is the kind of device.
type Model uint8

const (
	I82540EM Model = iota
	I82574L
)

func (m Model) String() string {
	if m == I82574L {
		return "82574L"
	}
	return "82540EM"
}

// Config is what a device is made of.
type Config struct {
	Model     Model
	Registers Registers
	Memory    frame.Memory
	Interrupt Interrupt
	// BusMaster lets the device reach memory, or stops it.
	BusMaster func(on bool)
	// Log takes a line about something an operator should know.
	Log func(string)
	// Sleep is time.Sleep, if nil.
	Sleep func(time.Duration)
}

// MTU is the largest packet of a frame, without Ethernet's header.
const MTU = 1500

const (
	rxRing     = 256 // descriptors; 8254x 14.4: a multiple of 8
	rxBuffers  = 512 // ring and frames on their way
	rxSize     = 2048
	rxBatch    = 64
	txRing     = 512
	txBuffers  = 256
	txSize     = 2048
	txBigCount = 32
	txBigSize  = 65536

	// With Ethernet's header and a VLAN tag.
	maxFrame = 14 + 4 + MTU
)

var _ nic.Interface = (*Device)(nil)

// A Device is one controller, started.
type Device struct {
	cfg     Config
	regs    Registers
	mac     net.HardwareAddr
	handler nic.Handler

	rx rxState // the service goroutine's
	tx txState

	lost      int    // seconds in a row in which frames came and no interrupt: the service goroutine's
	lostSince uint64 // interrupts by the end of the last

	link    atomic.Pointer[nic.Link]
	closing atomic.Bool
	done    chan struct{}

	filterMu sync.Mutex // guards what follows, and RCTL once it is running
	filter   nic.Filter
	running  bool

	counters counters

	smallTx, bigTx *frame.Pool
	rxPool         *frame.Pool
}

var (
	// ErrClosed is returned for a device that was closed.
	ErrClosed = errors.New("e1000: device is closed")
	errGone   = errors.New("e1000: the device does not answer: its registers read as all ones")
)

// Open resets a device and starts it. h is called from then on until Close.
func Open(cfg Config, h nic.Handler) (*Device, error) {
	if cfg.Sleep == nil {
		cfg.Sleep = time.Sleep
	}
	if cfg.Log == nil {
		cfg.Log = func(string) {}
	}
	d := &Device{cfg: cfg, regs: cfg.Registers, handler: h, done: make(chan struct{})}
	d.link.Store(&nic.Link{})
	cfg.BusMaster(false)
	if err := d.reset(); err != nil {
		return nil, err
	}
	mac, err := d.readMAC()
	if err != nil {
		return nil, err
	}
	d.mac = mac
	if err := d.allocate(); err != nil {
		d.free()
		return nil, err
	}
	d.initialize()
	d.updateLink(true)
	go d.serve()
	return d, nil
}

func (d *Device) allocate() (err error) {
	m := d.cfg.Memory
	if d.rxPool, err = frame.NewPool(m, rxBuffers, rxSize); err != nil {
		return fmt.Errorf("e1000: receive buffers: %w", err)
	}
	if d.smallTx, err = frame.NewPool(m, txBuffers, txSize); err != nil {
		return fmt.Errorf("e1000: transmit buffers: %w", err)
	}
	if d.bigTx, err = frame.NewPool(m, txBigCount, txBigSize); err != nil {
		return fmt.Errorf("e1000: transmit buffers: %w", err)
	}
	if err = d.rx.allocate(m); err != nil {
		return fmt.Errorf("e1000: receive ring: %w", err)
	}
	if err = d.tx.allocate(m); err != nil {
		return fmt.Errorf("e1000: transmit ring: %w", err)
	}
	return nil
}

// free gives back all memory. The device must be reset.
func (d *Device) free() {
	d.rx.free(d.cfg.Memory)
	d.tx.free(d.cfg.Memory)
	for _, p := range []*frame.Pool{d.rxPool, d.smallTx, d.bigTx} {
		if p != nil {
			p.Close()
		}
	}
}

// Close stops the device and gives back its memory, that of frames still out
// when they are released. The handler is not called after Close returns.
func (d *Device) Close() error {
	if d.closing.Swap(true) {
		return ErrClosed
	}
	d.cfg.Interrupt.Close()
	<-d.done
	d.tx.mu.Lock()
	d.tx.stopped = true
	d.tx.mu.Unlock()
	err := d.stop()
	d.tx.mu.Lock()
	d.tx.dropAll()
	d.tx.mu.Unlock()
	d.free()
	return err
}

// MAC is the device's address.
func (d *Device) MAC() net.HardwareAddr { return d.mac }

// MTU is the largest packet the device sends and receives.
func (d *Device) MTU() int { return MTU }

// Model tells which device it is.
func (d *Device) Model() Model { return d.cfg.Model }

// Features: the controller sums and segments TCP.
func (d *Device) Features() nic.Features {
	return nic.Features{Checksum: true, Segment: txBigSize}
}

// Link is the state of the cable.
func (d *Device) Link() nic.Link { return *d.link.Load() }

// Buffer returns a frame to fill for Transmit, of one segment of at least size
// bytes. When there is none it returns nil, and TransmitReady follows, as after a
// Transmit that did not take all.
func (d *Device) Buffer(size int) *frame.Frame {
	pool := d.smallTx
	if size > txSize {
		pool = d.bigTx
	}
	if size > txBigSize {
		return nil
	}
	if f := pool.Get(); f != nil {
		return f
	}
	t := &d.tx
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopped {
		return nil
	}
	if !t.paused {
		d.reclaim()
	}
	f := pool.Get()
	if f == nil {
		t.blocked = true
		d.arm()
	}
	return f
}

func (d *Device) logf(format string, args ...any) {
	d.cfg.Log(fmt.Sprintf("e1000 "+d.mac.String()+": "+format, args...))
}
