package vdisk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// parentFinder resolves one chain of parents, from child to child's parent.
func parentFinder(child string) func([]ParentPath) (Backing, error) {
	f := newChain(child)
	return func(paths []ParentPath) (Backing, error) { return f.open(paths, true) }
}

// A chain follows parents from file to file.
type chain struct {
	child string
	seen  []os.FileInfo
}

func newChain(child string) *chain {
	c := &chain{child: child}
	if st, err := os.Stat(child); err == nil {
		c.seen = append(c.seen, st)
	}
	return c
}

// open opens the parent of the file that was opened last.
func (c *chain) open(paths []ParentPath, readOnly bool) (Backing, error) {
	var errs []error
	for _, p := range paths {
		name, err := pathHere(p, filepath.Dir(c.child))
		var st os.FileInfo
		if err == nil {
			st, err = os.Stat(name)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, s := range c.seen {
			if os.SameFile(s, st) {
				return nil, ErrCircularParents.at(0, "the chain of parents leads back to %s: give the child its right parent", name)
			}
		}
		b, err := OpenFile(name, FileOptions{ReadOnly: readOnly})
		if err != nil {
			return nil, err
		}
		c.seen, c.child = append(c.seen, st), name
		return b, nil
	}
	if errs == nil {
		errs = []error{fmt.Errorf("no path that means something here: %w", os.ErrNotExist)}
	}
	return nil, fmt.Errorf("it was not found, put it at one of these places: %w", errors.Join(errs...))
}

// pathHere is what one of a locator's paths means on this machine. Windows writes
// backslashes, and drives that do not exist here.
func pathHere(p ParentPath, dir string) (string, error) {
	name := filepath.FromSlash(strings.ReplaceAll(p.Path, `\`, "/"))
	switch p.Kind {
	case keyRelative:
		return filepath.Join(dir, name), nil
	case keyVolume:
		return volumeHere(name, "/dev/disk/by-partuuid", "/proc/self/mountinfo")
	}
	return name, nil
}

// volumeHere finds a file by \\?\Volume{GUID}\path, here with slashes: on GPT disks
// Windows's volume GUID is the partition's, which Linux knows too.
func volumeHere(name, byUUID, mountinfo string) (string, error) {
	missing := fmt.Errorf("%s: no such volume is mounted here: %w", name, os.ErrNotExist)
	rest, ok := strings.CutPrefix(name, "//?/Volume{")
	id, path, ok2 := strings.Cut(rest, "}/")
	if !ok || !ok2 {
		return "", missing
	}
	if _, err := ParseGUID(id); err != nil {
		return "", missing
	}
	dev, err := filepath.EvalSymlinks(filepath.Join(byUUID, strings.ToLower(id)))
	if err != nil {
		return "", missing
	}
	mounts, err := os.ReadFile(mountinfo)
	if err != nil {
		return "", err
	}
	for _, line := range strings.Split(string(mounts), "\n") {
		// proc(5): ID, parent, device, root, mount point, options, ... - type, source
		mount, source, _ := strings.Cut(line, " - ")
		m, s := strings.Fields(mount), strings.Fields(source)
		if len(m) < 5 || len(s) < 2 || m[3] != "/" {
			continue
		}
		if real, err := filepath.EvalSymlinks(s[1]); err == nil && real == dev {
			at := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(m[4])
			return filepath.Join(at, filepath.FromSlash(path)), nil
		}
	}
	return "", missing
}

// ParentPathsFrom are what a child's locator says to find its parent again: relative,
// then absolute. Both have backslashes, which is what other tools look for.
func ParentPathsFrom(child, parent string) (paths []ParentPath, err error) {
	c, err := filepath.Abs(child)
	if err != nil {
		return nil, err
	}
	p, err := filepath.Abs(parent)
	if err != nil {
		return nil, err
	}
	if rel, err := filepath.Rel(filepath.Dir(c), p); err == nil {
		paths = append(paths, ParentPath{keyRelative, strings.ReplaceAll(rel, "/", `\`)})
	}
	return append(paths, ParentPath{keyAbsolute, strings.ReplaceAll(p, "/", `\`)}), nil
}

// newFile creates a file and fills it; if that fails, nothing stays behind.
func newFile(path string, fill func(b *File) error) error {
	b, err := OpenFile(path, FileOptions{Create: true})
	if err != nil {
		return err
	}
	if err = fill(b); err != nil {
		os.Remove(path)
	}
	return err
}

// syncDir makes the names in a directory outlive a crash.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// SnapshotPath freezes an image that nobody writes to, by making a new child of it at
// child: what is used instead of it from then on. A log in use is replayed for good.
func SnapshotPath(parent, child string, o SnapshotOptions) error {
	im, err := openFrozen(func(ro bool) (*Image, error) { return OpenPath(parent, Options{ReadOnly: ro}, FileOptions{}) })
	if err != nil {
		return err
	}
	defer im.Close()
	if o.ParentPaths == nil {
		if o.ParentPaths, err = ParentPathsFrom(child, parent); err != nil {
			return err
		}
	}
	return newFile(child, func(b *File) error {
		err := im.createChild(b, &o)
		if err == nil {
			err = syncDir(filepath.Dir(child))
		}
		if err == nil && o.Ready != nil {
			err = o.Ready()
		}
		return errors.Join(err, b.Close())
	})
}

// SnapshotFile is Snapshot with the child in a new file.
func (d *LiveDisk) SnapshotFile(child string, o SnapshotOptions) error {
	if top, ok := d.Image().b.(*File); ok && o.ParentPaths == nil {
		var err error
		if o.ParentPaths, err = ParentPathsFrom(child, top.f.Name()); err != nil {
			return err
		}
	}
	ready := o.Ready
	o.Ready = func() error {
		if err := syncDir(filepath.Dir(child)); err != nil || ready == nil {
			return err
		}
		return ready()
	}
	return newFile(child, func(b *File) error { return d.Snapshot(b, o) })
}

// CommitPath is Commit for the child in a file, with its parents found as OpenPath
// does.
func CommitPath(ctx context.Context, child string, o CommitOptions) (Committed, error) {
	b, err := OpenFile(child, FileOptions{})
	if err != nil {
		return Committed{}, err
	}
	c := newChain(child)
	o.Parent = func(paths []ParentPath) (Backing, error) { return c.open(paths, false) }
	o.Ancestors = func(paths []ParentPath) (Backing, error) { return c.open(paths, true) }
	done, err := Commit(ctx, b, o)
	if err != nil {
		err = fmt.Errorf("%s: %w", child, err)
	}
	return done, err
}
