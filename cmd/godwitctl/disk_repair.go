package main

import (
	"context"
	"fmt"
	"os"

	"godwit/vdisk"
)

// repair mends an image and says what it did, or with -n what it would do; status 3 if damage is left.
func (c *diskCommand) repair(_ context.Context, names []string) (int, error) {
	name := names[0]
	fixes, err := vdisk.RepairPath(name, vdisk.RepairOptions{DryRun: c.dry})
	if err != nil && c.json { // what was done until then is told as well
		c.show(struct {
			File   string      `json:"file"`
			DryRun bool        `json:"dry_run"`
			Fixes  []vdisk.Fix `json:"fixes"`
			Error  string      `json:"error"`
		}{name, c.dry, append([]vdisk.Fix{}, fixes...), err.Error()}, nil)
		fmt.Fprintf(os.Stderr, "godwitctl: disk repair: %v\n", err)
		return 1, nil
	}
	if err != nil {
		c.showFixes(name, fixes)
		return 1, err
	}
	left := []vdisk.Finding{}
	damage := 0
	if !c.dry {
		if left, err = vdisk.CheckPath(name); err != nil {
			return 1, fmt.Errorf("after the repair: %w", err)
		}
		for _, f := range left {
			if f.Damage {
				damage++
			}
		}
	}
	c.show(struct {
		File   string          `json:"file"`
		DryRun bool            `json:"dry_run"`
		Fixes  []vdisk.Fix     `json:"fixes"`
		Damage int             `json:"damage_left"`
		Left   []vdisk.Finding `json:"findings_left"`
	}{name, c.dry, append([]vdisk.Fix{}, fixes...), damage, append([]vdisk.Finding{}, left...)}, func() {
		c.showFixes(name, fixes)
		for _, f := range left {
			if f.Damage {
				fmt.Printf("%s: %#x: left: %s: %s\n    %s\n", name, f.Offset, f.Name, f.Text, f.Do)
			}
		}
		switch {
		case c.dry && len(fixes) == 0:
			fmt.Printf("%s: there is nothing to mend\n", name)
		case c.dry:
			fmt.Printf("%s: nothing was changed: this is what a repair would do\n", name)
		case damage > 0:
			fmt.Printf("%s: damage is left that no repair can mend\n", name)
		default:
			fmt.Printf("%s: no damage\n", name)
		}
	})
	if damage > 0 {
		return damaged, nil
	}
	return 0, nil
}

func (c *diskCommand) showFixes(name string, fixes []vdisk.Fix) {
	for _, f := range fixes {
		lost := ""
		if f.Lost {
			lost = " (could not be read before)"
		}
		fmt.Printf("%s: %#x: %s%s: %s\n", name, f.Offset, f.Name, lost, f.Text)
	}
}
