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
	if vm.Status() == Deleted {
		return ""
	}
	var b strings.Builder
	vm.atRest(func() {
		for _, c := range vm.cpus {
			fmt.Fprintf(&b, "CPU %d activity %d: %s\n", c.index, c.activity, c.describe())
		}
	})
	return b.String()
}
