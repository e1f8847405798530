package e1000

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestRestLeavesRoomInTheRing(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 100_000 {
		frames := 1 + r.IntN(2*rxRing)
		took := time.Duration(r.Int64N(int64(20 * time.Millisecond)))
		since := time.Duration(r.Int64N(int64(time.Second)))
		d := rest(frames, took, since)
		// Frames to come at the same rate.
		if came := float64(frames) * float64(d) / float64(max(since, 1)); came > rxRing/4 {
			t.Fatalf("%d frames in %v, handled in %v: after a rest of %v there will be %.0f more", frames, since, took, d, came)
		}
		if d < 0 || d > restLimit || d > restShare*took {
			t.Fatalf("%d frames in %v, handled in %v: a rest of %v", frames, since, took, d)
		}
	}
}

func TestRestGrowsUntilLooksAreCheap(t *testing.T) {
	// Frames come at a steady rate; a look costs so much, and a frame so much more. Where a look costs more than the
	// time between frames, it has to find several.
	for _, c := range []struct {
		every, look, frame time.Duration
		least              int
	}{
		{time.Millisecond, 240 * time.Microsecond, 60 * time.Microsecond, 4},    // an interpreter
		{12 * time.Microsecond, 3 * time.Microsecond, 500 * time.Nanosecond, 4}, // 1 Gb/s
		{time.Second, 3 * time.Microsecond, 500 * time.Nanosecond, 1},           // one a second is not held up
	} {
		frames, since := 1, c.every
		for range 50 {
			d := rest(frames, c.look+time.Duration(frames)*c.frame, since)
			since = max(d, c.every)
			frames = int(since / c.every)
		}
		if frames < c.least || frames > rxRing/4 || c.least == 1 && frames != 1 {
			t.Errorf("a frame every %v: looks find %d", c.every, frames)
		}
	}
}
