package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"godwit/cmd/internal/config"
	"godwit/cmd/internal/shell"
	"godwit/kernel"
	"godwit/vmm"
	"godwit/vmm/vcpu/x86"
)

func (h *host) hostCommands() []*shell.Command {
	return []*shell.Command{
		{Name: "host", Summary: "show this host: processors, memory, virtualization, boot modules", Example: "host -json",
			Detail: "open and closed tell what is done against each of the processor's side channels.", Shows: true, Run: h.cmdHost},
		{Name: "log", Args: "[LINES]", Summary: "show the last lines of the host's log (default: 100)", Example: "log 20", Shows: true, Run: h.cmdLog},
		{Name: "options", Summary: "list the options of the boot command line and the config module", Example: "options", Shows: true, Run: func(c *shell.Call) error {
			return c.Show(config.Help())
		}},
		{Name: "reboot", Args: "[halt|poweroff] [force]", Summary: "reboot, halt or power off this host", Example: "reboot poweroff",
			Detail: "Refused while machines run or are being moved here, unless the word force is added: all that is in the host's " +
				"memory is lost, the machines and their definitions too.", Run: h.cmdReboot,
			Complete: func([]string, string) []string { return []string{"halt", "poweroff", "force"} }},
	}
}

type hostInfo struct {
	Name        string        `json:"name"`
	UpSeconds   float64       `json:"up_seconds"`
	ReadyMillis float64       `json:"ready_ms"`
	CPUs        int           `json:"cpus"`
	CPUModel    string        `json:"cpu_model"`
	TSCHz       uint64        `json:"tsc_hz"`
	Memory      hostMemory    `json:"memory"`
	Modules     []moduleInfo  `json:"modules"`
	Virt        hostVirt      `json:"virtualization"`
	Go          string        `json:"go"`
	Config      config.Config `json:"config"`
}

type hostMemory struct {
	TotalBytes  uint64 `json:"total_bytes"`
	FreeBytes   uint64 `json:"free_bytes"`
	KernelBytes uint64 `json:"kernel_bytes"`
	GoHeapBytes uint64 `json:"go_heap_bytes"`
}

// hostVirt is what the processor's virtualization offers.
type hostVirt struct {
	Backend     string           `json:"backend,omitempty"` // vmx or svm
	Problem     string           `json:"problem,omitempty"` // why there is none
	Lacks       []string         `json:"lacks"`
	Mitigations []x86.Mitigation `json:"mitigations"`
}

type moduleInfo struct {
	Name  string `json:"name"`
	Bytes int    `json:"bytes"`
}

func (h *host) info() *hostInfo {
	m := kernel.Memory()
	i := &hostInfo{
		Name: h.cfg.Name, UpSeconds: float64(kernel.Nanotime()) / 1e9, ReadyMillis: float64(h.ready.Microseconds()) / 1e3,
		CPUs: kernel.NumCPU(), CPUModel: cpuModel(), TSCHz: kernel.TSCFrequency(), Go: goVersion(), Config: *h.cfg,
		Memory:  hostMemory{m.Total, m.Free, m.Kernel, m.GoHeap},
		Modules: []moduleInfo{}, Virt: hostVirt{Lacks: []string{}, Mitigations: []x86.Mitigation{}},
	}
	if h.backend != nil {
		caps := h.backend.Capabilities()
		i.Virt.Backend, i.Virt.Lacks, i.Virt.Mitigations = h.backend.Name(), append(i.Virt.Lacks, caps.Notes...), append(i.Virt.Mitigations, caps.Mitigations...)
	} else if h.virtErr != nil {
		i.Virt.Problem = h.virtErr.Error()
	}
	for _, m := range kernel.Modules() {
		i.Modules = append(i.Modules, moduleInfo{m.Name, len(m.Data)})
	}
	return i
}

func (i *hostInfo) Text(w io.Writer) {
	t := shell.Table{}
	t.Row("name", i.Name)
	t.Row("up", time.Duration(i.UpSeconds*float64(time.Second)).Round(time.Second))
	t.Row("ready after", fmt.Sprintf("%.1f ms", i.ReadyMillis))
	t.Row("processors", fmt.Sprintf("%d x %s", i.CPUs, i.CPUModel))
	t.Row("TSC", fmt.Sprintf("%.3f MHz", float64(i.TSCHz)/1e6))
	t.Row("memory", fmt.Sprintf("%s, of which free %s, kernel %s, Go heap %s", shell.Bytes(i.Memory.TotalBytes),
		shell.Bytes(i.Memory.FreeBytes), shell.Bytes(i.Memory.KernelBytes), shell.Bytes(i.Memory.GoHeapBytes)))
	t.Row("virtualization", i.Virt.Backend+i.Virt.Problem)
	for _, l := range i.Virt.Lacks {
		t.Row("", l)
	}
	for _, m := range i.Virt.Mitigations {
		word := "open"
		if m.Safe {
			word = "closed"
		}
		t.Row(word, m.Issue+": "+m.Done)
	}
	t.Row("built with", i.Go)
	for _, m := range i.Modules {
		t.Row("boot module", fmt.Sprintf("%s (%s)", m.Name, shell.Bytes(uint64(m.Bytes))))
	}
	t.Text(w)
}

func (h *host) cmdHost(c *shell.Call) error {
	return c.Show(h.info())
}

// cpuModel is the processor's brand string (SDM vol. 2A, CPUID leaves
// 80000002h-80000004h), or its vendor where there is none.
func cpuModel() string {
	var b []byte
	word := func(v uint32) { b = append(b, byte(v), byte(v>>8), byte(v>>16), byte(v>>24)) }
	if top, _, _, _ := kernel.CPUID(0x80000000, 0); top >= 0x80000004 {
		for l := uint32(0x80000002); l <= 0x80000004; l++ {
			x, y, z, w := kernel.CPUID(l, 0)
			word(x)
			word(y)
			word(z)
			word(w)
		}
	} else {
		_, x, y, z := kernel.CPUID(0, 0)
		word(x)
		word(z)
		word(y)
	}
	s := make([]byte, 0, len(b))
	for _, c := range b {
		if c >= ' ' && c < 127 && (c != ' ' || len(s) > 0) {
			s = append(s, c)
		}
	}
	for len(s) > 0 && s[len(s)-1] == ' ' {
		s = s[:len(s)-1]
	}
	return string(s)
}

type logLines []logLine

type logLine struct {
	Seconds float64 `json:"seconds"`
	Text    string  `json:"text"`
}

func (l logLines) Text(w io.Writer) {
	for _, e := range l {
		fmt.Fprintf(w, "%12.6f  %s\n", e.Seconds, e.Text)
	}
}

func (h *host) cmdLog(c *shell.Call) error {
	n := 100
	if len(c.Args) > 1 {
		return shell.Usagef("one number of lines is wanted")
	}
	if len(c.Args) == 1 {
		var err error
		if n, err = strconv.Atoi(c.Args[0]); err != nil || n < 1 {
			return shell.Usagef("%q is no number of lines", c.Args[0])
		}
	}
	entries, _ := kernel.Log(0)
	if len(entries) > n {
		entries = entries[len(entries)-n:]
	}
	lines := make(logLines, 0, len(entries))
	for _, e := range entries {
		lines = append(lines, logLine{float64(e.Time) / 1e9, e.Text})
	}
	return c.Show(lines)
}

func (h *host) cmdReboot(c *shell.Call) error {
	acts := map[string]func(){"halt": kernel.Halt, "poweroff": kernel.PowerOff}
	act, how, force := kernel.Reboot, "", false
	for _, a := range c.Args {
		switch {
		case a == "force" || a == "-force":
			force = true
		case acts[a] == nil:
			return shell.Usagef("%q is none of halt, poweroff, force", a)
		case how != "" && how != a:
			return shell.Usagef("%s or %s, not both", how, a)
		default:
			act, how = acts[a], a
		}
	}
	if err := h.quiet(); err != nil && !force {
		return fmt.Errorf("%w; stop or migrate them, or add the word force", err)
	}
	c.Printf("going down\n")
	time.Sleep(50 * time.Millisecond) // the answer leaves before the machine does
	act()
	return nil
}

// quiet is an error if machines run here, or are just coming.
func (h *host) quiet() error {
	if h.vms == nil {
		return nil
	}
	if h.mover != nil {
		for _, r := range h.mover.List() {
			if r.Incoming && r.Error == "" && r.State != "Started" && r.State != "Aborted" {
				return fmt.Errorf("machine %s is being moved to this host", r.Guest)
			}
		}
	}
	var names []string
	for _, vm := range h.vms.List() {
		if s := vm.Status(); s == vmm.Running || s == vmm.Paused || s == vmm.Booting {
			names = append(names, vm.Name())
		}
	}
	if names == nil {
		return nil
	}
	return fmt.Errorf("machines run here: %s", strings.Join(names, ", "))
}
