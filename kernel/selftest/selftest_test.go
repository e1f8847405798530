package selftest

import (
	"testing"
	"time"
)

// Everything that needs no privilege must be right on Linux, or a failure on the
// bare machine would say nothing.
func TestEveryPartIsRightOnLinux(t *testing.T) {
	r, err := Run(Options{Duration: 1500 * time.Millisecond, Workers: 2})
	if err != nil {
		t.Fatal(err)
	}
	if !r.OK() {
		t.Fatal(r)
	}
}

func TestUnknownPartIsNamed(t *testing.T) {
	if _, err := Run(Options{Duration: time.Millisecond, Only: "crypto,bogus"}); err == nil {
		t.Fatal("no error")
	}
}

func TestWrongResultsAreReported(t *testing.T) {
	r := Report{Results: []Result{{Name: "x", Ops: 5, Bad: 1, First: "why"}}}
	if r.OK() {
		t.Fatal("a report with a wrong round is ok")
	}
	r.Results[0].Bad = 0
	if !r.OK() {
		t.Fatal("a report without wrong rounds is not ok")
	}
	r.Leaked = 4096
	if r.OK() {
		t.Fatal("a report with a leak is ok")
	}
}

func TestChangedRegistersAreSeen(t *testing.T) {
	if bad := holdRegisters(1, 1000); bad != 0 {
		t.Fatalf("mask %#x without any change", bad)
	}
}
