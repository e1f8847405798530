package hostnet

import (
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/log"
)

func TestWarningsDoNotFloodTheLog(t *testing.T) {
	var got []string
	l := &stackLog{to: func(s string) { got = append(got, s) }}
	now := time.Now()
	l.Emit(0, log.Info, now, "chatter")
	for i := range 100 {
		l.Emit(0, log.Warning, now.Add(time.Duration(i)*time.Millisecond), "bad packet %d", i)
	}
	l.Emit(0, log.Warning, now.Add(2*time.Second), "later")
	if len(got) != 2 || got[0] != "network stack: bad packet 0" || got[1] != "network stack: later (and 99 other warnings)" {
		t.Errorf("%q", got)
	}
}
