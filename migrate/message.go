package migrate

import (
	"encoding/hex"

	"godwit/vmm/state"
)

// An id names one migration, or one host from its start to its end.
type id [16]byte

func (i id) String() string { return hex.EncodeToString(i[:]) }

// newFrame is an empty message with room for the header in front.
func newFrame() *state.Writer {
	w := new(state.Writer)
	w.U64(0)
	w.U64(0)
	w.U64(0)
	return w
}

func putID(w *state.Writer, i id) {
	for _, b := range i {
		w.U8(b)
	}
}

func getID(r *state.Reader) (i id) {
	for n := range i {
		i[n] = r.U8()
	}
	return i
}

// What a Hello is for.
type purpose uint8

const (
	purposeMove  purpose = 1
	purposeQuery purpose = 2
)

const helloSize = 2 + 2 + 8 + 8 + 1 + 16 + 16

type hello struct {
	min, max uint16 // versions
	features uint64 // known
	required uint64 // of these, without which it can not go on
	purpose  purpose
	id       id // of the migration
	host     id // of the source
}

func (m hello) frame() []byte {
	w := newFrame()
	w.U16(m.min)
	w.U16(m.max)
	w.U64(m.features)
	w.U64(m.required)
	w.U8(uint8(m.purpose))
	putID(w, m.id)
	putID(w, m.host)
	return w.Bytes()
}

func parseHello(b []byte) (m hello, err error) {
	r := state.NewReader(b)
	m = hello{min: r.U16(), max: r.U16(), features: r.U64(), required: r.U64(), purpose: purpose(r.U8()), id: getID(r), host: getID(r)}
	if err := r.Close(); err != nil {
		return m, protocolError("Hello: %v", err)
	}
	switch {
	case m.min == 0 || m.min > m.max:
		return m, protocolError("Hello: versions %d to %d make no sense", m.min, m.max)
	case m.required&^m.features != 0:
		return m, protocolError("Hello: features %#x are required but not offered", m.required&^m.features)
	case m.purpose != purposeMove && m.purpose != purposeQuery:
		return m, protocolError("Hello: purpose %d does not exist", m.purpose)
	}
	return m, nil
}

const helloReplySize = 2 + 8 + 16

type helloReply struct {
	version  uint16
	features uint64
	host     id // of the target
}

func (m helloReply) frame() []byte {
	w := newFrame()
	w.U16(m.version)
	w.U64(m.features)
	putID(w, m.host)
	return w.Bytes()
}

func parseHelloReply(b []byte) (m helloReply, err error) {
	r := state.NewReader(b)
	m = helloReply{version: r.U16(), features: r.U64(), host: getID(r)}
	if err := r.Close(); err != nil {
		return m, protocolError("HelloReply: %v", err)
	}
	return m, nil
}

func machineFrame(m Machine) []byte {
	w := newFrame()
	w.Blob([]byte(m.Name))
	w.U32(uint32(len(m.Regions)))
	for _, r := range m.Regions {
		w.U64(r.Start)
		w.U64(r.Size)
	}
	w.Blob(m.Config)
	return w.Bytes()
}

func parseMachine(b []byte, maxBytes uint64) (m Machine, err error) {
	r := state.NewReader(b)
	m.Name = string(r.Blob(maxName))
	n := r.U32()
	if n > maxRegions {
		return m, protocolError("Machine: %d memory regions, more than %d", n, maxRegions)
	}
	for range n {
		m.Regions = append(m.Regions, Region{r.U64(), r.U64()})
	}
	m.Config = append([]byte(nil), r.Blob(maxConfig)...)
	if err := r.Close(); err != nil {
		return m, protocolError("Machine: %v", err)
	}
	if err := checkName(m.Name); err != nil {
		return m, protocolError("Machine: %v", err)
	}
	if err := CheckRegions(m.Regions, maxBytes); err != nil {
		return m, protocolError("Machine: %v", err)
	}
	return m, nil
}

// checkName keeps out names that could not be shown or typed.
func checkName(s string) error {
	if s == "" || len(s) > maxName {
		return protocolError("a guest's name is %d bytes long, not 1 to %d", len(s), maxName)
	}
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f {
			return protocolError("the guest's name %q has characters outside printable ASCII", s)
		}
	}
	return nil
}

const roundSize = 4 + 1 + 8

type roundStart struct {
	round uint32
	last  bool
	pages uint64 // to consider, not all need to come
}

func (m roundStart) frame() []byte {
	w := newFrame()
	w.U32(m.round)
	w.Bool(m.last)
	w.U64(m.pages)
	return w.Bytes()
}

func parseRound(b []byte) (m roundStart, err error) {
	r := state.NewReader(b)
	m = roundStart{r.U32(), r.Bool(), r.U64()}
	if err := r.Close(); err != nil {
		return m, protocolError("Round: %v", err)
	}
	return m, nil
}

const roundSumSize = 4 + 8 + 8

// A roundSum is what was in a round's batches; RoundDone repeats what RoundEnd
// has said.
type roundSum struct {
	round     uint32
	raw, zero uint64 // pages
}

func (m roundSum) frame() []byte {
	w := newFrame()
	w.U32(m.round)
	w.U64(m.raw)
	w.U64(m.zero)
	return w.Bytes()
}

func parseRoundSum(b []byte) (m roundSum, err error) {
	r := state.NewReader(b)
	m = roundSum{r.U32(), r.U64(), r.U64()}
	if err := r.Close(); err != nil {
		return m, protocolError("RoundEnd: %v", err)
	}
	return m, nil
}

func stateEndFrame(length uint64, sum uint32) []byte {
	w := newFrame()
	w.U64(length)
	w.U32(sum)
	return w.Bytes()
}

func parseStateEnd(b []byte) (length uint64, sum uint32, err error) {
	r := state.NewReader(b)
	length, sum = r.U64(), r.U32()
	if err := r.Close(); err != nil {
		return 0, 0, protocolError("StateEnd: %v", err)
	}
	return length, sum, nil
}

// u64Frame is a message of one number: a duration in nanoseconds or a count.
func u64Frame(v uint64) []byte {
	w := newFrame()
	w.U64(v)
	return w.Bytes()
}

func parseU64(t msgType, b []byte) (uint64, error) {
	r := state.NewReader(b)
	v := r.U64()
	if err := r.Close(); err != nil {
		return 0, protocolError("%v: %v", t, err)
	}
	return v, nil
}

func commitFrame(i id) []byte {
	w := newFrame()
	putID(w, i)
	return w.Bytes()
}

func parseCommit(b []byte) (id, error) {
	r := state.NewReader(b)
	i := getID(r)
	if err := r.Close(); err != nil {
		return id{}, protocolError("Commit: %v", err)
	}
	return i, nil
}

// An outcome is what a target answers to a query.
type outcome uint8

const (
	_                 outcome = iota
	outcomeStarted            // the guest was started here
	outcomeNotStarted         // it was not, and never will be
	outcomePending            // it is being started; ask again
	outcomeUnknown            // no record of that migration
	numOutcomes
)

func outcomeFrame(o outcome) []byte {
	w := newFrame()
	w.U8(uint8(o))
	return w.Bytes()
}

func parseOutcome(b []byte) (outcome, error) {
	r := state.NewReader(b)
	o := outcome(r.U8())
	if err := r.Close(); err != nil {
		return 0, protocolError("Outcome: %v", err)
	}
	if o == 0 || o >= numOutcomes {
		return 0, protocolError("Outcome: %d does not exist", o)
	}
	return o, nil
}

// A failCode is what kind of end a Fail is.
type failCode uint8

const (
	_             failCode = iota
	failRefused            // the target does not take this guest
	failBroken             // something went wrong
	failCancelled          // somebody wanted it so
	numFailCodes
)

// A PeerError is the reason the other host gave in a Fail message.
type PeerError struct {
	code failCode
	Text string
}

func (e *PeerError) Error() string {
	switch e.code {
	case failRefused:
		return "migrate: refused by the other host: " + e.Text
	case failCancelled:
		return "migrate: cancelled at the other host: " + e.Text
	}
	return "migrate: failed at the other host: " + e.Text
}

func (e *PeerError) frame() []byte {
	w := newFrame()
	w.U8(uint8(e.code))
	w.Blob([]byte(e.Text[:min(len(e.Text), maxText)]))
	return w.Bytes()
}

func parseFail(b []byte) (*PeerError, error) {
	r := state.NewReader(b)
	e := &PeerError{code: failCode(r.U8())}
	text := append([]byte(nil), r.Blob(maxText)...)
	if err := r.Close(); err != nil {
		return nil, protocolError("Fail: %v", err)
	}
	if e.code == 0 || e.code >= numFailCodes {
		return nil, protocolError("Fail: code %d does not exist", e.code)
	}
	for i, c := range text { // it goes to the operator's terminal
		if c < ' ' || c >= 0x7f {
			text[i] = '?'
		}
	}
	e.Text = string(text)
	return e, nil
}
