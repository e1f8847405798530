package vdisk

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestVolumePathsLeadToMountedPartitions(t *testing.T) {
	dir := t.TempDir()
	dev := filepath.Join(dir, "sda1")
	byUUID := filepath.Join(dir, "by-partuuid")
	mounts := filepath.Join(dir, "mountinfo")
	const id = "26a21bda-a627-11d7-9931-806e6f6e6963"
	if err := errors.Join(os.WriteFile(dev, nil, 0o644), os.Mkdir(byUUID, 0o755), os.Symlink("../sda1", filepath.Join(byUUID, id)),
		os.WriteFile(mounts, []byte("21 1 0:5 / /dev rw - devtmpfs udev rw\n22 1 8:1 /sub /sub rw - ext4 "+dev+" rw\n23 1 8:1 / /mnt/my\\040disk rw shared:2 - ext4 "+dev+" rw\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"//?/Volume{26A21BDA-A627-11D7-9931-806E6F6E6963}/a/b.vhdx": "/mnt/my disk/a/b.vhdx",
		"//?/Volume{26A21BDA-A627-11D7-9931-806E6F6E6964}/a/b.vhdx": "",
		"//?/Volume{../../../../../etc/passwd}/a/b.vhdx":            "",
		"//?/d:/a.vhdx": "",
	} {
		got, err := volumeHere(name, byUUID, mounts)
		if got != want || (want == "") != errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if got, err := pathHere(ParentPath{keyRelative, `..\x\p.vhdx`}, "/a/b"); err != nil || got != "/a/x/p.vhdx" {
		t.Errorf("a relative path: %q, %v", got, err)
	}
}
