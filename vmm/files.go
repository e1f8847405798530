package vmm

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"

	"godwit/vmm/acpi"
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
		if len(f.Initrd) == 0 {
			return f, fmt.Errorf("initrd: %s is empty", c.Initrd)
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

// image is what the loader makes of f in a machine as c says.
func (f *Files) image(c *Config) *loader.Image {
	return &loader.Image{
		Kernel: f.Kernel, Initrd: f.Initrd, Modules: f.Modules,
		CommandLine: c.CommandLine, Map: memoryMap(c.Memory), RSDP: acpi.DefaultBase,
	}
}

// CheckBoot tells what will keep a machine from booting f, while it can still be made otherwise.
func (f *Files) CheckBoot(c *Config) error { return loader.Check(f.image(c)) }

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

const noFilesNext = "make them available here under the same names, or delete the machine and create it again"

var errNoFiles = errors.New("the files it boots from stayed on the host it came from: " + noFilesNext)

// An Opener gets a file by the name that a Config has for it.
type Opener func(ctx context.Context, name string) ([]byte, error)

// open gets the files by open and checks that they are those the machine was made of.
func (vm *VM) open(ctx context.Context, open Opener) (Files, error) {
	if open == nil {
		return Files{}, errNoFiles
	}
	f, err := OpenFiles(&vm.cfg, func(name string) ([]byte, error) { return open(ctx, name) })
	if err != nil {
		return f, fmt.Errorf("the files it boots from stayed on the host it came from: %w; %s", err, noFilesNext)
	}
	names := append([]string{vm.cfg.Kernel, vm.cfg.Initrd}, vm.cfg.Modules...)
	for i, s := range f.sums() {
		if vm.sums[i] != s {
			return f, fmt.Errorf("%s is another file here than where the machine was created: %s", names[i], noFilesNext)
		}
	}
	return f, nil
}

// FetchFiles makes sure that the files are here. Other commands are served meanwhile.
func (vm *VM) FetchFiles(ctx context.Context, open Opener) error {
	vm.ctl.Lock()
	err, have := vm.busy(), vm.files.Kernel != nil
	vm.ctl.Unlock()
	if err != nil || have {
		return err
	}
	f, err := vm.open(ctx, open)
	if err != nil {
		return fmt.Errorf("vm %s: %w", vm.cfg.Name, err)
	}
	vm.ctl.Lock()
	defer vm.ctl.Unlock()
	if vm.files.Kernel == nil {
		vm.files = f
	}
	return nil
}

// A fetch of the files of a guest that reset itself.
type fetch struct{ cancel context.CancelFunc }

// fetchAndBoot gets the files without holding anybody up. ctl is held.
func (vm *VM) fetchAndBoot() {
	if vm.become(Booting) != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := &fetch{cancel}
	vm.fetch = f
	go func() {
		files, err := vm.open(ctx, vm.host.File)
		cancel()
		vm.ctl.Lock()
		defer vm.ctl.Unlock()
		if vm.fetch != f {
			return // called off
		}
		vm.fetch = nil
		if err != nil {
			vm.become(Crashed)
			vm.event("it can not boot: %v", err)
			return
		}
		vm.files = files
		vm.reboot()
	}()
}

// dontFetch calls that off. ctl is held.
func (vm *VM) dontFetch() {
	vm.fetch.cancel()
	vm.fetch = nil
}

func (vm *VM) fetches(verb string) error {
	return vm.wrong(verb, "it fetches the files it boots from; `vm stop "+vm.cfg.Name+"` ends that")
}
