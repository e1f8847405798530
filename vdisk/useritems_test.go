package vdisk

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestUserItemsAreKept(t *testing.T) {
	p := newPatient(t, true)
	guid := p.header().DataWriteGUID
	open := func() *Image {
		t.Helper()
		im, err := Open(p.Memory, p.o)
		if err != nil {
			t.Fatal(err)
		}
		return im
	}
	want := map[GUID][]byte{}
	rng := rand.New(rand.NewPCG(1, 14))
	ids := []GUID{NewGUID(), NewGUID(), NewGUID(), NewGUID()}
	for round := range 12 {
		im := open()
		for range 3 {
			id := ids[rng.IntN(len(ids))]
			if rng.IntN(3) == 0 {
				err := im.DeleteUserItem(id)
				if _, ok := want[id]; ok != (err == nil) || err != nil && !errors.Is(err, ErrNoItem) {
					t.Fatalf("round %d: deleting what is there %v: %v", round, ok, err)
				}
				delete(want, id)
				continue
			}
			data := make([]byte, rng.IntN(4)*300*kib) // some have no bytes, some no room beside others
			fill(rng, data)
			if err := im.SetUserItem(UserItem{ID: id, Data: data}); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			want[id] = data
		}
		sameItems(t, im, want)
		if err := im.Close(); err != nil {
			t.Fatal(err)
		}
		im = open()
		sameItems(t, im, want)
		compare(t, im, &model{p.want})
		im.Close()
		if fs, err := Check(p.Snapshot(), p.o); err != nil || slices.ContainsFunc(fs, func(f Finding) bool { return f.Name != flawLeak }) {
			t.Fatalf("round %d: check says %v, %v", round, fs, err)
		}
	}
	if p.header().DataWriteGUID != guid {
		t.Error("items about the file changed the identity of the disk's data")
	}
	im := open()
	if err := im.SetUserItem(UserItem{ID: ids[0], Disk: true, Data: []byte{1}}); err != nil {
		t.Fatal(err)
	}
	im.Close()
	if p.header().DataWriteGUID == guid {
		t.Error("an item about the disk left the identity of the disk's data as it was")
	}
}

func sameItems(t *testing.T, im *Image, want map[GUID][]byte) {
	t.Helper()
	got := im.UserItems()
	if len(got) != len(want) {
		t.Fatalf("%d items, not %d", len(got), len(want))
	}
	for _, it := range got {
		if w, ok := want[it.ID]; !ok || !bytes.Equal(w, it.Data) {
			t.Fatalf("item %v is not what was set", it.ID)
		}
	}
}

func TestUserItemsHaveLimits(t *testing.T) {
	p := newPatient(t, false)
	im, err := Open(p.Memory, p.o)
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	if im.SetUserItem(UserItem{Data: []byte{1}}) == nil {
		t.Error("an item without an ID was taken")
	}
	if im.SetUserItem(UserItem{ID: NewGUID(), Data: make([]byte, mib+1)}) == nil {
		t.Error("an item of more than 1 MiB was taken")
	}
	if _, err := im.UserItem(NewGUID()); !errors.Is(err, ErrNoItem) {
		t.Errorf("an item that is not there: %v", err)
	}
	// A user's item may have the ID of one of the format's own.
	if err := im.SetUserItem(UserItem{ID: itemDiskSize, Data: make([]byte, 8)}); err != nil || im.Size() != patientSize {
		t.Errorf("an item with a known ID: %v", err)
	}
	for i := range maxUserItems {
		if i >= 40 && i < maxUserItems-2 && i%25 > 0 {
			im.items = append(im.items, item{ID: GUID{1, byte(i), byte(i >> 8)}, User: true})
			continue // quicker than one log entry each
		}
		err = im.SetUserItem(UserItem{ID: GUID{1, byte(i), byte(i >> 8)}})
		if (err == nil) != (i < maxUserItems-1) {
			t.Fatalf("item %d: %v", i+2, err)
		}
	}
	ro, err := Open(p.Snapshot(), Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := ro.SetUserItem(UserItem{ID: NewGUID()}); !errors.Is(err, ErrReadOnly) {
		t.Errorf("an image opened read-only answered %v", err)
	}
}

// A crash while items change leaves the old ones or the new ones.
func TestUserItemsSurvivePowerCuts(t *testing.T) {
	t.Parallel()
	p := newPatient(t, false)
	rng := rand.New(rand.NewPCG(2, 14))
	d := &crashDisk{Memory: p.Memory, durable: p.Memory.Snapshot()}
	im, err := Open(d, p.o)
	if err != nil {
		t.Fatal(err)
	}
	a, b := NewGUID(), NewGUID()
	states, now := 0, "set 0"
	may := map[string]bool{"": true}
	d.onEvent = func(d *crashDisk) {
		m := d.cut(rng)
		c, err := Open(m, p.o)
		if err != nil {
			t.Fatalf("%s, event %d: %v", now, d.events, err)
		}
		states++
		got := ""
		for _, it := range c.UserItems() {
			if len(it.Data) == 0 || !bytes.Equal(it.Data, bytes.Repeat(it.Data[:1], len(it.Data))) {
				t.Fatalf("%s, event %d: an item is torn", now, d.events)
			}
			got += fmt.Sprint(it.ID == a, it.Data[0], " ")
		}
		if !may[got] {
			t.Fatalf("%s, event %d: the items are %q, not one of %v", now, d.events, got, may)
		}
		compare(t, c, &model{p.want})
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	state := func() (s string) {
		for _, it := range im.UserItems() {
			s += fmt.Sprint(it.ID == a, it.Data[0], " ")
		}
		return s
	}
	for i, step := range []struct {
		id  GUID
		n   int
		nxt string
	}{
		{a, 100, "true 1 "}, {b, 500 * kib, "true 1 false 2 "}, {a, 600 * kib, "true 3 false 2 "}, {b, 900 * kib, "true 3 false 4 "}, {a, 0, "false 4 "}, {a, 8, "false 4 true 6 "},
	} {
		now = fmt.Sprintf("step %d", i)
		may[step.nxt] = true
		if step.n == 0 {
			err = im.DeleteUserItem(step.id)
		} else {
			err = im.SetUserItem(UserItem{ID: step.id, Data: bytes.Repeat([]byte{byte(i + 1)}, step.n)})
		}
		if err != nil {
			t.Fatal(err)
		}
		if s := state(); s != step.nxt {
			t.Fatalf("%s: the items are %q", now, s)
		}
		may = map[string]bool{step.nxt: true} // durable
	}
	d.onEvent = nil
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d states", states)
}
