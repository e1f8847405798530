package pci

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"
)

// fakeLine is a level-triggered line: it is masked from delivery to Ack.
type fakeLine struct {
	fire chan struct{}
	acks atomic.Int32
}

func (l *fakeLine) Wait(time.Duration) bool { _, ok := <-l.fire; return ok }
func (l *fakeLine) Ack()                    { l.acks.Add(1) }
func (l *fakeLine) Close()                  { close(l.fire) }

func TestSharedLineComesBackWhenAllWereServed(t *testing.T) {
	src := &fakeLine{fire: make(chan struct{})}
	defer src.Close()
	var l lines
	opened := 0
	open := func(int) (Interrupt, error) { opened++; return src, nil }
	a, err := l.connect(11, open)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := l.connect(11, open)
	if opened != 1 {
		t.Fatalf("line claimed %d times", opened)
	}
	if a.Wait(time.Millisecond) {
		t.Fatal("an interrupt out of nothing")
	}
	src.fire <- struct{}{}
	if !a.Wait(time.Minute) || !b.Wait(-1) {
		t.Fatal("not delivered to both")
	}
	a.Ack()
	a.Ack() // once counts
	if n := src.acks.Load(); n != 0 {
		t.Fatalf("acknowledged %d times with one device unserved", n)
	}
	b.Ack()
	if n := src.acks.Load(); n != 1 {
		t.Fatalf("acknowledged %d times, want 1", n)
	}
	src.fire <- struct{}{}
	if !b.Wait(time.Minute) {
		t.Fatal("second interrupt not delivered")
	}
	b.Ack()
	a.Close() // leaves without having served
	if n := src.acks.Load(); n != 2 {
		t.Fatalf("acknowledged %d times, want 2", n)
	}
	a.Close()
	if a.Wait(-1) {
		t.Error("a closed user got an interrupt")
	}
	b.Close()
	src.fire <- struct{}{} // nobody is left: the line must not stay masked
	for start := time.Now(); src.acks.Load() != 3; time.Sleep(time.Millisecond) {
		if time.Since(start) > time.Minute {
			t.Fatal("a line without users stayed masked")
		}
	}
}

func TestLineThatCannotBeClaimed(t *testing.T) {
	var l lines
	want := errors.New("no")
	if _, err := l.connect(5, func(int) (Interrupt, error) { return nil, want }); !errors.Is(err, want) {
		t.Error(err)
	}
}
