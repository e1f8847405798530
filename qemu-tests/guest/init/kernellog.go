package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// troubles are what Linux writes when time or a CPU went missing, or worse.
var troubles = []string{
	"soft lockup", "hard LOCKUP", "self-detected stall", "detected stalls", "rcu_sched kthread starved", "rcu_preempt kthread starved",
	"blocked for more than", "Marking clocksource", "clocksource watchdog", "Machine check", "general protection fault",
	"Oops", "BUG:", "WARNING:", "lost timer",
}

// late is what Linux writes when an interrupt handler took long, once. Nothing is lost by it, and a computer that stands
// still for some seconds is reason enough: then it is reported, not judged. What takes far longer Linux's watchdogs tell, too.
const (
	late      = "hrtimer: interrupt took "
	muchTime  = 10 * time.Second
	lateUnits = " ns"
)

// tookTooLong tells whether a line reports a handler that no busy computer explains.
func tookTooLong(text string) bool {
	_, took, ok := strings.Cut(text, late)
	if !ok {
		return false
	}
	ns, err := strconv.ParseInt(strings.TrimSuffix(took, lateUnits), 10, 64)
	return err != nil || time.Duration(ns) >= muchTime
}

// trouble returns the text of a record of /dev/kmsg ("prefix;text") if it reports one.
func trouble(record string) (string, bool) {
	_, text, _ := strings.Cut(record, ";")
	text, _, _ = strings.Cut(text, "\n")
	if tookTooLong(text) {
		return text, true
	}
	for _, t := range troubles {
		if strings.Contains(text, t) {
			return text, true
		}
	}
	return "", false
}

// Before Linux holds its TSC against another clock it reads that clock before and after the TSC. If that took more than 125 us
// in each of a few attempts, it gives the TSC up without having compared (clocksource_watchdog in kernel/time/clocksource.c).
// A computer that lets the emulator wait is reason enough for that, too. That the clocks differ is said in other words.
const (
	notCompared = "read-back delay of "
	givenUp     = "Marking TSC unstable due to clocksource watchdog"
)

// A kernelLog is what is to be remembered of the lines before.
type kernelLog struct{ notCompared bool }

// judge tells whether a record reports a trouble, or something to be remarked.
func (k *kernelLog) judge(record string) (text string, bad, remark bool) {
	_, text, _ = strings.Cut(record, ";")
	text, _, _ = strings.Cut(text, "\n")
	if strings.Contains(text, notCompared) {
		k.notCompared = true
		return text, false, true
	}
	if k.notCompared && strings.Contains(text, givenUp) {
		k.notCompared = false
		return text, false, true
	}
	_, bad = trouble(record)
	return text, bad, strings.Contains(text, late)
}

// watchKernelLog reads the kernel's log from its beginning, for ever.
func watchKernelLog(fail func(error)) {
	f, err := os.Open("/dev/kmsg")
	if err != nil {
		fail(err)
		return
	}
	const details = 6 // lines after a trouble that may explain it
	explain := 0
	var log kernelLog
	buf := make([]byte, 8192) // one read, one record (Documentation/ABI/testing/dev-kmsg)
	for {
		n, err := f.Read(buf)
		switch {
		case errors.Is(err, syscall.EPIPE): // records were overwritten before they were read
			continue
		case err != nil:
			fail(fmt.Errorf("read /dev/kmsg: %w", err))
			return
		}
		text, bad, remark := log.judge(string(buf[:n]))
		switch {
		case bad:
			fail(fmt.Errorf("kernel said: %s", text))
			explain = details
		case explain > 0 || remark:
			say("remark: kernel said: %s", text)
			explain = max(0, explain-1)
		}
	}
}
