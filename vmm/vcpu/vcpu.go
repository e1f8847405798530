// Package vcpu is the contract between a virtual machine and the hardware that
// runs its processors. Package vmx (VT-x) and package svm (AMD-V) implement it;
// nothing above it knows the vendor.
//
// Life of a VCPU: Backend.NewVCPU, Load, then from one goroutine at a time Run,
// look at the Exit, act, Run again; Close at the end. Only Kick may be called
// from other goroutines while Run is in progress. Run never allocates.
package vcpu

import "godwit/vmm/vcpu/x86"

// A Backend is one vendor's virtualization, enabled on every CPU of the host.
type Backend interface {
	// Name is "vmx" or "svm".
	Name() string
	// Capabilities says what this host's silicon offers.
	Capabilities() Capabilities
	// NewSpace makes the hardware side of one VM: its address space tag and
	// the I/O and MSR permission maps its VCPUs share.
	NewSpace(cfg SpaceConfig) (Space, error)
}

// Capabilities are the host's, as found by the backend.
type Capabilities struct {
	GuestPhysBits  uint // width of a guest-physical address
	Page2M, Page1G bool // large pages in second-level tables
	SmallCode      bool // large pages must not be executable, lest a guest stop the host: slat.ExecFault
	AccessedDirty  bool // hardware sets A and D bits in second-level tables
	PML            bool // hardware logs dirtied pages
	NextRIP        bool // exits tell the instruction's length
	DecodeAssist   bool // exits carry the instruction's bytes
	Preemption     bool // a timer in the VCPU bounds every entry
	PauseFilter    bool
	TSCScaling     TSCScaling
	XCR0           uint64       // XSAVE components a guest may be given
	Controls       x86.Controls // likewise
	// ArchCapabilities is what an Intel processor says of itself in the MSR of that name.
	ArchCapabilities uint64
	Mitigations      []x86.Mitigation
	Notes            []string // what is missing and what is done instead, for the operator
}

// SpaceConfig describes one VM to its backend.
type SpaceConfig struct {
	Name   string
	Tables Tables // second-level page tables, in the backend's format
	CPUID  Policy // what the VM's CPU model allows
}

// Tables is what a backend needs of second-level page tables (package slat).
type Tables interface {
	Root() uint64       // physical address of the top-level table
	Generation() uint64 // grows whenever cached translations must be dropped
}

// Policy is what the CPU model lets a guest switch on. Writes outside it get #GP.
type Policy struct {
	CR4      uint64 // bits the guest may set
	XCR0     uint64
	XSS      uint64
	EFER     uint64
	PhysBits uint
	// Controls against speculation. The guest's SPEC_CTRL is the register SpecCtrl; while
	// it runs, the host's own bits are on, too. Its writes to PRED_CMD and FLUSH_CMD that
	// the processor takes do not exit.
	Controls x86.Controls
	// Instructions that the model's CPUID shows and that hardware can turn
	// off: without them the guest gets #UD where the vendor allows.
	RDTSCP, INVPCID, XSAVES bool
}

// A Space is one VM's hardware context.
type Space interface {
	// NewVCPU makes the VCPU with this index. It is in reset state.
	NewVCPU(index int) (VCPU, error)
	// Sync returns once no VCPU of this Space uses a translation that was
	// cached before Tables.Generation had its present value: those that are
	// inside the guest with an older one are made to leave it, which their
	// Run handles by itself. Callable from any goroutine.
	Sync()
	// Close frees everything; all VCPUs are closed first.
	Close() error
}

// A VCPU runs one processor of a guest.
type VCPU interface {
	// Run enters the guest and returns at the next exit that the backend
	// does not handle itself, with e filled in. Registers are in Regs.
	// An error means that this VCPU can not go on (an entry check failed):
	// it names the failed check. The host is never harmed.
	Run(e *Exit) error
	// Kick makes a Run in progress, or else the next one, return ExitKicked
	// soon. Callable from any goroutine; it neither blocks nor allocates.
	Kick()
	// Regs are the registers that most exits need; they may be changed
	// between Runs. The pointer stays valid until Close.
	Regs() *Regs
	// Skip ends an instruction of n bytes that the VMM carried out: RIP
	// moves on, RFLAGS.RF is cleared, and a shadow of STI or MOV SS ends.
	// (With TF set the VMM queues the #DB itself.)
	Skip(n uint8)
	// Get and Set access the less common registers between Runs. Set
	// checks v as hardware would; the error says what is wrong.
	Get(r Reg) uint64
	Set(r Reg, v uint64) error
	Segment(s SegReg) Segment
	SetSegment(s SegReg, v Segment) error
	// Inject queues e for the next entry, ahead of the guest's next
	// instruction. At most one event can be queued; an event whose
	// delivery an exit interrupted is queued again by the backend itself
	// (Pending tells). Inject replaces nothing: it returns false if an
	// event is queued already.
	Inject(e Event) bool
	// Pending is the queued event, if its Valid is set.
	Pending() Event
	// CanInterrupt tells whether an external interrupt could be delivered
	// at the next entry: no event queued, IF set, no STI or MOV SS shadow.
	// CanNMI is the same for an NMI.
	CanInterrupt() bool
	CanNMI() bool
	// WantInterrupt asks for an ExitInterruptWindow as soon as an interrupt
	// of this priority class (vector>>4) is deliverable: CanInterrupt and
	// CR8 < class. The request ends with that exit; zero takes it back.
	// WantNMI likewise.
	WantInterrupt(class uint8)
	WantNMI(on bool)
	// SetDeadline bounds the next Runs: Run returns ExitDeadline once the
	// host's TSC reaches this value. Zero means no bound.
	SetDeadline(hostTSC uint64)
	// SetTSCRatio sets the rate of the guest's TSC; it is Unscaled at first. A ratio
	// that Capabilities.TSCScaling does not have is an error. The offset, which
	// stays, is added to the scaled counter.
	SetTSCRatio(r TSCRatio) error
	// SetTSCOffset sets guest TSC minus host TSC, the latter scaled.
	SetTSCOffset(off uint64)
	// TSCOffset returns it.
	TSCOffset() uint64
	// Save copies all that a guest could observe of this processor; Load
	// sets it, after checking it whole: a state that hardware would refuse
	// to enter is an error and changes nothing.
	Save(s *State)
	Load(s *State) error
	// Stats counts since creation.
	Stats() *Stats
	Close() error
}

// Regs are the registers at hand after each exit, in encoding order.
type Regs struct {
	GPR    [16]uint64 // RAX RCX RDX RBX RSP RBP RSI RDI R8..R15
	RIP    uint64
	RFLAGS uint64
	CR8    uint64 // task priority class: set it before an entry, read it after an exit
}

// Indexes into Regs.GPR.
const (
	RAX = iota
	RCX
	RDX
	RBX
	RSP
	RBP
	RSI
	RDI
	R8
	R9
	R10
	R11
	R12
	R13
	R14
	R15
)

// Stats of one VCPU. Written by the VCPU's goroutine only.
type Stats struct {
	Entries uint64
	Exits   [NumReasons]uint64 // those handled inside the backend included
}
