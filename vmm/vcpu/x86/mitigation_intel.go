package x86

func (t *telling) intel() {
	b, p := t.b, t.p
	caps, i := ArchCapabilities(p.CPUID, p.Read), identify(p.CPUID)
	enhanced := b.SpecCtrl&SpecIBRS != 0
	var ebx7, edx7 uint32
	if top, _, _, _ := p.CPUID(0, 0); top >= 7 {
		_, ebx7, _, edx7 = p.CPUID(7, 0)
	}
	mcu, _ := p.Read(msrMCUOpt)
	const buffers, microcode = "VERW before each entry", "new microcode may bring the cure"

	t.first("return stack underflow (Retbleed)", "nothing is done beside Spectre v2's",
		way{enhanced, "enhanced IBRS"},
		way{b.Exit == FenceIBRS, "IBRS is written at each exit"})
	t.first("branch history injection", "nothing is done beside Spectre v2's",
		way{caps&capBHINo != 0, "not affected"},
		way{b.SpecCtrl&SpecBHIDisS != 0, "BHI_DIS_S, for guests' kernels too"},
		way{b.Exit == FenceHistory || b.Exit == FenceIBPB, "the history is overwritten at each exit"},
		way{b.Exit == FenceIBRS, "IBRS is written at each exit"})
	switch {
	case b.Exit == FenceIBPB:
		t.add("indirect target selection", false, "IBPB at each exit closes it with microcode of May 2025 (IPU 2025.1) or newer; the processor does not tell whether it has that")
	default:
		t.first("indirect target selection", "a guest's branches may lead the host's"+t.spared(),
			way{!selectsTargets(p.CPUID, caps), "not affected between guest and host"})
	}
	t.first("L1 terminal fault", "the processor can not flush its L1 data cache: new microcode may bring it",
		way{caps&capRDCLNo != 0, "not affected"},
		way{b.L1D, "the L1 data cache is flushed before each stay in a guest" + t.shared()},
		way{caps&capSkipL1D != 0, "the hypervisor below this one flushes the L1 data cache"})
	t.first("MDS, TAA", "VERW clears no buffers here: "+microcode,
		way{caps&capMDSNo != 0 && (caps&capTAANo != 0 || ebx7&leaf7RTM == 0), "not affected"},
		way{b.Buffers && edx7&leaf7Clear != 0, buffers + t.shared()})
	t.first("MMIO stale data", "", way{true, "guests reach no real device's registers"})
	t.first("register file data sampling", "VERW does not clear registers here: "+microcode,
		way{caps&capRFDSNo != 0, "not affected"},
		way{caps&capRFDSClear != 0, buffers},
		way{!i.among(modelsRFDS), "not affected, by its model"})
	t.first("special register buffers (SRBDS)", t.switchedOff(edx7&leaf7SRBDS != 0, microcode),
		way{edx7&leaf7SRBDS != 0 && mcu&rngdsMitDis == 0, "the microcode closes it"},
		way{edx7&leaf7SRBDS == 0 && !i.among(modelsSRBDS), "not affected, by its model"})
	t.first("gather data sampling (Downfall)", t.switchedOff(caps&capGDSCtrl != 0, microcode),
		way{caps&capGDSNo != 0, "not affected"},
		way{caps&capGDSCtrl != 0 && mcu&gdsMitDis == 0, "the microcode closes it"},
		way{caps&capGDSCtrl == 0 && !i.among(modelsGDS), "not affected, by its model"})
	t.first("multihit of the instruction TLB", "",
		way{caps&capPSChange != 0, "not affected"},
		way{true, "guests' code is mapped in 4 KiB pages"})
	t.first("store bypass (v4)", t.bypass(),
		way{caps&capSSBNo != 0, "not affected"})
}

// switchedOff is why the microcode's cure is not at work.
func (t *telling) switchedOff(exists bool, otherwise string) string {
	if exists {
		return "the firmware has switched the microcode's cure off (MSR 123h)"
	}
	return otherwise
}
