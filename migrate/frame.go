package migrate

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// A frame is a header and a payload:
//
//	 0 u32 magic
//	 4 u8  version of this layout
//	 5 u8  message type; zero is illegal
//	 6 u16 zero
//	 8 u32 sequence number, from 0, each direction its own
//	12 u32 payload length
//	16 u32 CRC-32C of the payload
//	20 u32 CRC-32C of bytes 0 to 19
//
// The header has a checksum of its own so that a damaged length is never
// believed, not even to read the rest.
const (
	headerSize   = 24
	frameMagic   = 0x6d697747 // "Gwim"
	frameVersion = 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type header struct {
	typ    msgType
	seq    uint32
	length uint32
	sum    uint32
}

// put writes the header of payload into b.
func putHeader(b []byte, t msgType, seq uint32, payload []byte) {
	le := binary.LittleEndian
	le.PutUint32(b[0:], frameMagic)
	b[4], b[5], b[6], b[7] = frameVersion, byte(t), 0, 0
	le.PutUint32(b[8:], seq)
	le.PutUint32(b[12:], uint32(len(payload)))
	le.PutUint32(b[16:], checksum(payload))
	le.PutUint32(b[20:], checksum(b[:20]))
}

// parseHeader checks everything that a header alone can be checked for.
func parseHeader(b *[headerSize]byte) (h header, err error) {
	le := binary.LittleEndian
	if m := le.Uint32(b[0:]); m != frameMagic {
		return h, protocolError("the peer does not speak this protocol (magic %#x, not %#x)", m, frameMagic)
	}
	if got, want := le.Uint32(b[20:]), checksum(b[:20]); got != want {
		return h, protocolError("frame header damaged in transit (checksum %#x, not %#x)", got, want)
	}
	if b[4] != frameVersion {
		return h, protocolError("frame layout %d, not %d", b[4], frameVersion)
	}
	h = header{typ: msgType(b[5]), seq: le.Uint32(b[8:]), length: le.Uint32(b[12:]), sum: le.Uint32(b[16:])}
	if h.typ == 0 || h.typ >= numMsgs {
		return h, protocolError("message type %d does not exist", h.typ)
	}
	if b[6] != 0 || b[7] != 0 {
		return h, protocolError("reserved bytes in the header of %v", h.typ)
	}
	if h.length > maxLength[h.typ] {
		return h, protocolError("%v claims %d bytes, more than %d", h.typ, h.length, maxLength[h.typ])
	}
	return h, nil
}

// A ProtocolError is a peer's breach of the protocol, or damage in transit.
type ProtocolError struct{ text string }

func (e *ProtocolError) Error() string { return "migrate: " + e.text }

func protocolError(format string, a ...any) error {
	return &ProtocolError{fmt.Sprintf(format, a...)}
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }
