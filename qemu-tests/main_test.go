package main

import (
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
