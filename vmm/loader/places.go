package loader

import "fmt"

// places keeps what parts of RAM below 4 GiB are taken.
type places struct {
	ram  []Region
	used []Region
}

// maxRegions bounds the memory map: the zero page has room for 128 entries
// (boot.rst, "zero-page": e820_table).
const maxRegions = 128

func (p *places) init(m []Region) error {
	if len(m) > maxRegions {
		return fmt.Errorf("loader: the memory map has %d regions, more than %d", len(m), maxRegions)
	}
	last := uint64(0)
	for _, r := range m {
		if r.Size == 0 || r.End() < r.Start || r.Start < last {
			return fmt.Errorf("loader: the memory map's region %#x+%#x is empty, wraps or is out of order", r.Start, r.Size)
		}
		last = r.End()
		if r.Type == Usable {
			p.ram = append(p.ram, r)
		}
	}
	return p.claim("boot structures", gdtAt, lowEnd-gdtAt)
}

// claim takes [at, at+size).
func (p *places) claim(what string, at, size uint64) error {
	if size == 0 {
		return nil
	}
	if at+size < at {
		return fmt.Errorf("%s: %#x+%#x wraps around", what, at, size)
	}
	inside := false
	for _, r := range p.ram {
		inside = inside || at >= r.Start && at+size <= r.End()
	}
	if !inside {
		return fmt.Errorf("%s: %#x+%#x is not all RAM: give the machine more memory", what, at, size)
	}
	for _, u := range p.used {
		if at < u.End() && u.Start < at+size {
			return fmt.Errorf("%s: %#x+%#x overlaps what is loaded at %#x+%#x", what, at, size, u.Start, u.Size)
		}
	}
	p.used = append(p.used, Region{Start: at, Size: size})
	return nil
}

// top claims the highest free place for size bytes that ends at or below limit.
func (p *places) top(what string, size, limit, align uint64) (uint64, error) {
	if size == 0 {
		return 0, nil
	}
	for i := len(p.ram) - 1; i >= 0; i-- {
		r := p.ram[i]
		end := min(r.End(), limit)
		for end > r.Start && end-r.Start >= size {
			at := (end - size) &^ (align - 1)
			if at < r.Start {
				break
			}
			u := p.overlap(at, size)
			if u == nil {
				return at, p.claim(what, at, size)
			}
			end = u.Start
		}
	}
	return 0, fmt.Errorf("%s: no free place for %d MiB below %#x: give the machine more memory", what, (size+1<<20-1)>>20, limit)
}

// bottom claims the lowest free place at or above from.
func (p *places) bottom(what string, size, from, limit, align uint64) (uint64, error) {
	for _, r := range p.ram {
		at := (max(r.Start, from) + align - 1) &^ (align - 1)
		for at >= from && at+size >= at && at+size <= min(r.End(), limit) {
			u := p.overlap(at, size)
			if u == nil {
				return at, p.claim(what, at, size)
			}
			at = (u.End() + align - 1) &^ (align - 1)
		}
	}
	return 0, fmt.Errorf("%s: no free place for %d MiB from %#x on: give the machine more memory", what, (size+1<<20-1)>>20, from)
}

func (p *places) overlap(at, size uint64) *Region {
	for i := range p.used {
		if u := &p.used[i]; at < u.End() && u.Start < at+size {
			return u
		}
	}
	return nil
}
