package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"godwit/cmd/internal/shell"
	"godwit/vmm"
	"godwit/vmm/cpuid"
)

func (h *host) vmCommands() []*shell.Command {
	return []*shell.Command{
		{Name: "vm create", Args: "NAME kernel=FILE [initrd=FILE] [mem=SIZE] [cpus=N] [cmdline=TEXT] [module=FILE[,TEXT]] [cpu=MODEL] [on_crash=stop|reset]",
			Summary: "make a machine; it does not run yet",
			Detail: "FILE is module:NAME (a boot module), http://HOST/PATH or tftp://HOST/PATH.\n" +
				"mem defaults to 512M, cpus to 1, cpu to the model that both vendors satisfy (`vm models` lists them; +spec behind a " +
				"model, and cpu=native, give the guest what it needs against speculation among its own programs).\n" +
				"kernel is a Linux bzImage, a PVH ELF or a Multiboot1 ELF; module= is for the last.\n" +
				"on_crash=reset resets a guest that crashes: at once, and if it goes on crashing after pauses of 1, 2, 4 ... up to " +
				"300 seconds, until it has run for ten minutes.",
			Example: `vm create web kernel=module:vmlinuz initrd=module:initramfs mem=512M cpus=2 cmdline="console=ttyS0"`, Run: h.cmdVMCreate,
			Complete: h.completeCreate},
		{Name: "vm start", Args: "NAME", Summary: "start a machine, or let a paused one go on", Example: "vm start web", Run: h.onVM(func(c *shell.Call, vm *vmm.VM) error {
			if vm.Status() == vmm.Stopped {
				if err := h.fetchFiles(c, vm); err != nil {
					return err
				}
			}
			return vm.Start()
		}), Complete: h.completeVM},
		{Name: "vm stop", Args: "NAME [force] [wait=SECONDS]", Summary: "press a machine's power button and wait; then, or with force, switch it off",
			Detail: "wait defaults to 30 seconds. ^C ends the waiting and leaves the machine as it is.", Example: "vm stop web", Run: h.cmdVMStop, Complete: h.completeVMThen("force", "wait=")},
		{Name: "vm pause", Args: "NAME", Summary: "stop time for a machine", Example: "vm pause web", Run: h.onVM(func(c *shell.Call, vm *vmm.VM) error { return vm.Pause() }), Complete: h.completeVM},
		{Name: "vm reset", Args: "NAME", Summary: "press a machine's reset button", Example: "vm reset web", Run: h.onVM(func(c *shell.Call, vm *vmm.VM) error {
			if s := vm.Status(); s == vmm.Running || s == vmm.Paused || s == vmm.Crashed {
				if err := h.fetchFiles(c, vm); err != nil {
					return err
				}
			}
			return vm.Reset()
		}), Complete: h.completeVM},
		{Name: "vm nmi", Args: "NAME", Summary: "send a machine a non-maskable interrupt, so that a guest that hangs says where", Example: "vm nmi web", Run: h.onVM(func(c *shell.Call, vm *vmm.VM) error {
			if s := vm.Status(); s != vmm.Running {
				return fmt.Errorf("vm %s is %v: only a running machine gets it", vm.Name(), s)
			}
			vm.NMI()
			return nil
		}), Complete: h.completeVM},
		{Name: "vm delete", Args: "NAME", Summary: "end a machine that does not run and free its memory", Example: "vm delete web", Run: h.cmdVMDelete, Complete: h.completeVM},
		h.modelsCommand(),
		{Name: "vm list", Summary: "list the machines", Example: "vm list", Shows: true, Run: h.cmdVMList},
		{Name: "vm show", Args: "NAME", Summary: "show a machine: configuration, exits, events", Example: "vm show web", Shows: true, Run: h.cmdVMShow, Complete: h.completeVM},
		{Name: "vm console", Args: "NAME [log]", Summary: "watch a machine's serial console and type on it; ^] returns here",
			Detail: "It begins with what the guest has printed so far (the last MiB). With log it prints that and returns.\n" +
				"Keys that come from a pipe or a file are typed as well; where they end it goes on watching: a ^] among them returns.", Example: "vm console web", Run: h.cmdVMConsole, Complete: h.completeVMThen("log")},
	}
}

// fetchFiles gets what a machine that came from another host boots from: the operator sees how far it is, and ^C ends it.
func (h *host) fetchFiles(c *shell.Call, vm *vmm.VM) error {
	return vm.FetchFiles(c.Ctx, func(_ context.Context, name string) ([]byte, error) { return h.open(c, name) })
}

// vm finds the machine that a command's first argument names.
func (h *host) vm(c *shell.Call) (*vmm.VM, error) {
	r, err := h.machines()
	if err != nil {
		return nil, err
	}
	if len(c.Args) == 0 {
		return nil, shell.Usagef("the machine's name is missing")
	}
	return r.Get(c.Args[0])
}

// onlyVM finds the machine that a command's only argument names.
func (h *host) onlyVM(c *shell.Call) (*vmm.VM, error) {
	if len(c.Args) > 1 {
		return nil, shell.Usagef("only a name is wanted, not also %q", c.Args[1])
	}
	return h.vm(c)
}

// onVM is a command with a machine's name as its only argument.
func (h *host) onVM(f func(*shell.Call, *vmm.VM) error) func(*shell.Call) error {
	return func(c *shell.Call) error {
		vm, err := h.onlyVM(c)
		if err != nil {
			return err
		}
		if err := f(c, vm); err != nil {
			return err
		}
		c.Printf("vm %s: %v\n", vm.Name(), vm.Status())
		return nil
	}
}

func (h *host) completeVM(args []string, word string) []string {
	if len(args) != 0 || h.vms == nil {
		return nil
	}
	var names []string
	for _, vm := range h.vms.List() {
		names = append(names, vm.Name())
	}
	return names
}

// completeVMThen offers a machine's name, and words once it is there.
func (h *host) completeVMThen(words ...string) func(args []string, word string) []string {
	return func(args []string, word string) []string {
		if len(args) == 0 {
			return h.completeVM(args, word)
		}
		return words
	}
}

func (h *host) completeCreate(args []string, word string) []string {
	if len(args) == 0 {
		return nil
	}
	k, _, inValue := strings.Cut(word, "=")
	if !inValue {
		var opts []string
		for _, o := range []string{"kernel=", "initrd=", "mem=", "cpus=", "cmdline=", "module=", "cpu=", "on_crash="} {
			if o == "module=" || !slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, o) }) {
				opts = append(opts, o)
			}
		}
		return opts
	}
	var values []string
	switch k {
	case "kernel", "initrd", "module":
		for _, m := range moduleList() {
			values = append(values, "module:"+m)
		}
		values = append(values, "http://", "tftp://")
	case "cpu":
		for _, m := range cpuid.Models() {
			values = append(values, m.Name)
		}
		values = append(values, cpuid.Host, cpuid.Native)
	case "on_crash":
		values = []string{"stop", "reset"}
	}
	for i, v := range values {
		values[i] = k + "=" + v
	}
	return values
}

func (h *host) cmdVMCreate(c *shell.Call) error {
	r, err := h.machines()
	if err != nil {
		return err
	}
	cfg := vmm.Config{Memory: 512 << 20, CPUs: 1}
	var modules []string
	seen := map[string]bool{}
	for i, a := range c.Args {
		k, v, ok := strings.Cut(a, "=")
		if !ok {
			if i != 0 {
				return shell.Usagef("%q: only the name stands without a =", a)
			}
			cfg.Name = a
			continue
		}
		if seen[k] && k != "module" {
			return shell.Usagef("%s= is given twice", k)
		}
		seen[k] = true
		switch k {
		case "kernel":
			cfg.Kernel = v
		case "initrd":
			cfg.Initrd = v
		case "module":
			modules = append(modules, v)
		case "mem":
			if cfg.Memory, err = shell.ParseBytes(v); err != nil {
				return shell.Usagef("mem: %v", err)
			}
		case "cpus":
			if cfg.CPUs, err = strconv.Atoi(v); err != nil {
				return shell.Usagef("cpus: %q is no number", v)
			}
		case "cmdline":
			cfg.CommandLine = v
		case "cpu":
			cfg.Model = v
		case "on_crash":
			cfg.OnCrash = v
		default:
			return shell.Usagef("unknown option %q", k)
		}
	}
	if cfg.Name == "" {
		return shell.Usagef("the machine's name is missing")
	}
	cfg.Modules = modules
	if err := cfg.Check(); err != nil {
		return shell.Usagef("%v", err)
	}
	if _, err := r.Get(cfg.Name); err == nil {
		return fmt.Errorf("vm %s exists already: `vm delete %s`, or use another name", cfg.Name, cfg.Name)
	}
	files, err := vmm.OpenFiles(&cfg, func(name string) ([]byte, error) { return h.open(c, name) })
	if err != nil {
		return fmt.Errorf("vm %s: %w", cfg.Name, err)
	}
	if err := files.CheckBoot(&cfg); err != nil { // now, not when it is started
		return fmt.Errorf("vm %s: kernel=%s: %w", cfg.Name, cfg.Kernel, err)
	}
	vm, err := r.Create(cfg, files)
	if err != nil {
		return err
	}
	c.Printf("vm %s: %v; `vm start %s` starts it\n", vm.Name(), vm.Status(), vm.Name())
	return nil
}

func (h *host) cmdVMStop(c *shell.Call) error {
	wait := 30 * time.Second
	for i, a := range c.Args {
		if i == 0 {
			continue
		}
		if a == "force" {
			wait = 0
		} else if s, ok := strings.CutPrefix(a, "wait="); ok {
			n, err := strconv.Atoi(s)
			if err != nil || n < 0 || n > 86400 {
				return shell.Usagef("%q is no number of seconds from 0 to 86400", s)
			}
			wait = time.Duration(n) * time.Second
		} else {
			return shell.Usagef("%q is neither force nor wait=SECONDS", a)
		}
	}
	vm, err := h.vm(c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Ctx, wait)
	defer cancel()
	if wait > 0 && vm.Status() == vmm.Running {
		c.Printf("vm %s: waiting up to %v for the guest to power off\n", vm.Name(), wait)
	}
	ran := vm.Status() == vmm.Running
	if err := vm.Stop(ctx); err != nil {
		return err
	}
	if ran && wait > 0 && ctx.Err() != nil {
		c.Printf("vm %s: the guest did not power off within %v and was switched off\n", vm.Name(), wait)
	}
	c.Printf("vm %s: %v\n", vm.Name(), vm.Status())
	return nil
}

func (h *host) cmdVMDelete(c *shell.Call) error {
	vm, err := h.onlyVM(c)
	if err != nil {
		return err
	}
	if err := h.vms.Delete(vm.Name()); err != nil {
		return err
	}
	c.Printf("vm %s: deleted\n", vm.Name())
	return nil
}

type vmList []vmm.Info

func (l vmList) Text(w io.Writer) {
	if len(l) == 0 {
		fmt.Fprintln(w, "no machine yet; `help vm create` tells how to make one")
		return
	}
	t := shell.Table{Head: []string{"NAME", "STATUS", "CPUS", "MEMORY", "UP", "KERNEL"}}
	for _, i := range l {
		t.Row(i.Config.Name, i.StatusText(), i.Config.CPUs, shell.Bytes(i.Config.Memory), up(i), i.Config.Kernel)
	}
	t.Text(w)
}

// up is how long the guest has run since it booted.
func up(i vmm.Info) string {
	if i.Uptime == 0 {
		return "-"
	}
	return seconds(i.Uptime).String()
}

func seconds(s float64) time.Duration {
	return time.Duration(s * float64(time.Second)).Round(time.Second / 10)
}

func (h *host) cmdVMList(c *shell.Call) error {
	r, err := h.machines()
	if err != nil {
		return err
	}
	l := vmList{}
	for _, vm := range r.List() {
		l = append(l, vm.Info())
	}
	return c.Show(l)
}

type vmInfo struct{ vmm.Info }

func (h *host) cmdVMShow(c *shell.Call) error {
	vm, err := h.onlyVM(c)
	if err != nil {
		return err
	}
	return c.Show(vmInfo{vm.Info()})
}

func (i vmInfo) Text(w io.Writer) {
	t := shell.Table{}
	t.Row("name", i.Config.Name)
	t.Row("status", i.StatusText())
	t.Row("up", up(i.Info))
	t.Row("memory", shell.Bytes(i.Config.Memory))
	t.Row("CPU model", i.Config.Model)
	t.Row("TSC", i.TSC)
	t.Row("kernel", i.Config.Kernel)
	if i.Config.Initrd != "" {
		t.Row("initrd", i.Config.Initrd)
	}
	t.Row("command line", i.Config.CommandLine)
	t.Row("console", fmt.Sprintf("%d bytes written", i.Console))
	if i.Ports+i.MMIO > 0 {
		t.Row("unanswered", fmt.Sprintf("%d port accesses, %d memory accesses", i.Ports, i.MMIO))
	}
	t.Text(w)
	for n, cpu := range i.CPUs {
		fmt.Fprintf(w, "CPU %d: %d entries, %d events injected, %d instructions emulated, halted %v\n", n, cpu.Entries, cpu.Injected, cpu.Emulated, seconds(cpu.Halted))
		names := make([]string, 0, len(cpu.Exits))
		for r := range cpu.Exits {
			names = append(names, r)
		}
		sort.Slice(names, func(a, b int) bool { return cpu.Exits[names[a]] > cpu.Exits[names[b]] })
		for _, r := range names {
			fmt.Fprintf(w, "  %12d  %s\n", cpu.Exits[r], r)
		}
	}
	for _, e := range i.Events {
		fmt.Fprintf(w, "%s  %s\n", e.Time.UTC().Format(time.RFC3339), e.Text)
	}
}

// escape is the key that leaves a guest's console: ^].
const escape = 0x1d

func (h *host) cmdVMConsole(c *shell.Call) error {
	if len(c.Args) > 2 || len(c.Args) == 2 && c.Args[1] != "log" {
		return shell.Usagef("a name, or a name and the word log, is wanted")
	}
	vm, err := h.vm(c)
	if err != nil {
		return err
	}
	buf := make([]byte, 16<<10)
	if len(c.Args) == 2 {
		var old replay
		for pos := int64(0); ; {
			n, next := vm.ReadConsole(buf, pos)
			if n == 0 {
				return nil
			}
			if _, err := c.Out.Write(old.show(buf[:n])); err != nil {
				return err
			}
			pos = next
		}
	}
	if c.Input == nil || c.Raw == nil {
		return fmt.Errorf("there is no keyboard here; `vm console %s log` prints what the guest has written", vm.Name())
	}
	fmt.Fprintf(c.Out, "console of %s; ^] returns to the host\n", vm.Name())
	c.Raw(true)
	defer c.Raw(false)
	ctx, cancel := context.WithCancel(c.Ctx)
	defer cancel()
	// A read of the keyboard can not be interrupted, so whoever reads it decides
	// when this ends; the guest's end is only shown.
	shown := make(chan struct{})
	go func() {
		defer close(shown)
		if showConsole(ctx, c.Out, vm, buf) != nil {
			cancel()
		}
	}()
	key := make([]byte, 256)
	for ctx.Err() == nil {
		n, err := c.Input.Read(key)
		if i := bytes.IndexByte(key[:n], escape); i >= 0 {
			if in, ok := c.Input.(interface{ Unread([]byte) }); ok {
				in.Unread(key[i+1 : n]) // that was typed for the host
			}
			n, err = i, errEscape
		}
		for in := key[:n]; len(in) > 0 && ctx.Err() == nil; {
			m := vm.Input(in)
			in = in[m:]
			if len(in) > 0 && m == 0 {
				select {
				case <-vm.Room():
				case <-ctx.Done():
				case <-time.After(time.Second):
					in = nil // a guest that does not read its keyboard loses keys, as on a real line
				}
			}
		}
		if err != nil {
			break
		}
	}
	cancel()
	<-shown
	c.Raw(false)
	fmt.Fprintf(c.Out, "\nback on the host; vm %s is %s\n", vm.Name(), vm.Info().StatusText())
	return nil
}

// showConsole shows what the guest prints, and in brackets what becomes of the machine, until ctx ends.
func showConsole(ctx context.Context, out io.Writer, vm *vmm.VM, buf []byte) error {
	was, did, began := vm.Status(), vmm.Well, vm.Info().Console
	var old replay
	for pos := int64(0); ctx.Err() == nil; {
		look, cancel := context.WithTimeout(ctx, lookAgain)
		n, next, err := vm.FollowConsole(look, buf, pos)
		cancel()
		if n > 0 {
			text := buf[:n]
			if at := next - int64(n); at <= began { // what was printed before, and perhaps the first of what is printed now
				before := min(int64(n), began-at)
				text = old.show(text[:before])
				if at+before == began {
					text = slices.Concat(text, old.rest(), buf[before:n])
				}
			}
			if _, err := out.Write(text); err != nil {
				return err
			}
		}
		if err == nil {
			pos = next
			continue
		}
		is, does := vm.Status(), vm.Health()
		if does == "" {
			does = vmm.Well
		}
		what := ""
		switch {
		case is == was && does != did:
			what = healthNews[does]
		case is == was:
		case is == vmm.Deleted:
			what = "has left this host, or was deleted; ^] returns to the host"
		default:
			what = "is " + is.String()
		}
		was, did = is, does
		if what != "" {
			if _, err := fmt.Fprintf(out, "\r\n[%s %s]\r\n", vm.Name(), what); err != nil {
				return err
			}
		}
	}
	return nil
}

var healthNews = map[vmm.Health]string{
	vmm.Well:     "goes on",
	vmm.Hangs:    "hangs; ^] returns to the host, where vm nmi makes many guests say where, and vm reset ends it",
	vmm.Panicked: "runs a kernel that panicked; ^] returns to the host, where vm reset ends it",
	vmm.Halted:   "has halted for good; ^] returns to the host, where vm reset starts it again",
}

// lookAgain is how often a console without output looks at its machine.
const lookAgain = 300 * time.Millisecond

var errEscape = errors.New("escape")
