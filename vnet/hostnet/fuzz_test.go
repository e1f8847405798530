package hostnet

import (
	"encoding/binary"
	"strings"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"godwit/vnet/frame"
)

// FuzzReceive: no frames from the network make the stack panic. sums puts the right
// checksums in, so that what lies behind them is reached.
func FuzzReceive(f *testing.F) {
	mac := []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}
	f.Add(append(mac, 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2, 10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1), false)
	ip := []byte{0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1}
	tcp := []byte{0x30, 0, 0x1b, 0x58, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0}
	f.Add(append(append(append(mac, 0x08, 0x00), ip...), tcp...), true)
	echo := []byte{8, 0, 0, 0, 0, 1, 0, 1}
	f.Add(append(append(append(mac, 0x08, 0x00), append(append(ip[:9:9], 1), ip[10:]...)...), echo...), true)
	n := newNet(Config{Log: func(string) {}})
	n.build()
	p := newCable(f).end[0]
	cfg := static("net0", "10.0.0.1/24")
	n.cfg.Interfaces = cfg.Interfaces
	if err := n.add("pipe", p.open); err != nil {
		f.Fatal(err)
	}
	close(n.searched)
	l, err := n.Listen("tcp", ":7000")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { l.Close(); n.Close() })
	f.Fuzz(func(t *testing.T, b []byte, sums bool) {
		// Twice and once more: segments of one connection are joined.
		var batch []*frame.Frame
		for range 3 {
			c := append([]byte(nil), b...)
			if sums {
				fixSums(c)
			}
			batch = append(batch, wrap(c))
		}
		n.ifaces[0].ep.Receive(batch)
	})
}

// fixSums makes the checksums of an IPv4 packet right, as far as it has them.
func fixSums(b []byte) {
	if len(b) < ethernetHeader+20 {
		return
	}
	ip := b[ethernetHeader:]
	h := int(ip[0]&15) * 4
	if h < 20 || h > len(ip) {
		return
	}
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	binary.BigEndian.PutUint16(ip[10:], 0)
	binary.BigEndian.PutUint16(ip[10:], ^checksum.Checksum(ip[:h], 0))
	at, pseudo := map[byte]int{1: 2, 6: 16, 17: 6}[ip[9]], uint16(0)
	payload := ip[h:]
	if at == 0 || len(payload) < at+2 {
		return
	}
	if ip[9] != 1 {
		pseudo = checksum.Checksum(ip[12:20], uint16(ip[9]))
		pseudo = checksum.Combine(pseudo, uint16(len(payload)))
	}
	binary.BigEndian.PutUint16(payload[at:], 0)
	binary.BigEndian.PutUint16(payload[at:], ^checksum.Checksum(payload, pseudo))
}

func FuzzParseInterface(f *testing.F) {
	f.Add("net0,dhcp")
	f.Add("52:54:00:12:34:56,10.0.0.1/24,gw=10.0.0.254,dns=10.0.0.53+10.0.0.54")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseInterface(s)
		if err == nil && (c.Match == "" || strings.Contains(c.Match, ",") || c.Address.IsValid() && (c.Off || !c.Address.Addr().Is4())) {
			t.Errorf("%q became %+v", s, c)
		}
	})
}
