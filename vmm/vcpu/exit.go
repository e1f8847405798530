package vcpu

// A Reason is why the guest stopped, in words common to both vendors.
type Reason uint8

const (
	ExitNone            Reason = iota // never reported: an Exit that was not filled in
	ExitHost                          // the host's own interrupt; run again
	ExitKicked                        // Kick was called
	ExitDeadline                      // SetDeadline's time has come
	ExitInterruptWindow               // WantInterrupt or WantNMI is satisfied
	ExitHLT
	ExitPause // a spin loop was detected
	ExitCPUID
	ExitRDMSR      // MSR in Exit.MSR; the answer goes to RAX and RDX
	ExitWRMSR      // MSR and its new value in Exit.MSR and Exit.Value
	ExitIO         // Exit.Port, Size, In, String, Rep; Insn holds the instruction for String
	ExitMemory     // second-level fault: Exit.GPA, Access, and the instruction's bytes if known
	ExitXSETBV     // index in RCX, value in EDX:EAX; only with CPL 0 and CR4.OSXSAVE checked
	ExitHypercall  // VMCALL or VMMCALL
	ExitShutdown   // triple fault
	ExitException  // an intercepted exception: Exit.Vector, Error, and GPA as its address
	ExitTaskSwitch // Exit.Task, and Len if an instruction is behind it
	ExitWBINVD
	ExitRDTSC
	ExitINIT     // INIT signal latched by hardware
	ExitMonitor  // MONITOR, MWAIT: hidden from guests; the VMM injects #UD
	ExitOther    // an instruction no model offers (VMRUN, GETSEC, ...): the VMM injects #UD
	ExitInternal // hardware said something that can not be; Exit.Value is its raw code
	NumReasons
)

var reasonNames = [NumReasons]string{
	"none", "host", "kicked", "deadline", "interrupt_window", "hlt", "pause", "cpuid", "rdmsr", "wrmsr", "io",
	"memory", "xsetbv", "hypercall", "shutdown", "exception", "task_switch", "wbinvd", "rdtsc", "init",
	"monitor", "other", "internal",
}

func (r Reason) String() string {
	if r < NumReasons {
		return reasonNames[r]
	}
	return "invalid"
}

// Access is what the guest tried on memory.
type Access uint8

const (
	Read Access = 1 << iota
	Write
	Exec
	PageWalk // the access was the guest's own page walk (setting A or D, or reading a table)
)

// An Exit is filled in by VCPU.Run. Fields not named for the Reason are stale.
type Exit struct {
	Reason  Reason
	Len     uint8 // the instruction's length; 0 if the hardware does not tell (the VMM decodes)
	Size    uint8 // ExitIO: 1, 2 or 4
	In      bool
	String  bool
	Rep     bool
	AddrLen uint8 // ExitIO with String: address size in bytes; 0 if unknown
	Seg     SegReg
	Port    uint16
	Access  Access
	Vector  uint8
	Error   uint32
	MSR     uint32
	GPA     uint64 // guest-physical address
	GVA     uint64 // guest-virtual address, if HasGVA
	HasGVA  bool
	Mapped  bool // ExitMemory: a translation exists but forbids the access
	Deliver bool // ExitMemory: the access was part of an event's delivery, not of the instruction at RIP
	Value   uint64
	Insn    [15]byte
	NInsn   uint8 // how many bytes of Insn the hardware gave
	Task    TaskSwitch
}

// A TaskCause is what leads to a hardware task switch, numbered as VT-x does (SDM
// vol. 3, table 27-2).
type TaskCause uint8

const (
	TaskCall TaskCause = iota // CALL, through a task gate or not
	TaskIRET                  // IRET with NT set
	TaskJump                  // JMP, through a task gate or not
	TaskGate                  // a task gate in the IDT
)

// A TaskSwitch is a hardware task switch that the guest attempts and the VMM carries
// out. The selector has passed the processor's checks of privilege. RFLAGS.RF is as
// the old TSS is to have it.
type TaskSwitch struct {
	Selector uint16 // of the new task's TSS; for IRET, from the link in the old one
	Cause    TaskCause
	Insn     bool  // the instruction at RIP is the cause, and is completed by the switch
	Event    Event // with TaskGate: what was being delivered; it is not queued any more
}

// EventType is what an Event is, numbered as both VT-x (SDM vol. 3, table
// "Format of the VM-Entry Interruption-Information Field") and AMD-V (APM vol. 2,
// section 15.20) number what they share.
type EventType uint8

const (
	EventInterrupt EventType = 0
	EventNMI       EventType = 2
	EventException EventType = 3
	EventSoft      EventType = 4 // INT n
	EventPrivSoft  EventType = 5 // INT1 (VT-x only)
	EventSoftExc   EventType = 6 // INT3, INTO (VT-x only; AMD-V injects them as exceptions)
)

// An Event is an interrupt or exception on its way into the guest.
type Event struct {
	Valid    bool
	Type     EventType
	Vector   uint8
	HasError bool
	Error    uint32
	Len      uint8  // of the instruction, for software events
	CR2      uint64 // for #PF raised by the VMM
}

// Exception vectors (SDM vol. 3, table 6-1).
const (
	VecDE = 0
	VecDB = 1
	VecBP = 3
	VecUD = 6
	VecNM = 7
	VecDF = 8
	VecTS = 10
	VecNP = 11
	VecSS = 12
	VecGP = 13
	VecPF = 14
	VecMF = 16
	VecAC = 17
	VecMC = 18
	VecXM = 19
)

// GP is a general protection fault with error code 0.
func GP() Event { return Event{Valid: true, Type: EventException, Vector: VecGP, HasError: true} }

// UD is an undefined-opcode fault.
func UD() Event { return Event{Valid: true, Type: EventException, Vector: VecUD} }
