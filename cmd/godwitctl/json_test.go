package main

import (
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"godwit/cmd/internal/jsonform"
)

// checkedDisk is disk, and holds what it shows with -json to the form that all commands have.
func checkedDisk(t *testing.T, args []string) int {
	t.Helper()
	if !slices.Contains(args, "-json") {
		return disk(args)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout := os.Stdout
	os.Stdout = w
	said := make(chan string)
	go func() { b, _ := io.ReadAll(r); said <- string(b) }()
	code := disk(args)
	os.Stdout = stdout
	w.Close()
	out := <-said
	if code == 2 {
		return code
	}
	values := []string{out}
	if args[0] == "map" { // a value a line
		values = strings.Split(strings.TrimSpace(out), "\n")
	}
	for _, v := range values {
		if err := jsonform.Check([]byte(v)); err != nil {
			t.Errorf("disk %v: %v in %s", args, err, v)
		}
	}
	return code
}
