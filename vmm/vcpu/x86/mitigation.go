package x86

import "fmt"

// A Mitigation is what is done about one way in which guests could learn from each
// other or from the host, for the operator.
type Mitigation struct {
	Issue string `json:"issue"`
	Safe  bool   `json:"safe"` // not affected, or closed by what is done
	Done  string `json:"done"` // or why nothing is
}

// Mitigations lists them for the processors of one vendor, whose backend does what b
// says. Emulated processors, which tell nothing, look like old ones.
func Mitigations(intel bool, b Barriers, p Processor) []Mitigation {
	t := &telling{b: &b, p: p, threads: threads(p.CPUID)}
	t.add("Spectre v1", false, "guests' registers are cleared at each exit; the bounds checks of the host's code are no fences")
	t.first("Spectre v2, guest to guest", "the processor has no IBPB: new microcode may bring it",
		way{b.Exit == FenceIBPB, "IBPB at each exit"},
		way{b.Prediction, "IBPB where a CPU turns to another virtual processor, of the same guest or not"})
	host := t.first("Spectre v2, guest to host", "the processor has neither enhanced nor automatic IBRS, and Go makes no retpolines"+t.spared(),
		way{b.AutoIBRS, "automatic IBRS"},
		way{b.SpecCtrl&SpecIBRS != 0, "enhanced IBRS"},
		way{b.Exit == FenceIBRS, "IBRS is written at each exit"},
		way{b.Exit == FenceIBPB, "IBPB at each exit"})
	t.first("return stack, guest to host", "nothing is done",
		way{b.AutoIBRS, "automatic IBRS empties it"},
		way{b.Exit == FenceOne || b.Exit == FenceHistory || b.SpecCtrl&SpecIBRS != 0 && b.Exit == FenceIBPB, "enhanced IBRS, and a call after each exit (PBRSB)"},
		way{b.SpecCtrl&SpecIBRS != 0, "enhanced IBRS"},
		way{b.Exit >= FenceReturns, "filled anew at each exit"})
	t.first("VMSCAPE", "as Spectre v2, guest to host: the host has no user mode, and one answer for both",
		way{host, "the host has no user mode: what keeps guests from steering its branches does so for all of it"})
	if intel {
		t.intel()
	} else {
		t.amd()
	}
	t.add("a guest's programs against its kernel", false, t.inside(intel))
	t.siblings(intel)
	return t.list
}

// A telling collects the list.
type telling struct {
	b       *Barriers
	p       Processor
	threads uint32 // of a core, 0: unknown
	list    []Mitigation
}

// A way is one by which an issue may be closed.
type way struct {
	holds bool
	done  string
}

func (t *telling) add(issue string, safe bool, done string) {
	t.list = append(t.list, Mitigation{issue, safe, done})
}

// first takes the first way that holds; else open says why the issue is.
func (t *telling) first(issue, open string, ways ...way) (safe bool) {
	for _, w := range ways {
		if w.holds {
			t.add(issue, true, w.done)
			return true
		}
	}
	t.add(issue, false, open)
	return false
}

// spared says of what is open that the operator wanted it so.
func (t *telling) spared() string {
	if t.b.Spared {
		return "; guests=own leaves out IBPB at each exit, which would close it"
	}
	return ""
}

// shared says of what a core's buffers or predictors keep that its threads share them.
func (t *telling) shared() string {
	if t.threads == 1 {
		return ""
	}
	return "; the threads of a core are not parted by it"
}

// inside: what a guest's kernel needs against its own programs is shown to it only where
// the operator wants that.
func (t *telling) inside(intel bool) string {
	s := "unless cpu=native, guests see a generic processor: their kernels use retpolines and know of nothing newer"
	if intel && ArchCapabilities(t.p.CPUID, t.p.Read)&(capRDCLNo|capMDSNo) != capRDCLNo|capMDSNo {
		s += ", Meltdown and MDS included, which this processor may have"
	}
	if o := FindControls(t.p.CPUID).String(); o != "" {
		s += "; controls only by name (cpu=MODEL+NAME): " + o
	}
	return s
}

// bypass: only programs that ask, or kernels for them, need SSBD.
func (t *telling) bypass() string {
	if FindControls(t.p.CPUID).SpecCtrl&SpecSSBD == 0 {
		return "the processor has no SSBD that guests could be given"
	}
	return "guests are offered SSBD only by name (cpu=native, cpu=MODEL+ssbd), and must switch it on"
}

// siblings tells of simultaneous multithreading.
func (t *telling) siblings(intel bool) {
	const issue = "simultaneous multithreading"
	steer := ""
	if t.b.SpecCtrl&SpecIBRS != 0 || t.b.SpecCtrl&SpecSTIBP != 0 { // enhanced IBRS includes STIBP
		steer = " (STIBP keeps them from steering each other's branches)"
	}
	switch n := t.threads; {
	case n == 1:
		t.add(issue, true, "one thread a core")
	case n == 0:
		t.add(issue, false, "the processor does not tell: siblings would be shared by guests")
	default:
		t.add(issue, false, fmt.Sprintf("%d threads a core share caches and buffers, and unlike guests run on siblings%s: switch it off in the firmware's set-up", n, steer))
	}
}

// threads is how many a core has (SDM vol. 2, CPUID leaf 0Bh; APM vol. 3, Fn8000_001E),
// 0 if the processor does not tell.
func threads(cpuid CPUID) uint32 {
	if top, _, _, _ := cpuid(0, 0); top >= 0xb {
		if _, b, c, _ := cpuid(0xb, 0); c>>8&0xff == 1 && b&0xffff != 0 { // the level of threads
			return b & 0xffff
		}
	}
	if top, _, _, _ := cpuid(0x80000000, 0); top >= 0x8000001e {
		if _, _, c, _ := cpuid(0x80000001, 0); c>>22&1 != 0 { // TopologyExtensions
			_, b, _, _ := cpuid(0x8000001e, 0)
			return b>>8&0xff + 1
		}
	}
	return 0
}

// Notes are what costs so much, or opens so much, that the log shall say it.
func (b *Barriers) Notes() (notes []string) {
	switch {
	case b.Exit == FenceIBPB:
		notes = append(notes, "IBPB at each exit, since guests could steer the host otherwise: exits cost thousands of cycles more; if all guests are your own, guests=own leaves it out")
	case b.Spared:
		notes = append(notes, "guests=own: no IBPB at each exit; a guest may steer the host's branches")
	}
	return notes
}
