package main

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// work is the running workload.
type work struct {
	verdict verdict
	slabs   []*slab
	ticker  *ticker
	rate    tscRate
	signals atomic.Uint64
	stop    atomic.Bool
	workers sync.WaitGroup
}

// workload runs until the console says otherwise. One worker a CPU, pinned there, owns its share of the memory.
func workload(o options) {
	quietConsole()
	if o.mem == 0 {
		o.mem = freeMemory() / 2
	}
	w := &work{}
	var err error
	cpus := runtime.NumCPU()
	for cpu := range cpus {
		s, err := newSlab(o.mem/uint64(cpus), 0x9e3779b97f4a7c15*uint64(cpu+1))
		if err != nil {
			w.verdict.fail(err)
			say("%s", w.line("verdict"))
			return
		}
		w.slabs = append(w.slabs, s)
	}
	if w.ticker, err = startTicker(w.verdict.fail); err != nil {
		w.verdict.fail(err)
	}
	w.rate.begin()
	say("workload mem=%dM cpus=%d rate=%d", o.mem>>20, cpus, o.rate)
	clocks := &clocks{}
	for cpu, s := range w.slabs {
		w.workers.Add(1)
		go func() {
			defer w.workers.Done()
			if err := w.worker(cpu, s, clocks, pace{rate: o.rate / cpus, last: time.Now()}); err != nil {
				w.verdict.fail(fmt.Errorf("cpu %d: %w", cpu, err))
			}
		}()
	}
	go w.signalLoop()
	go watchKernelLog(w.verdict.fail)
	commands := make(chan string)
	go readCommands(commands)
	for every := time.NewTicker(o.report); ; {
		select {
		case <-every.C:
			say("%s", w.line("verdict"))
		case c := <-commands:
			w.command(c)
		}
	}
}

// clocks are read by all workers.
type clocks struct{ monotonic, tsc watermark }

func (w *work) worker(cpu int, s *slab, clocks *clocks, p pace) error {
	runtime.LockOSThread()
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("pin to the CPU: %w", err)
	}
	s.fill()
	digest := sha256.New()
	for round := 0; !w.stop.Load(); round++ {
		n := p.due()
		if n == 0 {
			time.Sleep(time.Millisecond)
			continue
		}
		if err := s.work(n); err != nil {
			return err
		}
		for range 32 {
			if back := clocks.monotonic.observe(monotonic); back != 0 {
				return fmt.Errorf("CLOCK_MONOTONIC went back by %d ns", back)
			}
			if back := clocks.tsc.observe(tsc); back > tscSlack {
				return fmt.Errorf("the TSC went back by %d", back)
			}
		}
		if round%16 == 0 { // vector registers across interrupts and exits
			if err := vectorCheck(digest, s.seeds[0]); err != nil {
				return err
			}
		}
	}
	return nil
}

// signalLoop sends this process a signal and waits for it, again and again.
func (w *work) signalLoop() {
	const patience = time.Minute
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGUSR1)
	for !w.stop.Load() {
		if err := unix.Kill(os.Getpid(), unix.SIGUSR1); err != nil {
			w.verdict.fail(fmt.Errorf("kill: %w", err))
			return
		}
		select {
		case <-c:
			w.signals.Add(1)
		case <-time.After(patience):
			w.verdict.fail(fmt.Errorf("a signal did not come in %v", patience))
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// command obeys one line from the console.
func (w *work) command(line string) {
	switch line {
	case "":
	case "report":
		say("%s", w.line("verdict"))
	case "final":
		w.final()
	case "poweroff":
		stop(unix.LINUX_REBOOT_CMD_POWER_OFF)
	case "reboot":
		stop(unix.LINUX_REBOOT_CMD_RESTART)
	case "shell":
		shell()
	default:
		say("command %q is none of report final poweroff reboot shell", line)
	}
}

// final stops the workers, checks all memory once more and reports its sum.
func (w *work) final() {
	w.stop.Store(true)
	w.workers.Wait()
	var sum uint64
	for cpu, s := range w.slabs {
		v, err := s.sum()
		if err != nil {
			w.verdict.fail(fmt.Errorf("cpu %d: %w", cpu, err))
		}
		sum ^= v
	}
	say("%s sum=%016x", w.line("final"), sum)
}

func readCommands(c chan<- string) {
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		c <- strings.TrimSpace(in.Text())
	}
}

// quietConsole turns the echo off: an echoed command would tear a verdict line.
func quietConsole() {
	t, err := unix.IoctlGetTermios(0, unix.TCGETS)
	if err != nil {
		return // no terminal, no echo
	}
	t.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(0, unix.TCSETS, t); err != nil {
		say("turn the echo off: %v", err)
	}
}
