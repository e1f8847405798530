package migrate

import (
	"time"

	"godwit/vmm/gcoff"
)

// A hush keeps the garbage collector off while a guest is about to stand still, and does:
// a collection meanwhile makes it stand four times as long on a slow host with one
// processor. It begins when little is left, so that a collection in progress ends while the
// guest still runs, and ends by itself after a step's time: the other host may never come
// to the end.
type hush struct{ end func() }

// begin begins it, if it has not begun, and waits for the end of a collection in progress.
func (h *hush) begin(t Timing) {
	if h.end != nil {
		return
	}
	on := gcoff.Off()
	timer := time.AfterFunc(t.Step, on)
	h.end = func() { timer.Stop(); on() }
}

// beginLate is begin when the guest stands still already, and nothing is to wait.
func (h *hush) beginLate(t Timing) {
	if h.end != nil {
		return
	}
	late, begun := new(hush), make(chan struct{})
	go func() {
		late.begin(t)
		close(begun)
	}()
	h.end = func() { <-begun; late.over() }
}

// over ends it, if it has begun.
func (h *hush) over() {
	if h.end != nil {
		h.end()
	}
}
