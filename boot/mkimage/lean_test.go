package main

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestTheImageLeavesOutWhatOnlySavesANetworkStack also proves that the rest compiles without it.
func TestTheImageLeavesOutWhatOnlySavesANetworkStack(t *testing.T) {
	t.Chdir("../..")
	modfile, err := leanModules("./vnet/hostnet")
	if err != nil || modfile == "" {
		t.Fatal(modfile, err)
	}
	files := 0
	err = filepath.WalkDir(filepath.Join(".cache", "lean"), func(path string, d fs.DirEntry, err error) error {
		if strings.HasSuffix(path, "_state_autogen.go") {
			t.Errorf("%s is there", path)
		}
		files++
		return err
	})
	if err != nil || files < 100 {
		t.Fatalf("%d files: %v", files, err)
	}
	if out, err := exec.Command("go", "build", "-modfile="+modfile, "./vnet/hostnet").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	mod, err := os.ReadFile(modfile)
	if err != nil {
		t.Fatal(err)
	}
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mod), wd) {
		t.Error("the image would tell where it was built")
	}
}

func TestModulesThatNeedNothingLeftOutStayAsTheyAre(t *testing.T) {
	t.Chdir("../..")
	if modfile, err := leanModules("./cmd/internal/shell"); err != nil || modfile != "" {
		t.Errorf("%q, %v", modfile, err)
	}
}
