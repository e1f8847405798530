package selftest

// holdRegisters fills the vector registers from seed, spins n times, and returns a
// mask of the registers that have changed.
func holdRegisters(seed uint64, n int) uint64

// flags reads RFLAGS.
func flags() uint64
