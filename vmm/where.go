package vmm

import (
	"fmt"
	"strings"
)

// Where stops the machine for a moment and tells where its processors are: the
// registers of each.
func (vm *VM) Where() string {
	vm.ctl.Lock()
	defer vm.ctl.Unlock()
	if vm.Status() == Running {
		vm.halt()
		defer func() {
			if vm.asked.Load() != askNothing {
				vm.settleLocked()
			} else {
				vm.run()
			}
		}()
	}
	if vm.Status() == Deleted {
		return ""
	}
	var b strings.Builder
	for _, c := range vm.cpus {
		fmt.Fprintf(&b, "CPU %d activity %d: %s\n", c.index, c.activity, c.describe())
	}
	return b.String()
}
