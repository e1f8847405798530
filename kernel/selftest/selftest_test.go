package selftest

import (
	"strings"
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

func TestARoundThatNeverEndsIsReported(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	defer func(p []part) { parts = p }(parts)
	parts = append(parts, part{name: "hangs", single: true, start: func(int, *shared) func() string {
		return func() string { <-release; return "" }
	}})
	r, err := Run(Options{Duration: time.Millisecond, Only: "hangs,random", Patience: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if r.OK() || !strings.Contains(r.String(), "hangs") || !strings.Contains(r.String(), "1 STILL IN A ROUND") {
		t.Fatal(r)
	}
}
