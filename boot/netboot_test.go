package boot

import (
	"os"
	"path/filepath"
	"testing"
)

func TestNetworkFolderHoldsWhatItsScriptNames(t *testing.T) {
	src, dir := t.TempDir(), t.TempDir()
	path := func(name string) string {
		p := filepath.Join(src, name)
		if err := os.WriteFile(p, []byte("contents of "+name), 0o666); err != nil {
			t.Fatal(err)
		}
		return p
	}
	n := NetworkFolder{Image: path("image"), CommandLine: "name=a", Files: []File{{path("conf"), "godwit.conf"}, {path("k"), "vmlinuz"}}}
	for range 2 { // again over the first
		if err := n.Write(dir); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"boot.ipxe":   "#!ipxe\nkernel godwit.img name=a\ninitrd godwit.conf\ninitrd vmlinuz\nboot\n",
		"godwit.img":  "contents of image",
		"godwit.conf": "contents of conf",
		"vmlinuz":     "contents of k",
	} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v; want %q", name, b, err, want)
		}
	}
}

func TestNetworkFolderRefusesWhatIPXEWouldMangle(t *testing.T) {
	for _, n := range []NetworkFolder{
		{CommandLine: "a\nshell"}, {CommandLine: "name=${ip}"}, {CommandLine: `a\`},
		{Files: []File{{"x", "godwit.img"}}}, {Files: []File{{"x", "boot.ipxe"}}}, {Files: []File{{"x", "../y"}}},
	} {
		if s, err := n.script(); err == nil {
			t.Errorf("%+v became\n%s", n, s)
		}
	}
}
