package lan

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
)

// newLAN makes a network that serves one big file, and a client on it.
func newLAN(t *testing.T) (l *LAN, client *station, file []byte) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	dir := t.TempDir()
	file = make([]byte, 300<<10)
	rand.New(rand.NewSource(1)).Read(file)
	if err := os.WriteFile(filepath.Join(dir, "file"), file, 0o666); err != nil {
		t.Fatal(err)
	}
	l, err := New(ctx, dir, "boot.ipxe")
	if err != nil {
		t.Fatal(err)
	}
	client, err = join(ctx, l, mac{2, 0, 0, 0, 0, 9}, netip.MustParseAddr("10.77.0.9"))
	if err != nil {
		t.Fatal(err)
	}
	return l, client, file
}

// card is a machine's end of the wire, as an emulator has it.
type card struct {
	t    *testing.T
	conn *net.UDPConn
	mac  mac
}

func plugIn(t *testing.T, l *LAN) (card, netip.Addr) {
	t.Helper()
	n, addr, err := l.NIC()
	if err != nil {
		t.Fatal(err)
	}
	hw, err := net.ParseMAC(n.MAC)
	if err != nil {
		t.Fatal(err)
	}
	local := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: n.Local}
	conn, err := net.DialUDP("udp4", local, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: n.Local + 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return card{t, conn, mac(hw)}, addr
}

func (c card) send(to mac, payload string) {
	c.t.Helper()
	frame := append(append(append([]byte{}, to[:]...), c.mac[:]...), 0x88, 0xb5) // an EtherType for experiments
	if _, err := c.conn.Write(append(frame, payload...)); err != nil {
		c.t.Fatal(err)
	}
}

// receive returns the payload of the next frame, or "" if none comes.
func (c card) receive(patience time.Duration) string {
	c.t.Helper()
	buf := make([]byte, maxFrame)
	c.conn.SetReadDeadline(time.Now().Add(patience))
	n, err := c.conn.Read(buf)
	if err != nil {
		return ""
	}
	return string(buf[headerSize:n])
}

const (
	longTime  = time.Minute
	shortTime = 50 * time.Millisecond
)

func TestSwitchFloodsLearnsAndCuts(t *testing.T) {
	l, _, _ := newLAN(t)
	a, _ := plugIn(t, l)
	b, _ := plugIn(t, l)
	c, _ := plugIn(t, l)
	everybody := mac{255, 255, 255, 255, 255, 255}

	a.send(everybody, "hello")
	if x, y := b.receive(longTime), c.receive(longTime); x != "hello" || y != "hello" {
		t.Fatalf("a broadcast arrived as %q and %q", x, y)
	}
	b.send(a.mac, "for a") // where a is has been learned
	if got := a.receive(longTime); got != "for a" {
		t.Fatalf("a got %q", got)
	}
	if got := c.receive(shortTime); got != "" {
		t.Errorf("c overheard %q", got)
	}
	hw := net.HardwareAddr(a.mac[:]).String()
	for n := range l.nics {
		if n.String() != hw {
			continue
		}
		l.nics[n].port.cut.Store(true)
		b.send(a.mac, "lost")
		b.send(c.mac, "behind it") // so the switch has had it
		if got := c.receive(longTime); got != "behind it" {
			t.Errorf("c got %q", got)
		}
		if got := a.receive(shortTime); got != "" {
			t.Errorf("a, unplugged, got %q", got)
		}
		l.nics[n].port.cut.Store(false)
	}
	b.send(a.mac, "again")
	if got := a.receive(longTime); got != "again" {
		t.Errorf("a, plugged in again, got %q", got)
	}
}

func TestStreamsCarryFramesInOrder(t *testing.T) {
	l, _, _ := newLAN(t)
	a, _ := plugIn(t, l)
	n, _, err := l.NIC()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // a machine that is started again connects again
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", n.Stream))
		if err != nil {
			t.Fatal(err)
		}
		hw, err := net.ParseMAC(n.MAC)
		if err != nil {
			t.Fatal(err)
		}
		frame := append(append(append([]byte{}, a.mac[:]...), hw...), 0x88, 0xb5)
		packet := func(payload string) []byte {
			return append(binary.BigEndian.AppendUint32(nil, uint32(len(frame)+len(payload))), string(frame)+payload...)
		}
		conn.Write(append(packet("first"), packet("second")...))
		if x, y := a.receive(longTime), a.receive(longTime); x != "first" || y != "second" {
			t.Fatalf("got %q and %q", x, y)
		}
		for i := range 100 {
			a.send(mac(hw), fmt.Sprint(i))
		}
		conn.SetReadDeadline(time.Now().Add(longTime))
		for i := range 100 {
			want := string(binary.BigEndian.AppendUint32(nil, uint32(headerSize+len(fmt.Sprint(i))))) + string(hw) + string(a.mac[:]) + "\x88\xb5" + fmt.Sprint(i)
			got := make([]byte, len(want))
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
				t.Fatalf("frame %d: %q, %v; want %q", i, got, err, want)
			}
		}
		conn.Close()
	}
}

func TestDHCPTellsAddressAndBootFile(t *testing.T) {
	l, _, _ := newLAN(t)
	a, want := plugIn(t, l)
	discover, err := dhcpv4.NewDiscovery(a.mac[:])
	if err != nil {
		t.Fatal(err)
	}
	frame := broadcastUDP(dhcpClientPort, dhcpServerPort, discover.ToBytes())
	copy(frame[6:], a.mac[:])
	if _, err := a.conn.Write(frame); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, maxFrame)
	a.conn.SetReadDeadline(time.Now().Add(longTime))
	n, err := a.conn.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	ip := header.IPv4(buf[headerSize:n])
	if !ip.IsValid(len(ip)) || !ip.IsChecksumValid() {
		t.Fatalf("reply has a bad IP header: % x", ip[:20])
	}
	offer, err := dhcpv4.FromBytes(header.UDP(ip.Payload()).Payload())
	if err != nil {
		t.Fatal(err)
	}
	if offer.MessageType() != dhcpv4.MessageTypeOffer || offer.YourIPAddr.String() != want.String() ||
		offer.BootFileName != "boot.ipxe" || offer.ServerIPAddr.String() != stationAddress.String() {
		t.Errorf("want an offer of %v with boot.ipxe from %v, got %v", want, stationAddress, offer.Summary())
	}
}

func TestRouterSolicitationsAreAnsweredAtOnce(t *testing.T) {
	l, _, _ := newLAN(t)
	a, _ := plugIn(t, l)
	frame := make([]byte, headerSize+header.IPv6MinimumSize+header.ICMPv6HeaderSize+header.NDPRSMinimumSize)
	header.Ethernet(frame).Encode(&header.EthernetFields{
		SrcAddr: tcpip.LinkAddress(a.mac[:]), DstAddr: "\x33\x33\x00\x00\x00\x02", Type: header.IPv6ProtocolNumber})
	header.IPv6(frame[headerSize:]).Encode(&header.IPv6Fields{
		PayloadLength: 8, TransportProtocol: header.ICMPv6ProtocolNumber, HopLimit: 255, DstAddr: header.IPv6AllRoutersLinkLocalMulticastAddress})
	header.ICMPv6(frame[headerSize+header.IPv6MinimumSize:]).SetType(header.ICMPv6RouterSolicit)
	if _, err := a.conn.Write(frame); err != nil {
		t.Fatal(err)
	}
	reply := a.receive(longTime)
	if len(reply) < header.IPv6MinimumSize+header.ICMPv6HeaderSize+header.NDPRAMinimumSize {
		t.Fatalf("reply of %d bytes", len(reply))
	}
	ip := header.IPv6(reply)
	icmp := header.ICMPv6(ip.Payload())
	sum := header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: icmp, Src: ip.SourceAddress(), Dst: ip.DestinationAddress()})
	ra := header.NDPRouterAdvert(icmp.MessageBody())
	if icmp.Type() != header.ICMPv6RouterAdvert || icmp.Checksum() != sum || ip.HopLimit() != 255 ||
		ra.RouterLifetime() != 0 || ra.ManagedAddrConfFlag() || ra.OtherConfFlag() {
		t.Errorf("want an advertisement of no router, got % x", reply)
	}
}

func TestHTTPServesFiles(t *testing.T) {
	_, client, file := newLAN(t)
	ctx, cancel := context.WithTimeout(context.Background(), longTime)
	defer cancel()
	conn, err := client.dial(ctx, netip.AddrPortFrom(stationAddress, 80))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET /file HTTP/1.0\r\n\r\n")
	got, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasSuffix(got, file) {
		t.Errorf("got %d bytes that do not end in the file's %d", len(got), len(file))
	}
}

// fetch reads a file by TFTP; drop loses every so-manieth packet we receive.
func fetch(t *testing.T, client *station, request string, drop int) ([]byte, string) {
	t.Helper()
	conn, err := gonet.DialUDP(client.ip, &tcpip.FullAddress{}, nil, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	server := net.Addr(&net.UDPAddr{IP: stationAddress.AsSlice(), Port: tftpPort})
	send := func(b []byte) {
		if _, err := conn.WriteTo(b, server); err != nil {
			t.Fatal(err)
		}
	}
	send([]byte("\x00\x01" + request))
	var file []byte
	buf := make([]byte, 2*mtu)
	block := defaultBlock
	for count, want := 1, uint16(1); ; count++ {
		conn.SetReadDeadline(time.Now().Add(longTime))
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		if drop != 0 && count%drop == 0 {
			continue
		}
		server = from
		switch binary.BigEndian.Uint16(buf) {
		case opError:
			return nil, string(buf[4 : n-1])
		case opOptionAck:
			if strings.Contains(string(buf[2:n]), "blksize\x001024\x00") {
				block = 1024
			}
			send([]byte{0, opAck, 0, 0})
		case opData:
			if got := binary.BigEndian.Uint16(buf[2:]); got == want {
				file = append(file, buf[4:n]...)
				want++
			}
			send(append([]byte{0, opAck}, buf[2:4]...))
			if n-4 < block {
				return file, ""
			}
		}
	}
}

func TestTFTPServesFiles(t *testing.T) {
	_, client, file := newLAN(t)
	for _, c := range []struct {
		request string
		drop    int
	}{
		{"file\x00octet\x00", 0},
		{"/file\x00octet\x00blksize\x001024\x00tsize\x000\x00", 0},
		{"file\x00OCTET\x00blksize\x001024\x00", 100}, // a packet is lost now and then
	} {
		if got, msg := fetch(t, client, c.request, c.drop); !bytes.Equal(got, file) {
			t.Errorf("%q: got %d bytes, error %q; want the %d of the file", c.request, len(got), msg, len(file))
		}
	}
	for _, request := range []string{"none\x00octet\x00", "../../etc/passwd\x00octet\x00", "file\x00netascii\x00", "file\x00octet\x00blksize\x00x\x00"} {
		if got, msg := fetch(t, client, request, 0); msg == "" {
			t.Errorf("%q: got %d bytes, want an error", request, len(got))
		}
	}
}

func FuzzParseReadRequest(f *testing.F) {
	f.Add([]byte("\x00\x01file\x00octet\x00blksize\x001024\x00tsize\x000\x00"))
	f.Add([]byte("\x00\x01\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseReadRequest(b)
		if err == nil && (r.block < 0 || r.block > maxBlock || strings.Contains(r.file, "\x00")) {
			t.Errorf("%q gives %+v", b, r)
		}
	})
}

func FuzzDHCPRequest(f *testing.F) {
	d, err := dhcpv4.NewDiscovery(net.HardwareAddr{2, 0, 0, 0, 0, 1})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(broadcastUDP(dhcpClientPort, dhcpServerPort, d.ToBytes()))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, frame []byte) {
		if d := dhcpRequest(frame); d != nil && d.OpCode != dhcpv4.OpcodeBootRequest {
			t.Errorf("took %v for a request", d.OpCode)
		}
	})
}

// TestSlowMachineLosesNothing sends far more at once than a socket holds to a machine that takes its time.
func TestSlowMachineLosesNothing(t *testing.T) {
	l, _, _ := newLAN(t)
	a, _ := plugIn(t, l)
	b, _ := plugIn(t, l)
	b.send(mac{255, 255, 255, 255, 255, 255}, "here I am") // the switch learns the way
	const frames = 600
	payload := strings.Repeat("x", 1400)
	for i := range frames {
		a.send(b.mac, fmt.Sprintf("%04d", i)+payload)
		for i%unlooked == 0 { // the switch reads as fast as it can, but it must have a processor
			table, err := os.ReadFile("/proc/net/udp")
			if err != nil {
				t.Fatal(err)
			}
			if waiting(string(table), a.conn.RemoteAddr().(*net.UDPAddr).Port) == 0 {
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
	time.Sleep(50 * time.Millisecond)
	buf := make([]byte, 2048)
	b.conn.SetReadDeadline(time.Now().Add(longTime))
	for want := 0; want < frames; {
		n, err := b.conn.Read(buf)
		if err != nil {
			t.Fatalf("after %d of %d frames: %v", want, frames, err)
		}
		if mac(buf[:6]) != b.mac {
			continue
		}
		if got := string(buf[headerSize : headerSize+4]); got != fmt.Sprintf("%04d", want) {
			t.Fatalf("frame %s came where %04d was due (%d bytes)", got, want, n)
		}
		want++
	}
}

func TestQueueInTheKernelsTable(t *testing.T) {
	const table = `   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  371: 0100007F:A7F8 0100007F:A7F7 01 00000000:00000000 00:00000000 00000000     0        0 112233 2 0000000000000000 0
  372: 00000000:A7F7 00000000:0000 07 00000000:00014180 00:00000000 00000000     0        0 112234 2 0000000000000000 68
`
	for port, want := range map[int]int{0xa7f7: 0x14180, 0xa7f8: 0, 0xa7f9: 0} {
		if got := waiting(table, port); got != want {
			t.Errorf("port %#x: %#x bytes wait, want %#x", port, got, want)
		}
	}
	for _, broken := range []string{"", "x", "1: : : : :", "1: 0:A7F7 2 3 4:zz"} {
		if got := waiting(broken, 0xa7f7); got != 0 {
			t.Errorf("%q: %d", broken, got)
		}
	}
}

func TestForwardJoinsAProcessToAMachine(t *testing.T) {
	l, client, file := newLAN(t)
	const port = 4000
	listener, err := gonet.ListenTCP(client.ip, tcpip.FullAddress{Port: port}, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() { // it answers when the other side has said everything
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		heard, _ := io.ReadAll(conn)
		conn.Write(heard)
	}()
	to := netip.AddrPortFrom(netip.MustParseAddr("10.77.0.9"), port)
	here, err := l.Forward(to)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", here)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(longTime))
	go func() {
		conn.Write(file)
		conn.(*net.TCPConn).CloseWrite()
	}()
	if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, file) {
		t.Fatalf("%d bytes came back, %v; want %d", len(got), err, len(file))
	}
	// Nobody listens any more: the connection ends instead of hanging.
	listener.Close()
	refused, err := net.Dial("tcp", here)
	if err != nil {
		t.Fatal(err)
	}
	defer refused.Close()
	refused.SetDeadline(time.Now().Add(longTime))
	if n, err := refused.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %d bytes, %v", n, err)
	}
}
