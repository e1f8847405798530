package vdisk

import (
	"path/filepath"
	"syscall"
	"testing"
)

// What every flush writes to lies in one piece from the start: no file system has to
// find a place for it while a guest waits.
func TestNewFilesHaveNoHolesInHeadersAndLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.vhdx")
	f, err := OpenFile(path, FileOptions{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Create(f, CreateOptions{Size: 64 << 30}); err != nil {
		t.Fatal(err)
	}
	const seekHole = 4
	if at, err := syscall.Seek(int(f.f.Fd()), 0, seekHole); err != nil || at < 3*mib {
		t.Errorf("the first hole lies at %#x (%v)", at, err)
	}
}
