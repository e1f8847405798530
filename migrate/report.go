package migrate

import (
	"slices"
	"sync"
	"time"
)

// A Report tells of one migration, running or past. Its JSON is what the
// console shows; durations are nanoseconds.
type Report struct {
	ID       string    `json:"id"`
	Guest    string    `json:"guest"`
	Peer     string    `json:"peer"`
	Incoming bool      `json:"incoming"`
	State    string    `json:"state"`
	Error    string    `json:"error,omitempty"`
	Doubt    string    `json:"doubt,omitempty"` // what is unknown, and what the operator can do
	Began    time.Time `json:"began"`
	Ended    time.Time `json:"ended,omitzero"`

	Total    time.Duration `json:"total_ns"`
	Downtime Downtime      `json:"downtime"`
	RTT      time.Duration `json:"rtt_ns,omitempty"`

	Rounds    []Round `json:"rounds"`
	Forgotten int     `json:"rounds_forgotten"` // older ones than those in Rounds
	Pages     uint64  `json:"pages"`            // sent or come, zero ones included
	Zero      uint64  `json:"zero_pages"`
	Packed    uint64  `json:"packed_pages"`  // of them, compressed
	Deltas    uint64  `json:"delta_pages"`   // of them, those of which only changed words were sent
	Same      uint64  `json:"same_pages"`    // not sent because, though written, they are as they were
	Skipped   uint64  `json:"skipped_pages"` // not sent because already written again
	Bytes     uint64  `json:"bytes"`         // on the line
	Saved     uint64  `json:"state_bytes"`
	Faults    uint64  `json:"write_faults"`
	Opened    uint64  `json:"pages_opened"`

	// While it runs.
	Bandwidth float64       `json:"bytes_per_second"` // what the line takes
	DirtyRate float64       `json:"dirty_pages_per_second"`
	Left      uint64        `json:"pages_left"`            // of this round
	Estimate  time.Duration `json:"estimated_downtime_ns"` // were the guest paused now
	Limit     time.Duration `json:"downtime_limit_ns,omitempty"`
}

// Downtime is how long the guest stood still, and why. The parts add up to
// Total, as the source's clock has it; Load and Start are the target's own
// measure of what lies inside Prepare and Commit.
type Downtime struct {
	Total    time.Duration `json:"total_ns"`
	Pause    time.Duration `json:"pause_ns"`     // stopping the processors
	LastPass time.Duration `json:"last_pass_ns"` // collecting and sending the last pages
	Verify   time.Duration `json:"verify_ns"`    // sums of all pages, if wished
	State    time.Duration `json:"state_ns"`     // saving and sending the state
	Prepare  time.Duration `json:"prepare_ns"`   // until the target had everything loaded
	Commit   time.Duration `json:"commit_ns"`    // until the guest ran there

	Load  time.Duration `json:"load_ns"`
	Start time.Duration `json:"start_ns"`
}

// A Round of copying.
type Round struct {
	Pages    uint64        `json:"pages"` // to send when it began
	Raw      uint64        `json:"raw"`
	Zero     uint64        `json:"zero"`
	Skipped  uint64        `json:"skipped"`
	Bytes    uint64        `json:"bytes"`
	Duration time.Duration `json:"duration_ns"`
	Dirtied  uint64        `json:"dirtied"` // pages written while it ran
	Faults   uint64        `json:"faults"`
	Group    int           `json:"group"`
	Last     bool          `json:"last,omitempty"`
}

// maxRounds is how many rounds a report of a guest that arrives keeps: how many
// there are is the other host's wish.
const maxRounds = 64

// arrived adds a round of a guest that arrives.
func (r *Report) arrived(x Round) {
	if len(r.Rounds) == maxRounds {
		r.Rounds = slices.Delete(r.Rounds, 0, 1)
		r.Forgotten++
	}
	r.Rounds = append(r.Rounds, x)
}

// A liveReport is a Report being written.
type liveReport struct {
	mu sync.Mutex
	r  Report
}

func (l *liveReport) update(f func(*Report)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(&l.r)
}

func (l *liveReport) get() Report {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.r
	r.Rounds = slices.Clone(r.Rounds)
	if r.Ended.IsZero() {
		r.Total = time.Since(r.Began)
	}
	return r
}
