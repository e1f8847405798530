package vdisk

import (
	"fmt"
	"os"
	"runtime/debug"
	"sync/atomic"
	"testing"
)

// crashStates counts those that the enumerations visited.
var crashStates atomic.Int64

// The tests make a great deal of short-lived memory, and hold little.
func TestMain(m *testing.M) {
	debug.SetGCPercent(400)
	code := m.Run()
	if n := crashStates.Load(); n > 0 && testing.Verbose() {
		fmt.Printf("%d crash states enumerated\n", n)
	}
	os.Exit(code)
}
