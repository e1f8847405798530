package vdisk

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"testing"
)

// A family is a child over a parent over a base, each with data of its own.
type family struct {
	base, parent, child *Memory
	before, want        []byte // what the parent and the child read
}

func newFamily(t *testing.T, seed uint64, childSize int64) *family {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 77))
	const size = 5 * mib
	f := &family{base: NewMemory(), parent: NewMemory(), child: NewMemory()}
	want := &model{make([]byte, size)}
	var below *Image
	for i, m := range []*Memory{f.base, f.parent, f.child} {
		c := CreateOptions{Size: size, BlockSize: []int{2 * mib, mib, 2 * mib}[i]}
		if seed%2 == 1 {
			c.LogicalSector = 4096
		}
		if i == 2 {
			c.Size = childSize
			f.before = bytes.Clone(want.data)
			want.data = append(want.data, make([]byte, max(0, childSize-size))...)
		}
		if below != nil {
			c.Parent, c.ParentPaths = below, []ParentPath{{keyRelative, "below"}}
		}
		if err := Create(m, c); err != nil {
			t.Fatal(err)
		}
		if below != nil {
			below.Close()
		}
		im, err := Open(m, f.options(i))
		if err != nil {
			t.Fatal(err)
		}
		randomOps(t, im, want, rng, 25)
		if err := im.Close(); err != nil {
			t.Fatal(err)
		}
		if below, err = Open(m, f.options(i)); err != nil {
			t.Fatal(err)
		}
	}
	below.Close()
	f.want = want.data
	return f
}

// options open member i of the family: 2 is the child.
func (f *family) options(i int) Options {
	members := []*Memory{f.base, f.parent, f.child}
	return Options{Parent: func([]ParentPath) (Backing, error) { i--; return members[i], nil }}
}

func (f *family) commit(child, parent Backing) (Committed, error) {
	return Commit(context.Background(), child, CommitOptions{
		Parent:    func([]ParentPath) (Backing, error) { return parent, nil },
		Ancestors: func([]ParentPath) (Backing, error) { return f.base.Snapshot(), nil },
	})
}

// reads compares what member i, 1 or 2, reads.
func (f *family) reads(t *testing.T, i int, want []byte) {
	t.Helper()
	im, err := Open([]*Memory{f.base, f.parent, f.child}[i].Snapshot(), f.options(i))
	if err != nil {
		t.Fatal(err)
	}
	if im.Size() != int64(len(want)) {
		t.Fatalf("the disk has %d bytes, not %d", im.Size(), len(want))
	}
	compare(t, im, &model{want})
	im.Close()
}

func TestCommitMakesTheParentReadAsTheChild(t *testing.T) {
	for seed := range uint64(6) {
		f := newFamily(t, seed, []int64{5 * mib, 5 * mib, 8*mib + 4096}[seed/2])
		item := UserItem{ID: NewGUID(), Data: []byte("kept")}
		im, err := Open(f.child, f.options(2))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(im.SetUserItem(item), im.Close()); err != nil {
			t.Fatal(err)
		}
		f.reads(t, 1, f.before)
		for range 2 { // again changes nothing
			done, err := f.commit(f.child, f.parent)
			if err != nil {
				t.Fatal(err)
			}
			if done.Size != int64(len(f.want)) || done.Written == 0 {
				t.Errorf("it says %+v", done)
			}
			f.reads(t, 1, f.want)
			f.reads(t, 2, f.want)
		}
		for i, m := range []*Memory{f.parent, f.child} {
			fs, err := Check(m.Snapshot(), f.options(i+1))
			for _, x := range fs {
				if x.Severity != Noted {
					t.Errorf("member %d: %v", i+1, x)
				}
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		parent, err := Open(f.parent, f.options(1))
		if err != nil {
			t.Fatal(err)
		}
		if it, err := parent.UserItem(item.ID); err != nil || string(it.Data) != "kept" {
			t.Errorf("user metadata was not committed: %v", err)
		}
		parent.Close()
		child, err := Open(f.child.Snapshot(), Options{ReadOnly: true, orphan: true})
		if err != nil {
			t.Fatal(err)
		}
		if l, _, _ := child.locator(); l[keyLinkage2] != "" {
			t.Errorf("a second linkage is left: %v", l)
		}
		child.Close()
	}
}

func TestCommitRefusesAParentThatChanged(t *testing.T) {
	f := newFamily(t, 1, 5*mib)
	im, err := Open(f.parent, f.options(1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := im.WriteAt(make([]byte, 4096), 0); err != nil {
		t.Fatal(err)
	}
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
	p, c := f.parent.Snapshot(), f.child.Snapshot()
	if _, err := f.commit(f.child, f.parent); !errors.Is(err, ErrParentChanged) {
		t.Errorf("answered %v", err)
	}
	if !sameBytes(p, f.parent) || !sameBytes(c, f.child) {
		t.Error("a commit that was refused changed something")
	}
	if _, err := f.commit(f.base.Snapshot(), f.parent); !errors.Is(err, ErrNoParent) {
		t.Errorf("an image without a parent was answered %v", err)
	}
}

func TestCommitThatIsInterruptedCanBeRepeated(t *testing.T) {
	f := newFamily(t, 2, 5*mib)
	ctx, cancel := context.WithCancel(context.Background())
	_, err := Commit(ctx, f.child, CommitOptions{
		Parent:    func([]ParentPath) (Backing, error) { return f.parent, nil },
		Ancestors: func([]ParentPath) (Backing, error) { return f.base, nil },
		Progress:  func(int64, int64) { cancel() },
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("answered %v", err)
	}
	f.reads(t, 2, f.want)
	if _, err := f.commit(f.child, f.parent); err != nil {
		t.Fatal(err)
	}
	f.reads(t, 1, f.want)
}

// At every moment of a commit, and of the one that repeats it, the power may go: the
// child reads the same, and the next commit ends the work.
func TestCommitSurvivesPowerCuts(t *testing.T) {
	t.Parallel()
	states := 0
	for seed := range uint64(4) {
		f := newFamily(t, seed, []int64{5 * mib, 7 * mib}[seed/2])
		rng := rand.New(rand.NewPCG(seed, 5))
		p := &crashDisk{Memory: f.parent, durable: f.parent.Snapshot()}
		c := &crashDisk{Memory: f.child, durable: f.child.Snapshot()}
		look := func(*crashDisk) {
			if rng.IntN(3) > 0 {
				return
			}
			g := &family{base: f.base, parent: p.cut(rng), child: c.cut(rng), want: f.want}
			for range 2 {
				states++
				g.reads(t, 2, g.want)
				p2 := &crashDisk{Memory: g.parent, durable: g.parent.Snapshot()}
				c2 := &crashDisk{Memory: g.child, durable: g.child.Snapshot()}
				at, n := rng.IntN(60), 0
				var pc, cc *Memory
				again := func(*crashDisk) {
					if n++; n == at {
						pc, cc = p2.cut(rng), c2.cut(rng)
					}
				}
				p2.onEvent, c2.onEvent = again, again
				if _, err := g.commit(c2, p2); err != nil {
					t.Fatalf("seed %d, state %d: %v", seed, states, err)
				}
				g.reads(t, 1, g.want)
				g.reads(t, 2, g.want)
				if pc == nil {
					break
				}
				g.parent, g.child = pc, cc
			}
		}
		p.onEvent, c.onEvent = look, look
		if _, err := f.commit(c, p); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d states", states)
	if states < 60 {
		t.Errorf("only %d states were visited", states)
	}
}
