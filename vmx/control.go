package vmx

import (
	"fmt"
	"strings"
)

// Pin-based VM-execution controls (SDM vol. 3, table 24-5).
const (
	pinExternalInterrupt = 1 << 0
	pinNMI               = 1 << 3
	pinVirtualNMI        = 1 << 5
	pinPreemptionTimer   = 1 << 6
)

// Primary processor-based VM-execution controls (table 24-6).
const (
	procInterruptWindow = 1 << 2
	procTSCOffset       = 1 << 3
	procHLT             = 1 << 7
	procINVLPG          = 1 << 9
	procMWAIT           = 1 << 10
	procRDPMC           = 1 << 11
	procRDTSC           = 1 << 12
	procCR3Load         = 1 << 15
	procCR3Store        = 1 << 16
	procCR8Load         = 1 << 19
	procCR8Store        = 1 << 20
	procTPRShadow       = 1 << 21
	procNMIWindow       = 1 << 22
	procMOVDR           = 1 << 23
	procIOBitmaps       = 1 << 25
	procMSRBitmaps      = 1 << 28
	procMONITOR         = 1 << 29
	procPAUSE           = 1 << 30
	procSecondary       = 1 << 31
)

// Secondary processor-based VM-execution controls (table 24-7).
const (
	secEPT          = 1 << 1
	secRDTSCP       = 1 << 3
	secVPID         = 1 << 5
	secWBINVD       = 1 << 6
	secUnrestricted = 1 << 7
	secPAUSELoop    = 1 << 10
	secINVPCID      = 1 << 12
	secPML          = 1 << 17
	secXSAVES       = 1 << 20
	secTSCScaling   = 1 << 25
)

// VM-exit controls (table 24-13).
const (
	exitSaveDebug = 1 << 2
	exitHost64    = 1 << 9
	exitAckIntr   = 1 << 15
	exitSavePAT   = 1 << 18
	exitLoadPAT   = 1 << 19
	exitSaveEFER  = 1 << 20
	exitLoadEFER  = 1 << 21
)

// VM-entry controls (table 24-15).
const (
	entryLoadDebug = 1 << 2
	entryLongMode  = 1 << 9
	entryLoadPAT   = 1 << 14
	entryLoadEFER  = 1 << 15
)

// A controlKind is one of the five words of controls.
type controlKind uint8

const (
	pinControls controlKind = iota
	primaryControls
	secondaryControls
	exitControls
	entryControls
	numControls
)

// An allowed is what a capability MSR of appendix A.2 to A.5 permits: bits that
// are 1 in lo must be 1, bits that are 0 in hi must be 0.
type allowed struct{ lo, hi uint32 }

func allowedBy(msr uint64) allowed { return allowed{uint32(msr), uint32(msr >> 32)} }

func (a allowed) fold(want uint32) uint32 { return (want | a.lo) & a.hi }

// A rule says what this package wants of one word of controls.
type rule struct {
	name    string
	msr     uint32 // the capability MSR, and
	trueMSR uint32 // the one that tells which default settings are not needed (A.2)
	must    uint32 // refused without
	may     uint32 // used where present
	toggle  uint32 // switched while running: refused unless they can be 0 and 1
	mustNot uint32 // refused where they can not be 0
	bits    map[uint32]string
}

// SDM vol. 3, appendix A.2 to A.5.
var rules = [numControls]rule{
	pinControls: {
		name: "pin-based", msr: 0x481, trueMSR: 0x48d,
		must: pinExternalInterrupt | pinNMI | pinVirtualNMI,
		may:  pinPreemptionTimer,
		bits: map[uint32]string{
			pinExternalInterrupt: "external-interrupt exiting", pinNMI: "NMI exiting",
			pinVirtualNMI: "virtual NMIs", pinPreemptionTimer: "VMX-preemption timer",
		},
	},
	primaryControls: {
		name: "primary processor-based", msr: 0x482, trueMSR: 0x48e,
		must: procTSCOffset | procHLT | procMWAIT | procRDPMC | procTPRShadow | procIOBitmaps |
			procMSRBitmaps | procMONITOR | procSecondary,
		toggle:  procInterruptWindow | procNMIWindow | procMOVDR,
		mustNot: procINVLPG | procRDTSC | procCR3Load | procCR3Store | procCR8Load | procCR8Store | procPAUSE,
		bits: map[uint32]string{
			procInterruptWindow: "interrupt-window exiting", procTSCOffset: "use TSC offsetting",
			procHLT: "HLT exiting", procINVLPG: "INVLPG exiting", procMWAIT: "MWAIT exiting",
			procRDPMC: "RDPMC exiting", procRDTSC: "RDTSC exiting", procCR3Load: "CR3-load exiting",
			procCR3Store: "CR3-store exiting", procCR8Load: "CR8-load exiting",
			procCR8Store: "CR8-store exiting", procTPRShadow: "use TPR shadow",
			procNMIWindow: "NMI-window exiting", procMOVDR: "MOV-DR exiting",
			procIOBitmaps: "use I/O bitmaps", procMSRBitmaps: "use MSR bitmaps",
			procMONITOR: "MONITOR exiting", procPAUSE: "PAUSE exiting",
			procSecondary: "activate secondary controls",
		},
	},
	secondaryControls: {
		name: "secondary processor-based", msr: 0x48b, trueMSR: 0x48b,
		must: secEPT | secUnrestricted | secWBINVD,
		may:  secRDTSCP | secVPID | secPAUSELoop | secINVPCID | secPML | secXSAVES | secTSCScaling,
		bits: map[uint32]string{
			secEPT: "enable EPT", secRDTSCP: "enable RDTSCP", secVPID: "enable VPID",
			secWBINVD: "WBINVD exiting", secUnrestricted: "unrestricted guest",
			secPAUSELoop: "PAUSE-loop exiting", secINVPCID: "enable INVPCID",
			secPML: "enable PML", secXSAVES: "enable XSAVES/XRSTORS",
			secTSCScaling: "use TSC scaling",
		},
	},
	exitControls: {
		name: "VM-exit", msr: 0x483, trueMSR: 0x48f,
		must:    exitSaveDebug | exitHost64 | exitSavePAT | exitLoadPAT | exitSaveEFER | exitLoadEFER,
		mustNot: exitAckIntr,
		bits: map[uint32]string{
			exitSaveDebug: "save debug controls", exitHost64: "host address-space size",
			exitAckIntr: "acknowledge interrupt on exit", exitSavePAT: "save IA32_PAT",
			exitLoadPAT: "load IA32_PAT", exitSaveEFER: "save IA32_EFER", exitLoadEFER: "load IA32_EFER",
		},
	},
	entryControls: {
		name: "VM-entry", msr: 0x484, trueMSR: 0x490,
		must:   entryLoadDebug | entryLoadPAT | entryLoadEFER,
		toggle: entryLongMode,
		bits: map[uint32]string{
			entryLoadDebug: "load debug controls", entryLongMode: "IA-32e mode guest",
			entryLoadPAT: "load IA32_PAT", entryLoadEFER: "load IA32_EFER",
		},
	},
}

// names lists the controls in bits, as the manual calls them.
func (r *rule) names(bits uint32) string {
	var s []string
	for i := range 32 {
		b := uint32(1) << i
		switch {
		case bits&b == 0:
		case r.bits[b] != "":
			s = append(s, fmt.Sprintf("%q", r.bits[b]))
		default:
			s = append(s, fmt.Sprintf("bit %d", i))
		}
	}
	return strings.Join(s, ", ")
}

// fold gives the controls that this package runs with, of those that a permits;
// the toggled ones are off.
func (r *rule) fold(a allowed) (uint32, error) {
	v := a.fold(r.must | r.may)
	if missing := r.must&^v | r.toggle&^a.hi; missing != 0 {
		return 0, fmt.Errorf("vmx: this processor lacks the %s control(s) %s", r.name, r.names(missing))
	}
	if stuck := (r.mustNot | r.toggle) & v; stuck != 0 {
		return 0, fmt.Errorf("vmx: this processor can not switch off the %s control(s) %s", r.name, r.names(stuck))
	}
	return v, nil
}
