package migrate

import "math/bits"

// A write fault costs the guest an exit, whatever number of pages it opens; each
// page opened in vain costs the line a page. So many pages to a fault pay while
// much has to be sent again anyway, and one page when little is left and every
// page of it will be downtime. The counter that the size follows is the
// number of outstanding pages: those of the round not sent yet and those written
// meanwhile.
const (
	// pagesPerGroupPage is how many outstanding pages allow one more page in a
	// group: a fault then adds at most 1/256 to what is outstanding.
	pagesPerGroupPage = 256
	// DefaultMaxGroup is where the fault count of a sequential writer has
	// fallen so far that larger groups gain nothing more, see
	// BenchmarkGroupSize.
	DefaultMaxGroup = 16
)

// groupSize is the group for a round. A guest that writes at random over all its
// memory keeps the outstanding count high because groups are large; that the
// limit halves with every round breaks the circle.
func groupSize(limit int, round uint32, outstanding uint64) int {
	limit >>= min(round, 16)
	n := min(uint64(max(limit, 1)), outstanding/pagesPerGroupPage)
	if n <= 1 {
		return 1
	}
	return 1 << (bits.Len64(n) - 1)
}
