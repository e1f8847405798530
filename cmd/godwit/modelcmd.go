package main

import (
	"fmt"
	"io"
	"strings"

	"godwit/cmd/internal/shell"
	"godwit/vmm/cpuid"
)

// modelsCommand tells what cpu= may be on this host.
func (h *host) modelsCommand() *shell.Command {
	return &shell.Command{Name: "vm models", Summary: "list the CPU models that a machine can have, and whether this host has what they promise",
		Detail:  "They are what cpu= of vm create takes. A machine moves only to hosts that have all that its model promises.",
		Example: "vm models", Shows: true, Run: h.cmdVMModels}
}

type modelList struct {
	Models  []modelInfo `json:"models"`
	Options string      `json:"options"` // what may stand behind a model's name and a plus
}

type modelInfo struct {
	Name     string   `json:"name"`
	Default  bool     `json:"default"`
	Problem  string   `json:"problem,omitempty"`  // why this host can not have it
	Features []string `json:"features,omitempty"` // where it can
	meaning  string
}

func (h *host) cmdVMModels(c *shell.Call) error {
	r, err := h.machines()
	if err != nil {
		return err
	}
	all := &modelList{Options: cpuid.OptionNames()}
	add := func(name, meaning string) {
		m := modelInfo{Name: name, Default: name == cpuid.Default, meaning: meaning}
		if found, err := r.Host().CPU.Find(name); err != nil {
			m.Problem = strings.TrimPrefix(err.Error(), "cpuid: ")
		} else {
			m.Features = found.Features()
		}
		all.Models = append(all.Models, m)
	}
	for _, m := range cpuid.Models() {
		meaning := "a promise that hosts of both vendors can keep"
		if m.Name == cpuid.Default {
			meaning += "; the default"
		}
		add(m.Name, meaning)
	}
	add(cpuid.Host, "all that this host's processor has")
	add(cpuid.Native, "that, by its own name: the guest's kernel then does what it needs")
	return c.Show(all)
}

func (l *modelList) Text(w io.Writer) {
	t := shell.Table{}
	for _, m := range l.Models {
		t.Row(m.Name, m.meaning)
		if m.Problem != "" {
			t.Row("", "not here: "+m.Problem)
		}
	}
	t.Text(w)
	for _, line := range shell.Wrap("Behind a model's name, as in "+cpuid.Default+"+spec, stand controls against speculation: "+l.Options+".", 79) {
		fmt.Fprintln(w, line)
	}
}
