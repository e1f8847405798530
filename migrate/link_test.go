package migrate

import (
	"testing"
	"time"
)

func TestPatienceScalesTheWaits(t *testing.T) {
	if DefaultTiming.WithPatience(0) != DefaultTiming {
		t.Error("no patience is not the default")
	}
	if DefaultTiming.WithPatience(DefaultTiming.Silence) != DefaultTiming {
		t.Error("the default's patience is not the default")
	}
	want := Timing{Tick: time.Second, Silence: 2 * time.Minute, Step: 12 * time.Minute, Dial: 2 * time.Minute, Pause: 2 * time.Minute, Retry: 2 * time.Second}
	if got := DefaultTiming.WithPatience(2 * time.Minute); got != want {
		t.Errorf("patience of 2 minutes: %+v, want %+v", got, want)
	}
	// Keep-alives go out often enough for an impatient host.
	if got := DefaultTiming.WithPatience(time.Second); got.Tick != 100*time.Millisecond || got.Step != 6*time.Second {
		t.Errorf("patience of 1 second: %+v", got)
	}
}
