package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

type mode string

const (
	modeWorkload mode = "workload"
	modeShell    mode = "shell"
	modePowerOff mode = "poweroff"
	modeReboot   mode = "reboot"
	modePanic    mode = "panic"
)

type options struct {
	mode   mode
	mem    uint64 // bytes to work on; 0: half of what is free
	rate   int    // pages written each second; 0: no limit
	report time.Duration
}

// parseOptions reads the kernel's command line. What it cannot use is named and leaves the default.
func parseOptions(cmdline string) (o options, complaints []string) {
	o = options{mode: modeWorkload, rate: 2000, report: time.Second}
	for _, word := range strings.Fields(cmdline) {
		key, value, _ := strings.Cut(word, "=")
		var err error
		switch key {
		case "guest":
			switch m := mode(value); m {
			case modeWorkload, modeShell, modePowerOff, modeReboot, modePanic:
				o.mode = m
			default:
				err = fmt.Errorf("is none of %s %s %s %s %s", modeWorkload, modeShell, modePowerOff, modeReboot, modePanic)
			}
		case "guest.mem":
			err = set(&o.mem, value, parseSize)
		case "guest.rate":
			err = set(&o.rate, value, parseCount)
		case "guest.report":
			err = set(&o.report, value, parseInterval)
		default:
			if strings.HasPrefix(key, "guest.") {
				err = fmt.Errorf("is not known")
			}
		}
		if err != nil {
			complaints = append(complaints, fmt.Sprintf("%q: %v", word, err))
		}
	}
	return o, complaints
}

func set[T any](to *T, value string, parse func(string) (T, error)) error {
	v, err := parse(value)
	if err == nil {
		*to = v
	}
	return err
}

func parseSize(s string) (uint64, error) {
	shift := 0
	switch {
	case strings.HasSuffix(s, "K"):
		shift = 10
	case strings.HasSuffix(s, "M"):
		shift = 20
	case strings.HasSuffix(s, "G"):
		shift = 30
	}
	if shift != 0 {
		s = s[:len(s)-1]
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n == 0 || n > 1<<40>>shift {
		return 0, fmt.Errorf("is no size: want a number with K, M or G")
	}
	return n << shift, nil
}

func parseCount(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return 0, fmt.Errorf("is no count")
	}
	return int(n), nil
}

func parseInterval(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 10*time.Millisecond || d > time.Hour {
		return 0, fmt.Errorf("is no time between 10ms and 1h")
	}
	return d, nil
}
