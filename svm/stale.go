package svm

import "sync/atomic"

// softInterrupt handles INT n, INT3 and INTO, which exit on TCG only.
//
// TCG (seen: 7.2) translates code while another CPU may change it: the store discards
// the translations there are, but not the one that is being made, and what was there
// before is executed from then on. (Since 8.1 the page is locked meanwhile, yet the store
// comes after the discarding.) Linux changes code under an INT3 and puts the first byte
// there last, so an INT3 that is no longer in memory could be met for ever. Such a one
// is translated anew; any other is executed, without an exit until the next exit.
func (v *VCPU) softInterrupt() {
	var b [15]byte
	n := v.fetch(&b)
	if i := v.prefixes(b[:n]); i < n {
		switch b[i] {
		case 0xcc, 0xcd, 0xce:
		default:
			v.discardTranslation()
			return
		}
	}
	v.want(exitSoftInt, false)
	v.passing, v.asked = true, true
}

// discardTranslation makes TCG discard its translation of the byte at RIP, by a store
// that changes nothing.
func (v *VCPU) discardTranslation() {
	gpa, ok := v.translate(v.linear(0))
	if !ok {
		return
	}
	if p := v.page(gpa); p != nil {
		w := wordOf(p, gpa)
		old := atomic.LoadUint32(w)
		atomic.CompareAndSwapUint32(w, old, old) // fails if another has just stored there, which serves as well
	}
}
