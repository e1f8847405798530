package svm

import "godwit/vmm/vcpu"

// Opcodes behind 0F.
const (
	movFromCR = 0x20
	movToCR   = 0x22
	movToDR   = 0x23
)

// setCR4 makes x the guest's CR4. MCE stays on whatever the guest wants: with it off a
// machine check is a shutdown of the machine, not an exit (APM 9.3.3). Until the guest
// switches it on itself, its reads of CR4 exit.
func (v *VCPU) setCR4(x uint64) {
	v.vm.save.cr4 = x | cr4MCE
	v.hideMCE = x&cr4MCE == 0
	v.vm.readCR &^= 1 << 4
	if v.hideMCE {
		v.vm.readCR |= 1 << 4
	}
	v.clean &^= cleanIntercepts | cleanCR
}

// cr4 is CR4 as the guest sees it.
func (v *VCPU) cr4() uint64 {
	x := v.vm.save.cr4
	if v.hideMCE {
		x &^= cr4MCE
	}
	return x
}

// readCR4 carries out a MOV from CR4. It returns false if the instruction can not be
// read.
func (v *VCPU) readCR4() bool {
	gpr, n, ok := v.movTo(movFromCR, 4)
	if !ok || n == 0 {
		return ok
	}
	v.regs.GPR[gpr] = v.cr4()
	v.endMov(n)
	return true
}

// endMov ends a MOV that was carried out here, with the trap that it may owe.
func (v *VCPU) endMov(n uint8) {
	v.Skip(n)
	if v.regs.RFLAGS&flagTF != 0 {
		const bs = 1 << 14
		v.vm.dr6 |= bs
		v.clean &^= cleanDR
		v.queue(vcpu.Event{Valid: true, Type: vcpu.EventException, Vector: vcpu.VecDB})
	}
}

// writeCR carries out a MOV to CR4, the control register whose bits the CPU model
// limits, to CR8, or to DR7. It returns false if the instruction can not be read.
func (v *VCPU) writeCR(opcode byte, reg int) bool {
	gpr, n, ok := v.movTo(opcode, reg)
	if !ok {
		return false
	}
	if n == 0 {
		return true // another VCPU has changed the code: the guest meets what stands there now
	}
	x := v.regs.GPR[gpr]
	if !v.long64() {
		x &= 0xffff_ffff
	}
	bad := false
	switch {
	case opcode == movToDR:
		bad = v.Set(vcpu.DR7, x) != nil
	case reg == 4:
		bad = v.Set(vcpu.CR4, x) != nil
	case x > 15:
		bad = true
	default:
		v.regs.CR8 = x
	}
	if bad {
		v.queue(vcpu.GP())
		return true
	}
	v.endMov(n)
	return true
}

// movTo is the register that the instruction names, and its length: 0 if it is
// another instruction by now.
func (v *VCPU) movTo(opcode byte, want int) (gpr int, n uint8, ok bool) {
	m := v.vm
	if v.space.b.has(featDecode) && v.space.b.has(featNextRIP) && m.exitInfo1>>63 != 0 {
		if n := m.nextRIP - m.rip; n-1 < 15 { // APM 15.8.1
			return int(m.exitInfo1 & 15), uint8(n), true
		}
	}
	var b [15]byte
	got := v.fetch(&b)
	i := v.prefixes(b[:got])
	if i+3 > got || b[i] != 0x0f || b[i+1] != opcode {
		return 0, 0, got > 0
	}
	reg := int(b[i+2] >> 3 & 7)
	gpr = int(b[i+2] & 7)
	if i > 0 && b[i-1]&0xf0 == 0x40 && v.long64() { // REX.R, REX.B
		reg |= int(b[i-1]) << 1 & 8
		gpr |= int(b[i-1]) << 3 & 8
	}
	for _, p := range b[:i] {
		if p == 0xf0 && reg == 0 && opcode == movToCR {
			reg = 8 // LOCK MOV CR0 is MOV CR8 (APM vol. 3, MOV CRn)
		}
	}
	if reg != want {
		return 0, 0, true
	}
	return gpr, uint8(i + 3), true
}
