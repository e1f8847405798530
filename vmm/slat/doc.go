// Package slat is second-level address translation: one implementation of the
// page tables that turn guest-physical into host-physical addresses, with two
// entry formats, EPT (SDM vol. 3, section 28.3) and nested paging (AMD APM
// vol. 2, section 15.25).
package slat
