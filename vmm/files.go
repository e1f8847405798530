package vmm

import (
	"fmt"
	"hash/crc32"
	"strings"

	"godwit/vmm/loader"
)

// A machine that moves leaves behind the files it was booted from: they may be
// many times what is worth sending, and its next host mostly has them too. It
// brings what identifies them, and should its guest ever reset itself, they are
// looked for under the same names.

// OpenFiles gets the files that c names: "module:NAME", an address, or for a
// module, either followed by a comma and its arguments.
func OpenFiles(c *Config, open func(name string) ([]byte, error)) (f Files, err error) {
	if f.Kernel, err = open(c.Kernel); err != nil {
		return f, fmt.Errorf("kernel: %w", err)
	}
	if c.Initrd != "" {
		if f.Initrd, err = open(c.Initrd); err != nil {
			return f, fmt.Errorf("initrd: %w", err)
		}
	}
	for _, m := range c.Modules {
		name, args, _ := strings.Cut(m, ",")
		data, err := open(name)
		if err != nil {
			return f, fmt.Errorf("module: %w", err)
		}
		f.Modules = append(f.Modules, loader.Module{Name: strings.TrimSpace(strings.TrimPrefix(name, "module:") + " " + args), Data: data})
	}
	return f, nil
}

// fileSum tells whether two files are the same, as far as accidents go.
type fileSum struct {
	Size uint64 `json:"size"`
	CRC  uint32 `json:"crc32c"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (f *Files) sums() []fileSum {
	s := []fileSum{sumOf(f.Kernel), sumOf(f.Initrd)}
	for _, m := range f.Modules {
		s = append(s, sumOf(m.Data))
	}
	return s
}

func sumOf(b []byte) fileSum {
	return fileSum{uint64(len(b)), crc32.Checksum(b, castagnoli)}
}

// haveFiles makes sure that the files are here.
func (vm *VM) haveFiles() error {
	if vm.files.Kernel != nil {
		return nil
	}
	const next = "delete the machine and create it again"
	if vm.host.File == nil {
		return fmt.Errorf("the files it boots from stayed on the host it came from: %s", next)
	}
	f, err := OpenFiles(&vm.cfg, vm.host.File)
	if err != nil {
		return fmt.Errorf("the files it boots from stayed on the host it came from: %w; %s", err, next)
	}
	have := f.sums()
	names := append([]string{vm.cfg.Kernel, vm.cfg.Initrd}, vm.cfg.Modules...)
	for i, s := range vm.sums {
		if have[i] != s {
			return fmt.Errorf("%s is another file here than where the machine was created: %s", names[i], next)
		}
	}
	vm.files = f
	return nil
}
