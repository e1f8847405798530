package hostnet

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"godwit/vnet/nic"
)

// host makes a network with given plugs.
func host(t testing.TB, cfg Config, plugs ...*plug) *Net {
	t.Helper()
	cfg.Log = func(s string) { t.Log(s) }
	n := newNet(cfg)
	n.declineWait = 50 * time.Millisecond
	n.build()
	for i, p := range plugs {
		if err := n.add(fmt.Sprintf("pipe %d", i), p.open); err != nil {
			t.Fatal(err)
		}
	}
	close(n.searched)
	t.Cleanup(func() {
		if err := n.Close(); err != nil && !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		for _, p := range plugs {
			if u := p.pool.InUse(); u != 0 {
				t.Errorf("%d frames leaked", u)
			}
		}
	})
	return n
}

func static(name, address string, gateway ...string) Config {
	c := InterfaceConfig{Match: name, Address: netip.MustParsePrefix(address)}
	if len(gateway) > 0 {
		c.Gateway = netip.MustParseAddr(gateway[0])
	}
	return Config{Interfaces: []InterfaceConfig{c}}
}

// pair is two hosts on one cable.
func pair(t *testing.T, tune func(c *cable)) (a, b *Net) {
	t.Helper()
	c := newCable(t)
	if tune != nil {
		tune(c)
	}
	return host(t, static("net0", "10.0.0.1/24"), c.end[0]), host(t, static("net0", "10.0.0.2/24"), c.end[1])
}

func timeout(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestPing(t *testing.T) {
	a, _ := pair(t, nil)
	if _, err := a.Ping(timeout(t, time.Minute), "10.0.0.2"); err != nil {
		t.Error(err)
	}
	if _, err := a.Ping(timeout(t, time.Minute), "10.0.0.1"); err != nil {
		t.Errorf("itself: %v", err)
	}
	_, err := a.Ping(timeout(t, 200*time.Millisecond), "10.0.0.77")
	if err == nil {
		t.Error("an absent host answered")
	}
	if _, err := a.Ping(timeout(t, time.Minute), "10.1.1.1"); err == nil || !strings.Contains(err.Error(), "unreachable") {
		t.Errorf("no route: %v", err)
	}
}

// transfer sends n bytes from a to b and checks them.
func transfer(t *testing.T, a, b *Net, n int, limit time.Duration) time.Duration {
	t.Helper()
	l, err := b.Listen("tcp", ":7000")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	sent := sha256.New()
	var wg sync.WaitGroup
	wg.Add(1)
	begin := time.Now()
	go func() {
		defer wg.Done()
		c, err := a.DialContext(timeout(t, limit), "tcp", "10.0.0.2:7000")
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(limit))
		src := rand.NewChaCha8([32]byte{1})
		if _, err := io.CopyN(io.MultiWriter(c, sent), src, int64(n)); err != nil {
			t.Error(err)
		}
	}()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(limit))
	got := sha256.New()
	m, err := io.Copy(got, c)
	took := time.Since(begin)
	wg.Wait()
	if err != nil || m != int64(n) {
		t.Fatalf("received %d of %d bytes: %v", m, n, err)
	}
	if !bytes.Equal(got.Sum(nil), sent.Sum(nil)) {
		t.Fatal("the bytes differ")
	}
	return took
}

func TestTransfer(t *testing.T) {
	a, b := pair(t, nil)
	const n = 16 << 20
	took := transfer(t, a, b, n, time.Minute)
	t.Logf("%.0f MB/s", n/1e6/took.Seconds())
}

func TestTransferSegmentedByTheInterface(t *testing.T) {
	var c *cable
	a, b := pair(t, func(x *cable) {
		c = x
		for _, p := range x.end {
			p.feat = nic.Features{Checksum: true, Segment: 65536}
		}
	})
	const n = 16 << 20
	took := transfer(t, a, b, n, time.Minute)
	c.end[0].mu.Lock()
	biggest := c.end[0].biggest
	c.end[0].mu.Unlock()
	t.Logf("%.0f MB/s, frames up to %d bytes", n/1e6/took.Seconds(), biggest)
	if biggest < 16000 {
		t.Errorf("the largest frame had %d bytes: segmentation was not used", biggest)
	}
}

func TestTransferSurvivesLoss(t *testing.T) {
	for _, loss := range []float64{0.01, 0.05} {
		a, b := pair(t, func(c *cable) { c.end[0].loss, c.end[1].loss = loss, loss })
		took := transfer(t, a, b, 2<<20, time.Minute)
		if s := a.Status().Stack; s.TCPRetransmissions == 0 {
			t.Error("no retransmissions: nothing was lost?")
		}
		t.Logf("loss %v: %v", loss, took)
	}
}

func TestTransferOverAnInterfaceShortOfRoom(t *testing.T) {
	a, b := pair(t, func(c *cable) { c.end[0].room = 3 })
	transfer(t, a, b, 1<<20, time.Minute)
}

func TestAWriteBufferBoundsWhatIsNotAcknowledged(t *testing.T) {
	c := newCable(t)
	a := host(t, static("net0", "10.0.0.1/24"), c.end[0])
	b := host(t, static("net0", "10.0.0.2/24"), c.end[1])
	l, err := b.Listen("tcp", ":7000")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := a.DialContext(timeout(t, time.Minute), "tcp", "10.0.0.2:7000")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const bound = 64 << 10
	if err := conn.(*Conn).SetWriteBuffer(bound); err != nil {
		t.Fatal(err)
	}
	c.end[0].setLink(false) // nothing is acknowledged any more
	conn.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := conn.Write(make([]byte, 1<<20)); err == nil || n != bound {
		t.Errorf("%d bytes were taken: %v", n, err)
	}
}

func TestLinkLossAndReturn(t *testing.T) {
	c := newCable(t)
	a := host(t, static("net0", "10.0.0.1/24"), c.end[0])
	host(t, static("net0", "10.0.0.2/24"), c.end[1])
	if _, err := a.Ping(timeout(t, time.Minute), "10.0.0.2"); err != nil {
		t.Fatal(err)
	}
	c.end[0].setLink(false)
	if _, err := a.Ping(timeout(t, 100*time.Millisecond), "10.0.0.2"); err == nil {
		t.Error("answer over a cut cable")
	}
	for start := time.Now(); a.Status().Interfaces[0].Link != "down"; time.Sleep(time.Millisecond) {
		if time.Since(start) > time.Minute {
			t.Fatal("status does not show the link down")
		}
	}
	c.end[0].setLink(true)
	if _, err := a.Ping(timeout(t, time.Minute), "10.0.0.2"); err != nil {
		t.Error(err)
	}
}

func TestHostWithoutInterfaces(t *testing.T) {
	n := host(t, Config{})
	if _, err := n.DialContext(timeout(t, time.Minute), "tcp", "10.0.0.2:1"); !errors.Is(err, ErrNoInterface) {
		t.Errorf("dial: %v", err)
	}
	if _, err := n.Ping(timeout(t, time.Minute), "10.0.0.2"); !errors.Is(err, ErrNoInterface) {
		t.Errorf("ping: %v", err)
	}
	if l, err := n.Listen("tcp", ":22"); err != nil {
		t.Errorf("listening needs no interface yet: %v", err)
	} else {
		l.Close()
	}
	if s := n.Status(); !strings.Contains(s.Problem, "no network interface") {
		t.Errorf("status: %+v", s)
	}
}

func TestDialErrorsAreClear(t *testing.T) {
	a, b := pair(t, nil)
	for address, want := range map[string]string{
		"10.0.0.2":       "not HOST:PORT",
		"10.0.0.2:http":  "not a port",
		"10.0.0.2:0":     "port 0",
		"[fe80::1]:5":    "IPv6",
		"fileserver:80":  "no DNS server",
		"10.0.0.2:9":     "refused",
		"10.99.0.1:9":    "unreachable",
		"10.0.0.2:99999": "not a port",
	} {
		_, err := a.DialContext(timeout(t, time.Minute), "tcp", address)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), address) {
			t.Errorf("%s: error %v, want one with %q", address, err, want)
		}
	}
	if _, err := a.DialContext(timeout(t, time.Minute), "unix", "/x"); err == nil {
		t.Error("unix sockets?")
	}
	if _, err := b.Listen("tcp", "10.0.0.99:5"); err == nil {
		t.Error("listening at another's address")
	}
	l, err := b.Listen("tcp", ":5")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := b.Listen("tcp", ":5"); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("port in use: %v", err)
	}
}

func TestDialWaitsNoLongerThanItsContext(t *testing.T) {
	c := newCable(t)
	c.end[0].up = false
	n := host(t, Config{}, c.end[0])
	_, err := n.DialContext(timeout(t, 50*time.Millisecond), "tcp", "10.0.0.2:1")
	if err == nil || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "net0: no link") {
		t.Errorf("%v", err)
	}
}

func TestCloseEndsEverything(t *testing.T) {
	a, b := pair(t, nil)
	l, err := b.Listen("tcp", ":7000")
	if err != nil {
		t.Fatal(err)
	}
	c, err := a.DialContext(timeout(t, time.Minute), "tcp", "10.0.0.2:7000")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 2)
	go func() { _, err := io.ReadAll(c); ended <- err }()
	go func() {
		for {
			if _, err := l.Accept(); err != nil {
				ended <- err
				return
			}
		}
	}()
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	for range 2 {
		select {
		case <-ended:
		case <-time.After(time.Minute):
			t.Fatal("something still waits")
		}
	}
	if _, err := a.DialContext(timeout(t, time.Minute), "tcp", "10.0.0.2:7000"); !errors.Is(err, ErrClosed) {
		t.Errorf("dial after Close: %v", err)
	}
	if err := a.Close(); !errors.Is(err, ErrClosed) {
		t.Errorf("second Close: %v", err)
	}
}

func TestUDP(t *testing.T) {
	a, b := pair(t, nil)
	pb, err := b.ListenPacket(timeout(t, time.Minute), "udp", ":69")
	if err != nil {
		t.Fatal(err)
	}
	defer pb.Close()
	pa, err := a.ListenPacket(timeout(t, time.Minute), "udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer pa.Close()
	if _, err := pa.WriteTo([]byte("hello"), &net.UDPAddr{IP: net.IPv4(10, 0, 0, 2), Port: 69}); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	pb.SetReadDeadline(time.Now().Add(time.Minute))
	n, from, err := pb.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "hello" || !strings.HasPrefix(from.String(), "10.0.0.1:") {
		t.Errorf("%q from %v: %v", buf[:n], from, err)
	}
}

func TestTwoInterfaces(t *testing.T) {
	c1, c2 := newCable(t), newCable(t)
	cfg := Config{Interfaces: []InterfaceConfig{
		{Match: "net1", Address: netip.MustParsePrefix("10.0.1.1/24"), Gateway: netip.MustParseAddr("10.0.1.2")},
		{Match: "02:00:00:00:00:01", Address: netip.MustParsePrefix("10.0.0.1/24")},
	}}
	c2.end[0].mac = net.HardwareAddr{2, 0, 0, 0, 0, 9}
	a := host(t, cfg, c1.end[0], c2.end[0])
	host(t, static("net0", "10.0.0.2/24"), c1.end[1])
	host(t, static("net0", "10.0.1.2/24"), c2.end[1])
	for _, to := range []string{"10.0.0.2", "10.0.1.2"} {
		if _, err := a.Ping(timeout(t, time.Minute), to); err != nil {
			t.Error(err)
		}
	}
	s := a.Status()
	if len(s.Interfaces) != 2 || s.Interfaces[0].Address != "10.0.0.1/24" || s.Interfaces[1].Gateway != "10.0.1.2" ||
		s.Interfaces[1].Method != "static" || s.Interfaces[0].Name != "net0" {
		t.Errorf("%+v", s)
	}
}

func TestInterfaceThatIsOff(t *testing.T) {
	c := newCable(t)
	n := host(t, Config{Interfaces: []InterfaceConfig{{Match: "net0", Off: true}}}, c.end[0])
	if s := n.Status().Interfaces[0]; s.Method != "off" || s.MAC != "" {
		t.Errorf("%+v", s)
	}
}

func TestInterfaceThatCannotBeOpened(t *testing.T) {
	c := newCable(t)
	n := host(t, static("net1", "10.0.0.1/24"))
	broken := errors.New("its EEPROM is empty")
	err := n.add("bad", func(nic.Handler) (nic.Interface, func() error, error) { return nil, nil, broken })
	if !errors.Is(err, broken) {
		t.Error(err)
	}
	if err := n.add("good", c.end[0].open); err != nil {
		t.Fatal(err)
	}
	s := n.Status()
	if s.Interfaces[0].Problem != broken.Error() || s.Interfaces[1].Address != "10.0.0.1/24" {
		t.Errorf("%+v", s)
	}
}

func TestParseInterface(t *testing.T) {
	addr := netip.MustParseAddr
	for text, want := range map[string]InterfaceConfig{
		"net0":      {Match: "net0"},
		"net0,dhcp": {Match: "net0"},
		"net1,off":  {Match: "net1", Off: true},
		"52:54:00:00:00:0a,10.0.0.1/24,gw=10.0.0.254,dns=10.0.0.53+1.1.1.1": {
			Match: "52:54:00:00:00:0a", Address: netip.MustParsePrefix("10.0.0.1/24"),
			Gateway: addr("10.0.0.254"), DNS: []netip.Addr{addr("10.0.0.53"), addr("1.1.1.1")},
		},
	} {
		got, err := ParseInterface(text)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{
		"", "dhcp=1", "net0,10.0.0.1", "net0,dhcp,10.0.0.1/24", "net0,off,dhcp", "net0,gw=10.0.0.1", "net0,10.0.0.1/24,gw=10.1.0.1",
		"net0,10.0.0.1/24,gw=10.0.0.1", "net0,fe80::1/64", "net0,127.0.0.1/8", "net0,0.0.0.0/0", "net0,255.255.255.255/32",
		"net0,10.0.0.1/24,dns=ns1", "net0,speed=10",
	} {
		if c, err := ParseInterface(text); err == nil {
			t.Errorf("%q accepted: %+v", text, c)
		} else if text != "" && !strings.Contains(err.Error(), text) {
			t.Errorf("%q: the error does not name it: %v", text, err)
		}
	}
}
