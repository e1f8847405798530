package vdisk

import "testing"

// A crash may leave a file that does not end with a whole MiB. What log entries say of
// files' lengths counts whole MiB (2.3.1.1): readers take others for torn.
func TestALogBegunOnAFileWithARaggedEndIsValid(t *testing.T) {
	m := NewMemory()
	if err := m.Truncate(5 * mib); err != nil {
		t.Fatal(err)
	}
	j := journal{b: m, off: mib, length: mib, guid: NewGUID(), flushed: 5*mib + 7168}
	if err := j.append(nil, 6*mib); err != nil {
		t.Fatal(err)
	}
	s, err := (&logReader{m, j.off, j.length}).findSequence(j.guid)
	if err != nil {
		t.Fatal(err)
	}
	if e := s.entries[0]; e.flushed != 5*mib || e.last != 6*mib {
		t.Fatalf("the entry says %#x and %#x", e.flushed, e.last)
	}
}
