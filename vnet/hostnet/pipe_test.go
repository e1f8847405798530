package hostnet

import (
	"encoding/binary"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"godwit/vnet/frame"
	"godwit/vnet/nic"
)

// cable joins two interfaces in memory. It is asynchronous, as a wire is.
type cable struct {
	end [2]*plug
}

// plug is one end: an interface with a queue of received frames.
type plug struct {
	mac     net.HardwareAddr
	mtu     int
	feat    nic.Features
	handler nic.Handler
	peer    *plug
	pool    *frame.Pool
	loss    float64
	in      chan []byte
	done    chan struct{}
	wg      sync.WaitGroup
	room    int // frames Transmit takes at once; 0: all

	mu      sync.Mutex
	up      bool
	rng     *rand.Rand
	short   bool // a Transmit or Buffer had no room
	biggest int
}

func newCable(t testing.TB) *cable {
	c := &cable{}
	for i := range c.end {
		pool, err := frame.NewPool(&frame.HeapMemory{}, 256, 65536)
		if err != nil {
			t.Fatal(err)
		}
		c.end[i] = &plug{
			mac: net.HardwareAddr{2, 0, 0, 0, 0, byte(i + 1)}, mtu: 1500, pool: pool,
			in: make(chan []byte, 4096), done: make(chan struct{}), up: true,
			rng: rand.New(rand.NewPCG(2, uint64(i))), // a series of losses at the wrong time stops TCP for half a minute: 1 has one
		}
	}
	c.end[0].peer, c.end[1].peer = c.end[1], c.end[0]
	return c
}

// open is an opener of the plug.
func (p *plug) open(h nic.Handler) (nic.Interface, func() error, error) {
	p.handler = h
	p.wg.Add(1)
	go p.serve()
	return p, func() error {
		close(p.done)
		p.wg.Wait()
		return nil
	}, nil
}

func (p *plug) serve() {
	defer p.wg.Done()
	p.handler.LinkChanged(p.Link())
	for {
		var batch []*frame.Frame
		select {
		case <-p.done:
			return
		case b := <-p.in:
			batch = append(batch, wrap(b))
			for len(p.in) > 0 && len(batch) < 64 {
				batch = append(batch, wrap(<-p.in))
			}
		case <-time.After(5 * time.Millisecond):
		}
		if len(batch) > 0 {
			p.handler.Receive(batch)
		}
		p.mu.Lock()
		short := p.short
		p.short = false
		p.mu.Unlock()
		if short {
			p.handler.TransmitReady()
		}
	}
}

func wrap(b []byte) *frame.Frame {
	f := frame.New(nil)
	f.Append(frame.Segment{Data: b, Bus: frame.NoDMA})
	return f
}

func (p *plug) MAC() net.HardwareAddr  { return p.mac }
func (p *plug) MTU() int               { return p.mtu }
func (p *plug) Features() nic.Features { return p.feat }
func (p *plug) SetFilter(nic.Filter)   {}

func (p *plug) Link() nic.Link {
	p.mu.Lock()
	defer p.mu.Unlock()
	return nic.Link{Up: p.up, Mbps: 1000, FullDuplex: true}
}

func (p *plug) setLink(up bool) {
	p.mu.Lock()
	p.up = up
	p.mu.Unlock()
	p.handler.LinkChanged(p.Link())
}

func (p *plug) Buffer(int) *frame.Frame {
	f := p.pool.Get()
	if f == nil {
		p.mu.Lock()
		p.short = true
		p.mu.Unlock()
	}
	return f
}

func (p *plug) Transmit(frames []*frame.Frame) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(frames)
	if p.room > 0 && n > p.room {
		n, p.short = p.room, true
	}
	for _, f := range frames[:n] {
		b := make([]byte, f.Length)
		f.Copy(b)
		if f.Flags&frame.NeedsChecksum != 0 {
			at := b[f.ChecksumStart+f.ChecksumOffset:]
			binary.BigEndian.PutUint16(at, ^checksum.Checksum(b[f.ChecksumStart:], 0))
		}
		p.biggest = max(p.biggest, len(b))
		if p.up && p.peer.up && (p.loss == 0 || p.rng.Float64() >= p.loss) {
			select {
			case p.peer.in <- b:
			default: // the peer is behind: lost
			}
		}
		f.Release()
	}
	return n
}
