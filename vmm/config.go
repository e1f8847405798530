package vmm

import (
	"fmt"
	"strings"
	"unicode"

	"godwit/vmm/loader"
)

// A Config says what a machine is. It is stored and sent as JSON.
type Config struct {
	Name        string   `json:"name"`
	Memory      uint64   `json:"memory"` // bytes
	CPUs        int      `json:"cpus"`
	Model       string   `json:"cpu,omitempty"`
	Kernel      string   `json:"kernel"` // where it came from, for people
	Initrd      string   `json:"initrd,omitempty"`
	Modules     []string `json:"modules,omitempty"`
	CommandLine string   `json:"cmdline,omitempty"`
	OnCrash     string   `json:"on_crash,omitempty"` // "stop" (the default) or "reset"
}

// Files are the contents behind a Config's names.
type Files struct {
	Kernel  []byte
	Initrd  []byte
	Modules []loader.Module
}

// Limits of a machine.
const (
	MaxCPUs   = 64
	MinMemory = 8 << 20
	MaxMemory = 1 << 40
	maxName   = 40
)

// Check tells what is wrong with c and what would be right.
func (c *Config) Check() error {
	if err := CheckName(c.Name); err != nil {
		return err
	}
	bad := func(format string, a ...any) error {
		return fmt.Errorf("vm %s: "+format, append([]any{c.Name}, a...)...)
	}
	switch {
	case c.Memory < MinMemory || c.Memory > MaxMemory:
		return bad("memory is %s; %d MiB to %d GiB are possible, as in mem=512M", sizeText(c.Memory), MinMemory>>20, MaxMemory>>30)
	case c.Memory%chunkSize != 0:
		return bad("memory is %d bytes, which is not a multiple of 2 MiB", c.Memory)
	case c.CPUs < 1 || c.CPUs > MaxCPUs:
		return bad("cpus is %d; 1 to %d are possible", c.CPUs, MaxCPUs)
	case c.Kernel == "":
		return bad("kernel is missing: kernel=module:NAME or an address to fetch it from")
	case len(c.CommandLine) > 32<<10 || strings.IndexByte(c.CommandLine, 0) >= 0:
		return bad("cmdline is longer than 32 KiB or holds a zero byte")
	case len(c.Modules) > 64:
		return bad("%d modules; at most 64 are possible", len(c.Modules))
	case c.OnCrash != "" && c.OnCrash != "stop" && c.OnCrash != "reset":
		return bad("on_crash is %q; it is stop or reset", c.OnCrash)
	}
	for _, s := range append([]string{c.Kernel, c.Initrd, c.Model, c.CommandLine}, c.Modules...) {
		// It is shown, and it may come from another host.
		if strings.ContainsFunc(s, unicode.IsControl) {
			return bad("%q holds a control character", s)
		}
	}
	for _, s := range append([]string{c.Kernel, c.Initrd, c.Model}, c.Modules...) {
		if len(s) > 1024 {
			return bad("a file's name or the CPU model's is longer than 1024 bytes")
		}
	}
	return nil
}

// sizeText is n in the largest unit that holds it without a rest.
func sizeText(n uint64) string {
	units := []string{"bytes", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for ; i < len(units)-1 && n != 0 && n%1024 == 0; i++ {
		n /= 1024
	}
	return fmt.Sprintf("%d %s", n, units[i])
}

// CheckName tells whether a machine can be called name.
func CheckName(name string) error {
	ok := name != "" && len(name) <= maxName
	for i, r := range name {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		ok = ok && (letter || i > 0 && (r == '-' || r == '_' || r == '.'))
	}
	if !ok {
		return fmt.Errorf("vm name %q: a name has 1 to %d letters, digits, dots, dashes and underscores and begins with a letter or digit", name, maxName)
	}
	return nil
}
