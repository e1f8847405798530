//go:build !race

package vmm

// tornPage copies a page that others may be writing: see ReadPages.
func tornPage(dst []byte, p *[pageSize]byte) { copy(dst, p[:]) }
