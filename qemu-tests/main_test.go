package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"godwit/qemu-tests/machine"
	"godwit/qemu-tests/scenarios"
)

func TestChoosingNothingIsAnError(t *testing.T) {
	all := scenarios.All()
	if got, err := choose("scenario", "", all, scenarioName); err != nil || len(got) != len(all) {
		t.Errorf("%d of %d, %v", len(got), len(all), err)
	}
	if got, err := choose("ground", "^QEMU/SVM$", scenarios.Grounds(), machine.Ground.Name); err != nil || len(got) != 1 {
		t.Errorf("%v, %v", got, err)
	}
	for pattern, want := range map[string]string{"no-such": "guest-1cpus", "(": "missing"} {
		if got, err := choose("scenario", pattern, all, scenarioName); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v", pattern, got, err)
		}
	}
}

// TestMakeHelpNamesEveryTarget: what the Makefile can do it tells, a line each, and nothing that it can not do.
func TestMakeHelpNamesEveryTarget(t *testing.T) {
	b, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	find := func(re string) (names []string) {
		for _, m := range regexp.MustCompile(re).FindAllStringSubmatch(string(b), -1) {
			names = append(names, m[1])
		}
		slices.Sort(names)
		return names
	}
	targets, told := find(`(?m)^(\w+):(?:\s|$)`), find(`(?m)^#: make (\w+) +\S.*$`)
	if len(targets) < 6 || !slices.Equal(targets, told) {
		t.Errorf("targets: %v; in the help: %v", targets, told)
	}
	if phony := strings.Fields(strings.Join(find(`(?m)^\.PHONY: (.*)$`), "")); len(phony) != len(targets) {
		t.Errorf("phony: %v; targets: %v", phony, targets)
	}
}
