package boot

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func TestGRUBConfigPassesNamesAndQuotedWords(t *testing.T) {
	d := Disc{CommandLine: `name=a  run="vm list"`, Files: []File{{"x/y", "godwit.conf"}}}
	cfg, err := d.grubConfig()
	if err != nil {
		t.Fatal(err)
	}
	want := "set timeout=0\nterminal_output console\nmultiboot /boot/image godwit.img 'name=a' 'run=vm list'\n" +
		"module /boot/modules/godwit.conf godwit.conf\nboot\n"
	if string(cfg) != want {
		t.Errorf("got\n%s\nwant\n%s", cfg, want)
	}
	d = Disc{Linux: true, CommandLine: "quiet", Files: []File{{"i", "initramfs"}}}
	if cfg, err = d.grubConfig(); err != nil || !bytes.Contains(cfg, []byte("linux /boot/image 'quiet'\ninitrd /boot/modules/initramfs\n")) {
		t.Errorf("Linux: %v\n%s", err, cfg)
	}
}

func TestGRUBConfigRefusesWhatItWouldMangle(t *testing.T) {
	for _, line := range []string{"a'b", `a\b`, "a\nreboot", `run="vm`} {
		if w, err := grubWords(line); err == nil {
			t.Errorf("%q became %q", line, w)
		}
	}
	for _, name := range []string{"", "..", "../x", "a b", "a;b", "a/b", "$x"} {
		if cfg, err := (&Disc{Files: []File{{"x", name}}}).grubConfig(); err == nil {
			t.Errorf("name %q became\n%s", name, cfg)
		}
	}
}

func TestCopyFileKeepsContents(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	if err := os.WriteFile(from, []byte("text"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := copyFile(to, from); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(to); err != nil || string(b) != "text" {
		t.Errorf("%q, %v", b, err)
	}
	if err := copyFile(to, filepath.Join(dir, "none")); err == nil {
		t.Error("a file that is not there was copied")
	}
}

func FuzzGRUBWords(f *testing.F) {
	f.Add(`name=a run="vm list"`)
	f.Fuzz(func(t *testing.T, line string) {
		w, err := grubWords(line)
		if err != nil {
			return
		}
		// Outside the single quotes there are only blanks: nothing of the line reaches GRUB's parser.
		in := false
		for _, r := range w {
			if r == '\'' {
				in = !in
			} else if !in && r != ' ' {
				t.Fatalf("%q became %q", line, w)
			}
		}
		if in {
			t.Fatalf("%q became %q", line, w)
		}
	})
}
