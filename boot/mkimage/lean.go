package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// gVisor can save and restore its network stack. The functions for that, in files that its tool stateify generated, register
// themselves, so the linker keeps them and all that they reach, and the host would run them at start; nothing here uses them.
// leanModules copies the packages that pkg needs without these files, and returns a go.mod that uses the copy. Both lie in
// .cache, under relative names, so that equal sources go on giving equal images wherever they are built.
func leanModules(pkg string) (modfile string, err error) {
	const module, generated = "gvisor.dev/gvisor", "_state_autogen.go"
	type packageInfo struct {
		Dir, ImportPath         string
		GoFiles, SFiles, HFiles []string
		Module                  *struct{ Path, Version, Dir, GoMod string }
	}
	list := exec.Command("go", "list", "-deps", "-json=Dir,ImportPath,GoFiles,SFiles,HFiles,Module", pkg)
	list.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	list.Stderr = os.Stderr
	b, err := list.Output()
	if err != nil {
		return "", fmt.Errorf("go list -deps %s: %w", pkg, err)
	}
	var packages []packageInfo
	for d := json.NewDecoder(bytes.NewReader(b)); ; {
		var p packageInfo
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return "", fmt.Errorf("go list -deps %s: %w", pkg, err)
		}
		if p.Module != nil && p.Module.Path == module {
			packages = append(packages, p)
		}
	}
	if packages == nil {
		return "", nil
	}
	m := packages[0].Module
	dir := filepath.Join(".cache", "lean", "gvisor-"+m.Version)
	files := map[string]string{filepath.Join(dir, "go.mod"): m.GoMod}
	for _, p := range packages {
		to := filepath.Join(dir, filepath.FromSlash(strings.TrimPrefix(p.ImportPath, module)))
		for _, group := range [][]string{p.GoFiles, p.SFiles, p.HFiles} {
			for _, f := range group {
				if !strings.HasSuffix(f, generated) {
					files[filepath.Join(to, f)] = filepath.Join(p.Dir, f)
				}
			}
		}
	}
	for to, from := range files {
		if err := refresh(to, from); err != nil {
			return "", err
		}
	}
	mod, err := os.ReadFile("go.mod")
	if err != nil {
		return "", err
	}
	mod = fmt.Appendf(mod, "\nreplace %s => ./%s\n", module, filepath.ToSlash(dir))
	modfile = filepath.Join(".cache", "lean", "image.mod")
	if err := writeFile(modfile, mod); err != nil {
		return "", err
	}
	sum, err := os.ReadFile("go.sum")
	if err != nil {
		return "", err
	}
	return modfile, writeFile(filepath.Join(".cache", "lean", "image.sum"), sum)
}

// refresh makes to a copy of from, unless it is one. It is replaced whole: another build may be reading it.
func refresh(to, from string) error {
	want, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if have, err := os.ReadFile(to); err == nil && bytes.Equal(have, want) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o777); err != nil {
		return err
	}
	return writeFile(to, want)
}
