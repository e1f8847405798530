package vmm

import (
	"bytes"
	"testing"
)

// A machine that arrives is in the list of the host that it comes to, and its guest still runs on the other one. An
// operator's command that started it would make two of it; one that deleted it would free memory that is being filled.
func TestNoOperatorsCommandTouchesAMachineThatArrives(t *testing.T) {
	a, b := newRig(printer), newRig(printer)
	from := a.vm(t, 2)
	if err := from.Start(); err != nil {
		t.Fatal(err)
	}
	if err := from.Pause(); err != nil {
		t.Fatal(err)
	}
	var saved bytes.Buffer
	if err := from.SaveState(&saved); err != nil {
		t.Fatal(err)
	}
	home := NewRegistry(b.Host)
	vm, err := home.Receive("test", from.Spec())
	if err != nil {
		t.Fatal(err)
	}
	page := make([]byte, pageSize)
	commands := map[string]func() error{
		"start": vm.Start, "pause": vm.Pause, "resume": vm.Resume, "reset": vm.Reset, "delete": func() error { return home.Delete("test") },
		"stop": func() error { return vm.Stop(gone) }, "migrate": func() error { return vm.BeginTracking(1) },
	}
	try := func(when string) {
		t.Helper()
		for name, f := range commands {
			if err := f(); err == nil {
				t.Fatalf("%s: vm %s was carried out on a machine that arrives", when, name)
			}
			if err := vm.WritePages(0, page); err != nil {
				t.Fatalf("%s: after vm %s its memory can not be filled: %v", when, name, err)
			}
		}
	}
	try("memory comes")
	if vm.StartLoaded() == nil {
		t.Fatal("started without the guest's state")
	}
	if err := vm.LoadState(&saved); err != nil {
		t.Fatal(err)
	}
	try("prepared")
	if err := vm.StartLoaded(); err != nil || vm.Status() != Running {
		t.Fatal(err, vm.Status())
	}
	home.Close()
	from.Stop(gone)
	from.Delete()
	a.leaks(t)
	b.leaks(t)
}
