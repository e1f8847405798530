package conformance

import (
	"godwit/vmm/slat"
	"godwit/vmm/vcpu"
)

// device is an address where nothing is mapped; the guest's tables reach it.
const device = 0x3000_0000

// Second-level faults, and what changes of the tables do to a running guest.
var memoryTests = []test{
	{"access to a device", long64, func(m *machine) {
		m.start(gLoad)
		m.cpu.Regs().GPR[vcpu.RBX] = device + 0x123
		m.wantMemory(device+0x123, vcpu.Read, false)
		check(m, "in an event's delivery", m.exit.Deliver, false)
		check(m, "RIP", m.ip(), 0)
		m.cpu.Regs().GPR[vcpu.RAX] = 0x55 // as if carried out
		m.skip(2)
		m.hlt()
		check(m, "AL", m.reg(vcpu.RAX), 0x55)

		m.start(gStore)
		m.cpu.Regs().GPR[vcpu.RBX] = device + 0xfff
		m.wantMemory(device+0xfff, vcpu.Write, false)

		m.start(gJumpIndirect)
		m.cpu.Regs().GPR[vcpu.RBX] = device
		m.wantMemory(device, vcpu.Exec, false)
		check(m, "RIP", m.cpu.Regs().RIP, device)
	}},
	{"first touch of 4K, 2M and 1G pages", long64, func(m *machine) {
		for _, size := range []uint64{4 << 10, 2 << 20, 1 << 30} {
			if size == 1<<30 && !m.b.Capabilities().Page1G {
				continue // slat would use 2M pages; that has been seen
			}
			blk, err := m.hostMemory(min(size, 2<<20), min(size, 2<<20))
			m.must(err)
			m.start(gLoads)
			at := uint64(512 << 20)
			m.cpu.Regs().GPR[vcpu.RBX] = at + 8
			hpa := blk.Phys
			if size == 1<<30 {
				// A page of which only what the test touches need be ours.
				at = 1 << 30
				m.put64(pdptAt+8, 1<<30|0x83)
				m.cpu.Regs().GPR[vcpu.RBX] = at + blk.Phys&(1<<30-1) + 8
				hpa = blk.Phys &^ (1<<30 - 1)
			}
			gpa := m.reg(vcpu.RBX)
			blk.Data[8] = 0x77
			m.wantMemory(gpa, vcpu.Read, false)
			m.must(m.tables.Map(at, hpa, size, slat.PermRead, slat.WriteBack))
			l, ok := m.tables.Lookup(gpa)
			if !ok || l.Size != size {
				m.fail("Lookup %#x: %+v, %v", gpa, l, ok)
			}
			m.hlt()
			check(m, "RAX", m.reg(vcpu.RAX), 0x77)
			m.must(m.tables.Unmap(at, size))
			m.space.Sync()
			m.wantMemory(gpa, vcpu.Read, false)
		}
	}},
	{"permissions", long64, func(m *machine) {
		m.start(gStore2)
		m.cpu.Regs().GPR[vcpu.RBX] = dataAt
		m.must(m.tables.Protect(dataAt, slat.PageSize, slat.PermRX))
		m.wantMemory(dataAt, vcpu.Write, true)
		m.must(m.tables.Protect(dataAt, slat.PageSize, slat.PermRW))
		m.hlt()

		m.start(gCall)
		m.ram[dataAt] = 0xc3 // ret
		m.cpu.Regs().GPR[vcpu.RBX] = dataAt
		m.wantMemory(dataAt, vcpu.Exec, true)
		m.must(m.tables.Protect(dataAt, slat.PageSize, slat.PermRX))
		m.hlt()
		check(m, "RIP", m.ip(), 3)
	}},
	{"a page remapped is seen after the flush", long64, func(m *machine) {
		a, err := m.hostMemory(4096, 4096)
		m.must(err)
		b, err := m.hostMemory(4096, 4096)
		m.must(err)
		a.Data[0], b.Data[0] = 1, 2
		m.must(m.tables.Map(device, a.Phys, 4096, slat.PermRWX, slat.WriteBack))
		m.start(gLoads)
		m.cpu.Regs().GPR[vcpu.RBX] = device
		m.hlt()
		check(m, "RAX", m.reg(vcpu.RAX), 1)
		m.must(m.tables.Map(device, b.Phys, 4096, slat.PermRWX, slat.WriteBack))
		m.space.Sync()
		m.hlt()
		check(m, "RAX", m.reg(vcpu.RAX), 2)
		m.must(m.tables.Unmap(device, 4096))
		m.space.Sync()
		m.wantMemory(device, vcpu.Read, false)
	}},
	{"the guest's tables on a read-only page", long64, func(m *machine) {
		// Setting the accessed bit in the guest's page directory is a write.
		m.start(gLoad)
		m.cpu.Regs().GPR[vcpu.RBX] = dataAt
		m.must(m.tables.Protect(pdAt, slat.PageSize, slat.PermRX))
		e := m.want(vcpu.ExitMemory)
		if e.GPA&^0xfff != pdAt || e.Access&(vcpu.Write|vcpu.PageWalk) != vcpu.Write|vcpu.PageWalk || !e.Mapped {
			m.fail("GPA %#x, access %b, mapped %v; want a write of the page walk at %#x", e.GPA, e.Access, e.Mapped, pdAt)
		}
		m.must(m.tables.Protect(pdAt, slat.PageSize, slat.PermRWX))
		m.hlt()
	}},
	{"the guest's tables where nothing is", long64, func(m *machine) {
		m.start(gLoad)
		m.put64(pdptAt, device|3)
		e := m.want(vcpu.ExitMemory)
		if e.GPA&^0xfff != device || e.Access&vcpu.PageWalk == 0 || e.Mapped {
			m.fail("GPA %#x, access %b, mapped %v; want the page walk at %#x", e.GPA, e.Access, e.Mapped, device)
		}
	}},
	{"writes are tracked by faults, a group at a time", long64, func(m *machine) { trackWrites(m, slat.WriteFaults, 8) }},
	{"writes are tracked by dirty bits", long64, func(m *machine) {
		if !m.b.Capabilities().AccessedDirty {
			panic(skip{"no dirty bits in second-level tables"})
		}
		trackWrites(m, slat.DirtyBits, 1)
	}},
	{"writes are tracked by the page log", long64, func(m *machine) {
		if !m.b.Capabilities().PML {
			panic(skip{"no page-modification log"})
		}
		trackWrites(m, slat.PageLog, 1)
	}},
	{"large pages come back after tracking", long64, func(m *machine) {
		m.must(m.tables.StartTracking(slat.WriteFaults))
		m.space.Sync()
		touch(m, 64, 16)
		m.tables.StopTracking()
		m.space.Sync()
		m.tables.Reclaim()
		if l, _ := m.tables.Lookup(dataAt); l.Size != 2<<20 || !l.Writable {
			m.fail("Lookup: %+v", l)
		}
		if n := touch(m, 64, 16); n != 0 {
			m.fail("%d faults after tracking", n)
		}
	}},
	{"self-modifying code", long64, func(m *machine) {
		m.start(gSelfModify)
		m.hlt()
		check(m, "BL", m.reg(vcpu.RBX), 15)
	}},
}

// wantMemory expects a second-level fault.
func (m *machine) wantMemory(gpa uint64, a vcpu.Access, mapped bool) {
	e := m.want(vcpu.ExitMemory)
	if e.GPA != gpa || e.Access&^vcpu.PageWalk != a || e.Mapped != mapped {
		m.fail("GPA %#x, access %b, mapped %v; want %#x, %b, %v", e.GPA, e.Access, e.Mapped, gpa, a, mapped)
	}
	if e.HasGVA {
		check(m, "GVA", e.GVA, gpa)
	}
}

// touch lets the guest write to pages, one after the other from dataAt on, and
// serves its faults; it returns how many there were.
func touch(m *machine, pages uint64, group int) (faults int) {
	m.start(gTouchAll)
	m.cpu.Regs().GPR[vcpu.RBX], m.cpu.Regs().GPR[vcpu.RCX] = dataAt, pages
	for m.run() == vcpu.ExitMemory {
		what, n := m.tables.WriteFault(m.exit.GPA, group)
		if what != slat.Opened && what != slat.Raced {
			m.fail("write fault at %#x: %d", m.exit.GPA, what)
		}
		if n > 0 && m.exit.GPA >= dataAt {
			faults++
		}
	}
	check(m, "exit", m.exit.Reason, vcpu.ExitHLT)
	return faults
}

func trackWrites(m *machine, mode slat.Mode, group int) {
	m.must(m.tables.StartTracking(mode))
	m.space.Sync()
	const pages = 64
	for round := range 3 {
		faults := touch(m, pages, group)
		if mode == slat.WriteFaults {
			check(m, "faults", faults, pages/group)
		}
		b := slat.NewBitmap(m.tables.Limit())
		m.tables.CollectDirty(b)
		m.space.Sync()
		for gfn := uint64(dataAt / slat.PageSize); gfn < dataAt/slat.PageSize+pages; gfn++ {
			if !b.Test(gfn) {
				m.fail("round %d: page %#x was written and is not in the bitmap", round, gfn)
			}
		}
		if b.Test(dataAt/slat.PageSize + pages) {
			m.fail("round %d: a page that was not written is in the bitmap", round)
		}
	}
	m.tables.StopTracking()
	m.space.Sync()
}
