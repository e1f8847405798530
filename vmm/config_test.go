package vmm

import (
	"strings"
	"testing"
)

func TestAMemorySizeThatIsImpossibleIsToldAsItWasGiven(t *testing.T) {
	for size, want := range map[uint64]string{
		0: "is 0 bytes;", 1: "is 1 bytes;", 4 << 20: "is 4 MiB;", 5 << 40: "is 5 TiB;", 1<<20 + 512: "is 1049088 bytes;",
	} {
		c := config(1)
		c.Memory = size
		if err := c.Check(); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "8 MiB to 1024 GiB are possible, as in mem=512M") {
			t.Errorf("%d: %v", size, err)
		}
	}
}
