package migrate

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"godwit/vmm/state"
)

// The simulated world: hosts with guests that have memory, processors that write
// to it through translation caches, and write protection with the semantics of
// second-level tables: a cached translation lets a processor write until it is
// flushed, whatever the tables say.

const wordsPerPage = PageSize / 8

// A world watches that no guest runs twice.
type world struct {
	t     testing.TB
	mu    sync.Mutex
	on    map[string]*simHost // guest: where it runs
	hosts []*simHost
}

func newWorld(t testing.TB) *world { return &world{t: t, on: map[string]*simHost{}} }

func (w *world) runs(name string, h *simHost) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if h.dead {
		return
	}
	if o := w.on[name]; o != nil {
		w.t.Errorf("guest %q runs on %s and begins to run on %s", name, o.name, h.name)
	}
	w.on[name] = h
}

func (w *world) stops(name string, h *simHost) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.on[name] == h {
		delete(w.on, name)
	}
}

func (w *world) where(name string) *simHost {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.on[name]
}

// A simHost is a machine that guests run on.
type simHost struct {
	w    *world
	name string
	m    *Manager
	dead bool // under w.mu: it has gone down, nothing runs on it

	mu     sync.Mutex
	guests map[string]*simGuest
	live   int64 // pages of guest memory
	limit  int64
	breaks map[string]error // what fails here: "prepare", "load", "start", "pause", "save"
	lazy   bool             // broken on purpose: Harvest does not flush
}

// simTiming is slow enough for real time on a busy machine; most tests use fake.
var simTiming = Timing{Tick: 200 * time.Millisecond, Silence: 4 * time.Second, Step: 20 * time.Second, Dial: 20 * time.Second, Pause: 20 * time.Second, Retry: time.Second}

// newHost makes a host that dials by dial.
func (w *world) newHost(name string, dial func(ctx context.Context, address string) (net.Conn, error)) *simHost {
	h := &simHost{w: w, name: name, guests: map[string]*simGuest{}, limit: 1 << 20, breaks: map[string]error{}}
	h.m = NewManager(Config{Target: h, Find: h.find, Dial: dial, Timing: simTiming})
	w.mu.Lock()
	w.hosts = append(w.hosts, h)
	w.mu.Unlock()
	return h
}

func (h *simHost) find(name string) (Guest, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if g := h.guests[name]; g != nil {
		return g, nil
	}
	return nil, fmt.Errorf("no guest %q on %s", name, h.name)
}

func (h *simHost) guest(name string) *simGuest {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.guests[name]
}

func (h *simHost) fail(what string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.breaks[what]
}

func (h *simHost) pages() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.live
}

// down is a power cut: what ran there does not run any more.
func (h *simHost) down() {
	h.w.mu.Lock()
	h.dead = true
	for n, o := range h.w.on {
		if o == h {
			delete(h.w.on, n)
		}
	}
	h.w.mu.Unlock()
}

// load is what a guest does to its memory.
type load struct {
	cpus  int
	burst int           // writes between pauses
	pause time.Duration // zero: as fast as it can
	seq   bool          // from the first page on, else at random
}

type simGuest struct {
	h    *simHost
	m    Machine
	base []int // of each region in mem, in pages
	mem  []uint64
	sums []uint64 // of each page's words, kept by the processor that writes it
	cpus []*simCPU
	load load

	bad     atomic.Bool // memory was not what the guest left there
	writes  atomic.Uint64
	running bool
	stop    atomic.Bool
	stopped chan struct{}
	all     sync.WaitGroup

	fmu      sync.Mutex // the tables
	tracking bool
	taken    bool
	writable []bool
	dirty    []bool
	flags    []atomic.Bool // dirty, for Written
	group    int
	count    Counters
}

type simCPU struct {
	mu   sync.Mutex // held for every access: taking it is the flush's IPI
	tlb  []bool     // pages whose cached translation allows writing
	next int
	rng  *rand.Rand
}

func newSimGuest(h *simHost, m Machine, l load) *simGuest {
	g := &simGuest{h: h, m: m, load: l}
	n := 0
	for _, r := range m.Regions {
		g.base = append(g.base, n)
		n += int(r.pages())
	}
	g.mem = make([]uint64, n*wordsPerPage)
	g.sums = make([]uint64, n)
	g.writable, g.dirty, g.flags = make([]bool, n), make([]bool, n), make([]atomic.Bool, n)
	for i := range l.cpus {
		g.cpus = append(g.cpus, &simCPU{tlb: make([]bool, n), rng: rand.New(rand.NewPCG(uint64(i), 7))})
	}
	return g
}

// addGuest makes a guest with some memory filled, and runs it.
func (h *simHost) addGuest(name string, l load, regions ...Region) *simGuest {
	g := newSimGuest(h, Machine{Name: name, Regions: regions, Config: config(l)}, l)
	for p := range g.sums {
		if p%3 != 0 {
			for w := 0; w < wordsPerPage; w += 37 {
				g.store(p, w, uint64(p*1000+w))
			}
		}
	}
	h.mu.Lock()
	h.guests[name] = g
	h.live += int64(len(g.sums))
	h.mu.Unlock()
	g.run()
	return g
}

func config(l load) []byte {
	return fmt.Appendf(nil, "sim %d %d %d %v", l.cpus, l.burst, l.pause, l.seq)
}

func (g *simGuest) index(page uint64) int {
	for i, r := range g.m.Regions {
		if page >= r.first() && page < r.end() {
			return g.base[i] + int(page-r.first())
		}
	}
	panic(fmt.Sprintf("page %#x is not memory", page))
}

func (g *simGuest) page(i int) (uint64, Region) {
	for k := len(g.base) - 1; ; k-- {
		if i >= g.base[k] {
			return g.m.Regions[k].first() + uint64(i-g.base[k]), g.m.Regions[k]
		}
	}
}

func mix(w int, v uint64) uint64 { return (v ^ uint64(w)<<32) * 0x9e3779b97f4a7c15 * v }

func (g *simGuest) store(p, w int, v uint64) {
	old := atomic.SwapUint64(&g.mem[p*wordsPerPage+w], v)
	g.sums[p] += mix(w, v) - mix(w, old)
}

func (g *simGuest) intact(p int) bool {
	var s uint64
	for w := range wordsPerPage {
		s += mix(w, atomic.LoadUint64(&g.mem[p*wordsPerPage+w]))
	}
	return s == g.sums[p]
}

// run starts the processors.
func (g *simGuest) run() {
	g.h.w.runs(g.m.Name, g.h)
	g.running = true
	g.stop.Store(false)
	g.stopped = make(chan struct{})
	for i, c := range g.cpus {
		g.all.Add(1)
		go func() {
			defer g.all.Done()
			for !g.stop.Load() {
				for range max(g.load.burst, 1) {
					g.step(i, c)
				}
				if g.load.pause > 0 {
					select {
					case <-time.After(g.load.pause):
					case <-g.stopped:
					}
				} else {
					runtime.Gosched()
				}
			}
		}()
	}
}

// step is one write. Processor i of n owns pages i, i+n, ...
func (g *simGuest) step(i int, c *simCPU) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(g.cpus)
	own := (len(g.sums) - i + n - 1) / n
	p := i + n*c.rng.IntN(own)
	if g.load.seq {
		p = i + n*(c.next%own)
		c.next++
	}
	if !c.tlb[p] {
		g.walk(p)
		c.tlb[p] = true
	}
	if k := c.rng.IntN(64); k == 0 {
		for w := range wordsPerPage {
			g.store(p, w, 0)
		}
	} else {
		if k == 1 && !g.intact(p) {
			g.bad.Store(true)
		}
		g.store(p, c.rng.IntN(wordsPerPage), c.rng.Uint64())
	}
	g.writes.Add(1)
}

// walk is a table walk for a write, with the fault it may take.
func (g *simGuest) walk(p int) {
	g.fmu.Lock()
	defer g.fmu.Unlock()
	if !g.tracking || g.writable[p] {
		return
	}
	g.count.Faults++
	page, r := g.page(p)
	first := max(page&^uint64(g.group-1), r.first())
	last := min(page|uint64(g.group-1), r.end()-1)
	for q := first; q <= last; q++ {
		i := p + int(q) - int(page)
		if !g.writable[i] {
			g.writable[i], g.dirty[i] = true, true
			g.flags[i].Store(true)
			g.count.Opened++
			g.count.Dirty++
		}
	}
}

func (g *simGuest) flush() {
	if g.h.lazy {
		return
	}
	for _, c := range g.cpus {
		c.mu.Lock()
		clear(c.tlb)
		c.mu.Unlock()
	}
}

func (g *simGuest) halt() {
	g.stop.Store(true)
	close(g.stopped)
	g.all.Wait()
	g.running = false
	g.h.w.stops(g.m.Name, g.h)
}

// Guest.

func (g *simGuest) Machine() Machine { return g.m }

func (g *simGuest) BeginTracking(group int) error {
	g.fmu.Lock()
	if g.taken {
		g.fmu.Unlock()
		return errors.New("taken")
	}
	g.taken, g.tracking, g.group, g.count = true, true, group, Counters{}
	clear(g.writable)
	clear(g.dirty)
	for i := range g.flags {
		g.flags[i].Store(false)
	}
	g.fmu.Unlock()
	for _, c := range g.cpus { // this one always flushes
		c.mu.Lock()
		clear(c.tlb)
		c.mu.Unlock()
	}
	return nil
}

func (g *simGuest) SetGroup(n int) {
	g.fmu.Lock()
	g.group = n
	g.fmu.Unlock()
}

func (g *simGuest) EndTracking() {
	g.fmu.Lock()
	g.tracking, g.taken = false, false
	g.fmu.Unlock()
}

func (g *simGuest) Harvest(dirty Bitmap) (n int) {
	g.fmu.Lock()
	for i, d := range g.dirty {
		if d {
			page, _ := g.page(i)
			dirty.Set(page)
			g.dirty[i], g.writable[i] = false, false
			g.flags[i].Store(false)
			n++
		}
	}
	g.count.Dirty = 0
	g.fmu.Unlock()
	g.flush()
	return n
}

func (g *simGuest) Written(page uint64) bool { return g.flags[g.index(page)].Load() }

func (g *simGuest) Counters() Counters {
	g.fmu.Lock()
	defer g.fmu.Unlock()
	return g.count
}

func (g *simGuest) ReadPages(first uint64, dst []byte) {
	at := g.index(first) * wordsPerPage
	for i := 0; i < len(dst); i += 8 {
		binary.LittleEndian.PutUint64(dst[i:], atomic.LoadUint64(&g.mem[at+i/8]))
	}
}

func (g *simGuest) Pause(context.Context) error {
	if err := g.h.fail("pause"); err != nil {
		return err
	}
	g.halt()
	return nil
}

func (g *simGuest) Resume() { g.run() }

func (g *simGuest) SaveState(w io.Writer) error {
	if err := g.h.fail("save"); err != nil {
		return err
	}
	var b state.Writer
	for _, v := range g.sums {
		b.U64(v)
	}
	return state.WriteSection(w, "sim", 1, true, b.Bytes())
}

func (g *simGuest) Release() {
	if g.running {
		g.h.w.t.Errorf("guest %q is released while it runs", g.m.Name)
	}
	g.h.mu.Lock()
	delete(g.h.guests, g.m.Name)
	g.h.live -= int64(len(g.sums))
	g.h.mu.Unlock()
}

// Target and Incoming.

type simIncoming struct {
	*simGuest
	ended bool
}

func (h *simHost) Prepare(ctx context.Context, m Machine) (Incoming, error) {
	if err := h.fail("prepare"); err != nil {
		return nil, err
	}
	var l load
	if _, err := fmt.Sscanf(string(m.Config), "sim %d %d %d %v", &l.cpus, &l.burst, &l.pause, &l.seq); err != nil || l.cpus < 1 || l.cpus > 64 || l.burst > 1000 || l.pause > time.Second {
		return nil, fmt.Errorf("config %q: %v", m.Config, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.guests[m.Name] != nil {
		return nil, fmt.Errorf("there is a guest %q here", m.Name)
	}
	var n int64
	for _, r := range m.Regions {
		n += int64(r.pages())
	}
	if n > h.limit-h.live {
		return nil, fmt.Errorf("no memory for %d pages", n)
	}
	h.live += n
	g := newSimGuest(h, m, l)
	h.guests[m.Name] = g
	return &simIncoming{simGuest: g}, nil
}

func (i *simIncoming) WritePages(first uint64, data []byte) error {
	at := i.index(first) * wordsPerPage
	for o := 0; o < len(data); o += 8 {
		i.mem[at+o/8] = binary.LittleEndian.Uint64(data[o:])
	}
	return nil
}

func (i *simIncoming) ZeroPages(first, n uint64) error {
	at := i.index(first) * wordsPerPage
	clear(i.mem[at : at+int(n)*wordsPerPage])
	return nil
}

func (i *simIncoming) LoadState(ctx context.Context, r io.Reader) error {
	if err := i.h.fail("load"); err != nil {
		return err
	}
	s, err := state.ReadSection(r)
	if err != nil {
		return err
	}
	p := state.NewReader(s.Payload)
	for k := range i.sums {
		i.sums[k] = p.U64()
	}
	return p.Close()
}

func (i *simIncoming) Start() error {
	if err := i.h.fail("start"); err != nil {
		return err
	}
	for p := range i.sums {
		if !i.intact(p) {
			i.bad.Store(true)
		}
	}
	i.end()
	i.run()
	return nil
}

func (i *simIncoming) Abort() {
	i.end()
	i.h.mu.Lock()
	delete(i.h.guests, i.m.Name)
	i.h.live -= int64(len(i.sums))
	i.h.mu.Unlock()
}

func (i *simIncoming) end() {
	if i.ended {
		i.h.w.t.Errorf("guest %q is started or aborted twice", i.m.Name)
	}
	i.ended = true
}

// Networks.

// pipes is a network of net.Pipe connections between hosts, by name.
type pipes struct {
	mu    sync.Mutex
	hosts map[string]*simHost
	wrap  func(net.Conn) net.Conn // what lies between a source and a target
	down  bool
	all   sync.WaitGroup
}

func (p *pipes) dial(ctx context.Context, address string) (net.Conn, error) {
	name, _, _ := net.SplitHostPort(address)
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.hosts[name]
	if h == nil || p.down {
		return nil, fmt.Errorf("no route to %s", name)
	}
	a, b := net.Pipe()
	m := h.m
	p.all.Add(1)
	go func() {
		defer p.all.Done()
		m.ServeConn(b)
	}()
	if p.wrap != nil {
		return p.wrap(a), nil
	}
	return a, nil
}

func (p *pipes) add(w *world, names ...string) (hs []*simHost) {
	if p.hosts == nil {
		p.hosts = map[string]*simHost{}
	}
	for _, n := range names {
		h := w.newHost(n, p.dial)
		p.hosts[n] = h
		hs = append(hs, h)
	}
	return hs
}

// end closes all hosts and checks that no guest found its memory changed.
func (p *pipes) end(w *world) {
	for _, h := range w.hosts {
		h.m.Close()
	}
	p.all.Wait()
	for _, h := range w.hosts {
		h.mu.Lock()
		for _, g := range h.guests {
			if g.running {
				g.halt()
			}
			if g.bad.Load() {
				h.w.t.Errorf("guest %q on %s found its memory changed", g.m.Name, h.name)
			}
		}
		h.mu.Unlock()
	}
}

// checkGoroutines fails if there are more than n in the end.
func checkGoroutines(t testing.TB, n int) {
	t.Helper()
	for range 6000 {
		if runtime.NumGoroutine() <= n {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	buf := make([]byte, 1<<20)
	t.Errorf("%d goroutines where %d began:\n%s", runtime.NumGoroutine(), n, buf[:runtime.Stack(buf, true)])
}

var small = []Region{{0, 40 << PageShift}, {1 << 20, 24 << PageShift}}
