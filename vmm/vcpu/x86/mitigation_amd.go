package x86

func (t *telling) amd() {
	b, p := t.b, t.p
	l, i := amd(p.CPUID), identify(p.CPUID)
	const model, microcode = "not affected, by its family and model", "new microcode may bring the cure"

	t.first("LFENCE", "it does not hold back what follows, so branches of the exit path that are predicted wrongly reach the host's code",
		way{l.eax21&amdLFENCE != 0 || i.family < 0x10 || i.family == 0x11, "holds back what follows"},
		way{b.has(msrDECfg, deCfgLFENCE), "made to hold back what follows (DE_CFG)"})

	const confusion = "branch type confusion (Retbleed)"
	const returns = "a guest may steer the host's returns: Go's code has no safe ones"
	unable := t.spared()
	if l.ebx8&amdIBPB == 0 {
		unable = ", and the processor has no IBPB: new microcode may bring it"
	}
	if b.Exit == FenceIBPB && i.confusesBranches(l) && t.threads != 1 && b.SpecCtrl&SpecSTIBP == 0 {
		t.add(confusion, false, "IBPB at each exit, but the other thread of the core may steer the host all the same, for want of STIBP: switch multithreading off in the firmware's set-up")
	} else {
		t.first(confusion, returns+unable,
			way{l.ebx8&amdBTCNo != 0, "not affected"},
			way{!i.confusesBranches(l), model},
			way{b.Exit == FenceIBPB, "IBPB at each exit"})
	}
	reaches := reachesBranchTypes(p, i, l)
	if l.ebx8&amdIBPB != 0 && !reaches {
		unable = "; IBPB does not reach branch types here: " + microcode
	}
	t.first("return stack overflow (SRSO, Inception)", returns+unable,
		way{l.eax21&amdSRSONo != 0, "not affected"},
		way{!i.overflowsReturns(l, t.threads), model},
		way{b.has(msrBPCfg, bpCfgReduce), "BP_SPEC_REDUCE"},
		way{b.Exit == FenceIBPB && reaches, "IBPB at each exit"})
	t.first("transient scheduler attacks (TSA)", "VERW clears nothing here: "+microcode,
		way{l.ecx21&(amdTSASQNo|amdTSAL1No) == amdTSASQNo|amdTSAL1No, "not affected"},
		way{!i.zen3or4(), model},
		way{b.Buffers && verwClears(p, l), "VERW before each entry" + t.shared()})
	t.first("Zenbleed", microcode,
		way{!i.zen2(), model},
		way{patched(p, zenbleedPatches(i.model)), "the microcode closes it"},
		way{b.has(msrDECfg, deCfgZen2), "DE_CFG bit 9; new microcode would cost less"})
	t.first("operation cache (Zen 2)", "the processor does not take BP_CFG bit 33",
		way{!i.zen2(), model},
		way{b.has(msrBPCfg, bpCfgZen2), "BP_CFG bit 33"})
	t.first("quotients of divisions (Zen 1)", "nothing is done",
		way{!i.zen1(), model},
		way{b.Divider, "a division before each entry" + t.shared()})
	t.first("floating-point divider state (FP-DSS)", "the processor does not take FP_CFG bit 9",
		way{!i.zen1(), model},
		way{b.has(msrFPCfg, fpCfgDivider), "FP_CFG bit 9"})
	t.first("store bypass (v4)", t.bypass(),
		way{l.ebx8&amdSSBNo != 0, "not affected"})
}
