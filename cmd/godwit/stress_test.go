package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"godwit/cmd/internal/shell"
	"godwit/vmm"
	"godwit/vmm/device/acpipm"
	"godwit/vmm/device/i8042"
	"godwit/vmm/device/uart"
	"godwit/vmm/vcpu"
	"godwit/vmm/vmmtest"
)

// lives follows guests. A guest counts its entries in a register, which moves with it; a guest that ran in two places, or was
// run on from an old state, would count one twice.
type lives struct {
	t    *testing.T
	mu   sync.Mutex
	last map[uint64]uint64
	next uint64
	n    atomic.Uint64
}

const (
	regLife  = vcpu.R15 // whose life it is; zero: it has just booted
	regCount = vcpu.R14
)

// guest is the program of a processor that does all that ends a guest or makes the host work, mostly nothing.
func (l *lives) guest(v *vmmtest.VCPU, e *vcpu.Exit) error {
	g := &v.Regs().GPR
	l.mu.Lock()
	if g[regLife] == 0 {
		l.next++
		g[regLife], g[regCount] = l.next, 0
	}
	g[regCount]++
	if l.last[g[regLife]]+1 != g[regCount] {
		l.t.Errorf("guest %d: entry %d follows on entry %d: it runs twice", g[regLife], g[regCount], l.last[g[regLife]])
	}
	l.last[g[regLife]] = g[regCount]
	l.mu.Unlock()
	l.n.Add(1)
	e.Reason = vcpu.ExitHost
	switch rand.IntN(2000) {
	case 0:
		return vmmtest.Out(v, e, i8042.Command, 0xfe) // reset
	case 1:
		e.Reason = vcpu.ExitShutdown
	case 2:
		e.Reason, e.Port, e.Size, e.Len = vcpu.ExitIO, acpipm.Base+acpipm.PM1Control, 2, 1
		g[vcpu.RAX] = 1<<13 | 5<<10 // power off
	case 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20:
		return vmmtest.Out(v, e, uart.COM1, byte('a'+rand.IntN(26)))
	case 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40:
		e.Reason, e.GPA, e.Access, e.Mapped = vcpu.ExitMemory, rand.Uint64N(8<<20)&^7, vcpu.Write, rand.IntN(2) == 0
	default:
		v.Block(time.Duration(rand.IntN(2000)) * time.Microsecond)
	}
	return nil
}

// commitType is that of migrate's Commit in a frame (migrate/protocol.go). A line that breaks there leaves the source in doubt.
const commitType = 13

// brittle is a line that breaks at one of the source's writes, before or after it is carried, or goes silent there.
type brittle struct {
	net.Conn
	left  atomic.Int32 // writes until it does
	after bool
	mute  bool
}

func newBrittle(c net.Conn) net.Conn {
	b := &brittle{Conn: c, after: rand.IntN(2) == 0, mute: rand.IntN(8) == 0}
	b.left.Store(math.MaxInt32)
	if rand.IntN(3) == 0 {
		b.left.Store(rand.Int32N(25))
	}
	return b
}

func (b *brittle) Write(p []byte) (int, error) {
	left := b.left.Add(-1)
	if len(p) > 5 && p[5] == commitType && rand.IntN(3) == 0 {
		b.left.Store(0)
		left = -1
	}
	switch {
	case left >= 0:
		return b.Conn.Write(p)
	case b.mute:
		return len(p), nil
	case b.after:
		b.Conn.Write(p)
	}
	b.Conn.Close()
	return len(p), nil
}

// typist is a keyboard on which somebody types until ctx ends, and then leaves the console.
type typist struct{ ctx context.Context }

func (k typist) Read(p []byte) (int, error) {
	select {
	case <-k.ctx.Done():
		p[0] = escape
	case <-time.After(time.Millisecond):
		p[0] = byte('a' + rand.IntN(26))
	}
	return 1, nil
}

// TestAllCommandsAtOnce gives three machines' worth of names on two hosts every command there is, from six operators, over
// lines that break, to guests that crash, reset and power off. Whatever the order: no guest runs twice, every command
// ends soon after it was interrupted, and when all machines are deleted nothing is left of them.
func TestAllCommandsAtOnce(t *testing.T) {
	goroutines := runtime.NumGoroutine()
	l := &lives{t: t, last: map[uint64]uint64{}}
	n := network{wrap: newBrittle}
	hosts := []*hosted{n.add("a", l.guest, 80<<20), n.add("b", l.guest, 80<<20)}
	for _, h := range hosts {
		slow := func(ctx context.Context) ([]byte, error) { // a server that is slow, and sometimes has nothing
			select {
			case <-time.After(time.Duration(rand.IntN(100)) * time.Millisecond):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			if rand.IntN(10) == 0 {
				return nil, errors.New("no such file")
			}
			return vmmtest.Kernel(), nil
		}
		h.machines.File = func(ctx context.Context, _ string) ([]byte, error) { return slow(ctx) }
		h.open = func(c *shell.Call, _ string) ([]byte, error) { return slow(c.Ctx) }
	}
	names := []string{"web", "db", "mail"}
	took := 3 * time.Second
	if s := os.Getenv("GODWIT_STRESS"); s != "" {
		took, _ = time.ParseDuration(s)
	}
	over, stop := context.WithTimeout(context.Background(), took+time.Minute)
	defer stop()
	var operators sync.WaitGroup
	var ran, succeeded sync.Map
	add := func(m *sync.Map, k string) {
		c, _ := m.LoadOrStore(k, new(atomic.Int64))
		c.(*atomic.Int64).Add(1)
	}
	// lacking is a command that has not succeeded yet.
	lacking := func() string {
		for _, prefix := range []string{"vm create", "vm start", "vm stop", "vm pause", "vm reset", "vm delete", "vm migrate", "selftest migrate"} {
			found := false
			succeeded.Range(func(k, _ any) bool { found = found || strings.HasPrefix(k.(string), prefix); return true })
			if !found {
				return prefix
			}
		}
		return ""
	}
	go func() { // on a busy machine it takes longer until all has been tried
		for time.Sleep(took); over.Err() == nil; time.Sleep(100 * time.Millisecond) {
			if lacking() == "" {
				stop()
			}
		}
	}()
	for range 6 {
		operators.Add(1)
		go func() {
			defer operators.Done()
			for over.Err() == nil {
				h, name := hosts[rand.IntN(2)], names[rand.IntN(len(names))]
				other := "b"
				if h.cfg.Name == "b" {
					other = "a"
				}
				line := []string{
					"vm create %s kernel=module:kernel mem=16M", "vm create %s kernel=module:kernel mem=16M on_crash=reset", "vm start %s", "vm start %s", "vm start %s",
					"vm stop %s force", "vm stop %s wait=1", "vm pause %s", "vm reset %s", "vm nmi %s", "vm delete %s", "vm list", "vm show %s -json",
					"vm console %s", "vm console %s log", "vm migrate %s " + other, "vm migrate %s " + other + " verify=yes diverge=giveup", "vm migrate %s " + other + " downtime=1",
					"migrate list -json", "migrate cancel %s", "selftest migrate %s",
				}[rand.IntN(21)]
				if _, err := n.hosts[other].vms.Get(name); err == nil && strings.HasPrefix(line, "vm create") && rand.IntN(8) != 0 {
					continue // it could not move there
				}
				keys := strings.HasSuffix(line, "console %s")
				word := strings.ReplaceAll(line, " %s", "")
				if strings.Contains(line, "%s") {
					line = fmt.Sprintf(line, name)
				}
				patience := time.Duration(rand.IntN(1500)) * time.Millisecond
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				done := make(chan error, 1)
				go func() {
					var out bytes.Buffer
					if keys {
						done <- h.do(ctx, &out, typist{ctx}, line)
					} else {
						done <- h.do(ctx, &out, nil, line)
					}
				}()
				select {
				case err := <-done:
					add(&ran, word)
					if err == nil {
						add(&succeeded, word)
						if strings.HasPrefix(word, "vm create") {
							h.do(ctx, io.Discard, nil, "vm start "+name)
						}
					} else if s := err.Error(); strings.Contains(s, "internal error") || strings.Contains(s, "can not become") {
						t.Errorf("%s: %v", line, err)
					}
				case <-time.After(patience + 20*patienceOfHosts):
					buf := make([]byte, 1<<20)
					t.Errorf("%s does not end:\n%s", line, buf[:runtime.Stack(buf, true)])
					stop()
				}
				cancel()
			}
		}()
	}
	operators.Wait()
	// The lines are whole again: all doubts end by themselves.
	n.mu.Lock()
	n.wrap = nil
	n.mu.Unlock()
	for _, h := range hosts {
		within(t, "all moves end", func() bool {
			for _, r := range h.mover.List() {
				if r.Ended.IsZero() {
					h.mover.Cancel(r.ID)
					return false
				}
			}
			return true
		})
	}
	for _, h := range hosts {
		for _, vm := range h.vms.List() {
			for _, e := range vm.Events() {
				if strings.Contains(e.Text, "internal error") {
					t.Errorf("vm %s on %s: %s", vm.Name(), h.cfg.Name, e.Text)
				}
			}
			if s := vm.Status(); s == vmm.Arriving || s == vmm.Deleted {
				t.Errorf("vm %s on %s is %v for ever", vm.Name(), h.cfg.Name, s)
			}
			h.must(t, "vm stop "+vm.Name()+" force")
			h.must(t, "vm delete "+vm.Name())
		}
	}
	n.end(t)
	within(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= goroutines })
	if w := lacking(); w != "" {
		t.Errorf("%q never succeeded: this tests little", w)
	}
	ran.Range(func(k, v any) bool {
		ok, _ := succeeded.LoadOrStore(k, new(atomic.Int64))
		t.Logf("%-60s %5d, %5d succeeded", k, v.(*atomic.Int64).Load(), ok.(*atomic.Int64).Load())
		return true
	})
	t.Logf("%d entries of %d guests", l.n.Load(), len(l.last))
}
