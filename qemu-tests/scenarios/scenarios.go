// Package scenarios is what Godwit must be able to do, one file a theme.
package scenarios

import (
	"godwit/qemu-tests/machine"
	"godwit/qemu-tests/rig"
)

// Grounds are all kinds of machines, in the order of the table's columns.
func Grounds() []machine.Ground {
	return []machine.Ground{
		machine.QEMU{},
		machine.Bochs{CPU: "corei7_icelake_u", Extension: machine.VTx},
		machine.Bochs{CPU: "ryzen", Extension: machine.SVM},
		machine.QEMU{KVM: true},
	}
}

// All returns the scenarios in their order: what others build on comes first, and among those that follow the longest ones, so
// that the last to end leave no processor idle for long.
func All() []*rig.Scenario {
	var all []*rig.Scenario
	for _, theme := range [][]*rig.Scenario{boots(), netboots(), selftests(), networks(), guests(), hardwareReports(), controls(), migrations()} {
		all = append(all, theme...)
	}
	return all
}

// Reasons not to run on a ground.
const (
	qemuOnly = "needs what only QEMU emulates"
	tooSlow  = "would take this emulator too long to say more than the other grounds do"
)

// onQEMU limits a scenario to QEMU, emulating or with KVM.
func onQEMU(g machine.Ground) string {
	if _, ok := g.(machine.QEMU); !ok {
		return qemuOnly
	}
	return ""
}

// notOnSecondBochs spares Bochs's SVM: the scenario has nothing to do with the extension, and Bochs ran it already.
func notOnSecondBochs(g machine.Ground) string {
	if b, ok := g.(machine.Bochs); ok && b.Extension == machine.SVM {
		return "the same emulator passes it with VT-x; nothing in it depends on the extension"
	}
	return ""
}

// notOnBochs spares Bochs what takes it minutes and shows nothing that QEMU does not.
func notOnBochs(g machine.Ground) string {
	if _, ok := g.(machine.Bochs); ok {
		return tooSlow
	}
	return ""
}
