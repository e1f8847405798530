package bootinfo

// rank says which of two kinds of memory an address is that both claim: RAM gives way
// to firmware's tables, and those to everything that is not to be touched.
func rank(typ uint32) int {
	switch typ {
	case RAM:
		return 0
	case ACPIReclaim:
		return 1
	case ACPINVS:
		return 2
	}
	return 3
}

// settle sorts the memory map and takes overlaps out. ACPI 6.5, 15.4 promises neither
// order nor disjointness for what firmware reports, and boot loaders add to it.
func (i *Info) settle() {
	var edges [2 * MaxRanges]uint64
	n := 0
	for _, r := range i.Mem[:i.NMem] {
		for _, e := range [2]uint64{r.Start, r.End} {
			k := n
			for ; k > 0 && edges[k-1] > e; k-- {
				edges[k] = edges[k-1]
			}
			edges[k] = e
			n++
		}
	}
	old, nold := i.Mem, i.NMem
	i.NMem = 0
	for k := 1; k < n; k++ {
		start, end := edges[k-1], edges[k]
		best := -1
		for m, r := range old[:nold] {
			if r.Start <= start && end <= r.End && (best < 0 || rank(r.Type) > rank(old[best].Type)) {
				best = m
			}
		}
		if start == end || best < 0 {
			continue
		}
		i.append(Range{start, end, old[best].Type})
	}
}

// append adds a range behind all others, or to the last of them.
func (i *Info) append(r Range) {
	if i.NMem > 0 {
		if last := &i.Mem[i.NMem-1]; last.End == r.Start && last.Type == r.Type {
			last.End = r.End
			return
		}
	}
	if i.NMem == MaxRanges {
		i.Truncated = true
		return
	}
	i.Mem[i.NMem] = r
	i.NMem++
}
