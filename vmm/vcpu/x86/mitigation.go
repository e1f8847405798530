package x86

import "fmt"

// A Mitigation is what is done about one way in which guests could learn from each
// other or from the host, for the operator.
type Mitigation struct {
	Issue string `json:"issue"`
	Safe  bool   `json:"safe"` // not affected, or closed by what is done
	Done  string `json:"done"` // or why nothing is
}

// Mitigations lists them for the processors of one vendor. done is what its backend
// does; emulated processors, which tell nothing, look like old ones.
func Mitigations(intel bool, b Barriers, cpuid CPUID, rdmsr ReadMSR) (list []Mitigation) {
	caps, ebx8, eax21 := archCapabilities(cpuid, rdmsr), amd(cpuid).ebx8, amd(cpuid).eax21
	add := func(issue string, safe bool, done string) { list = append(list, Mitigation{issue, safe, done}) }
	// first takes the first that holds; the last stands for nothing being done.
	type way struct {
		holds bool
		done  string
	}
	first := func(issue string, open string, ways ...way) {
		for _, w := range ways {
			if w.holds {
				add(issue, true, w.done)
				return
			}
		}
		add(issue, false, open)
	}

	add("Spectre v1", false, "guests' registers are cleared at each exit; the bounds checks of the host's code are no fences")
	first("Spectre v2, guest to guest", "the processor has no IBPB: new microcode may bring it",
		way{b.Prediction, "IBPB where a CPU turns to another virtual processor"})
	first("Spectre v2, guest to host", "the processor has neither enhanced nor automatic IBRS, and Go makes no retpolines",
		way{b.AutoIBRS, "automatic IBRS"},
		way{b.SpecCtrl&SpecIBRS != 0, "enhanced IBRS"},
		way{b.Exit == FenceIBRS, "IBRS is written at each exit"})
	first("return stack, guest to host", "nothing is done",
		way{b.AutoIBRS, "automatic IBRS empties it"},
		way{b.Exit == FenceReturns || b.Exit == FenceIBRS, "filled anew at each exit"},
		way{b.Exit == FenceOne || b.Exit == FenceHistory, "enhanced IBRS, and a call after each exit (PBRSB)"},
		way{b.SpecCtrl&SpecIBRS != 0, "enhanced IBRS"})
	if intel {
		first("branch history injection", "nothing is done beside Spectre v2's",
			way{caps&capBHINo != 0, "not affected"},
			way{b.SpecCtrl&SpecBHIDisS != 0, "BHI_DIS_S"},
			way{b.Exit == FenceHistory, "the history is overwritten at each exit"},
			way{b.Exit == FenceIBRS, "IBRS is written at each exit"})
		first("indirect target selection", "the processor does not say that it is not affected; nothing is done",
			way{caps&capITSNo != 0, "not affected"})
		first("L1 terminal fault", "the processor can not flush its L1 data cache: new microcode may bring it",
			way{caps&capRDCLNo != 0, "not affected"},
			way{b.L1D, "the L1 data cache is flushed before each stay in a guest"},
			way{caps&capSkipL1D != 0, "the hypervisor below this one flushes the L1 data cache"})
		first("MDS, TAA, MMIO stale data, RFDS", "VERW clears no buffers here: new microcode may bring it",
			way{b.Buffers, "VERW before each entry"},
			way{caps&capMDSNo != 0, "not affected, as far as the processor tells"})
		first("multihit of the instruction TLB", "",
			way{caps&capPSChange != 0, "not affected"},
			way{true, "guests' code is mapped in 4 KiB pages"})
	} else {
		first("branch type confusion (Retbleed)", "a guest may steer the host's returns: Go's code has no safe ones",
			way{ebx8&amdBTCNo != 0, "not affected"})
		first("return stack overflow (SRSO, Inception)", "a guest may steer the host's returns: Go's code has no safe ones",
			way{eax21&amdSRSONo != 0, "not affected"})
	}
	first("store bypass (v4)", "guests are not offered SSBD",
		way{caps&capSSBNo != 0 || ebx8&amdSSBNo != 0, "not affected"})
	switch n := threads(cpuid); {
	case n == 1:
		add("simultaneous multithreading", true, "one thread a core")
	case n == 0:
		add("simultaneous multithreading", false, "the processor does not tell: siblings would be shared by guests")
	default:
		add("simultaneous multithreading", false, fmt.Sprintf("%d threads a core share caches and buffers, and unlike guests run on siblings: switch it off in the firmware's set-up", n))
	}
	return list
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
