package main

import "testing"

func TestTransfersDoNotExhaustTheHost(t *testing.T) {
	for _, free := range []uint64{0, 1 << 20, 200 << 20, 1 << 30, 1 << 40} {
		var p memoryPromises
		var sum uint64
		var release []func()
		for range 20 {
			limit, r := p.take(free)
			if limit < 1 || limit > maxFile {
				t.Fatalf("%d bytes free: a file of %d is allowed", free, limit)
			}
			sum += 2 * uint64(limit)
			release = append(release, r)
		}
		if first, r := new(memoryPromises).take(free); sum > free+2*20 || uint64(first) < min(maxFile, free/3) {
			t.Errorf("%d bytes free: the first may take %d, twenty together %d", free, 2*first, sum)
		} else {
			r()
		}
		for _, r := range release {
			r()
		}
		if p.promised != 0 {
			t.Errorf("%d bytes stay promised", p.promised)
		}
	}
}
