package slat

// On processors that take a machine check if a fetch finds two translations of unlike
// size in their TLB, a guest that changes the size of its own pages could stop the host:
// what the TLB holds is as large as the smaller of the guest's page and ours (Intel,
// "Machine Check Error Avoidance on Page Size Change", CVE-2018-12207). With
// Options.SmallCode no fetch uses a large page: those are not executable, and the first
// fetch from one breaks it into 4K pages that are. Memory that holds no code keeps its
// large pages.

// withoutLargeCode is the entry of a page at level as SmallCode wants it.
func (t *Tables) withoutLargeCode(e uint64, level int) uint64 {
	if t.opt.SmallCode && level > 1 {
		e = e&^t.f.exec | t.f.noExec
	}
	return e
}

// ExecFault handles a guest's fetch that the second-level tables refused, and tells
// whether it can be tried again: false if nothing is mapped there, or without PermExec.
// It takes no permission away, and the fault has dropped the processor's own translation
// (SDM vol. 3, 29.4.3.1): no generation is spent.
func (t *Tables) ExecFault(gpa uint64) (bool, error) {
	if gpa >= t.opt.Limit {
		return false, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		s, e := t.walk(gpa)
		switch {
		case t.closed || e&present == 0 || e&mayExec == 0:
			return false, nil
		case t.f.executable(e):
			return true, nil
		}
		if err := t.split(s); err != nil {
			return false, err
		}
	}
}
