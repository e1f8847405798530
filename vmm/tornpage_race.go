//go:build race

package vmm

// tornPage copies a page unseen by the race detector, which sees every copy and append.
//
//go:norace
func tornPage(dst []byte, p *[pageSize]byte) { *(*[pageSize]byte)(dst) = *p }
