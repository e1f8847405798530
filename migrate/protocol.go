package migrate

// # The protocol
//
// One TCP connection moves one guest. The source dials; every message is one
// frame (frame.go). Everything is little-endian.
//
// ## Sequence
//
//	source                                       target                  the guest runs on
//	  |  Hello {versions, features, id, host}       |
//	  |-------------------------------------------->|                    source
//	  |           HelloReply {version, features, host}
//	  |<--------------------------------------------|
//	  |  Machine {name, regions, config}            |
//	  |-------------------------------------------->| builds it whole,
//	  |                                   Ready     | takes all memory
//	  |<--------------------------------------------|
//	  | protects all pages                          |
//	  |  Round 0 {pages}                            |
//	  |  Pages ...                                  | writes them
//	  |  RoundEnd {sums}                            |
//	  |-------------------------------------------->|
//	  |                              RoundDone      |
//	  |<--------------------------------------------|
//	  |  Round 1, 2, ... until the rest is small    |                    source
//	  |                                             |
//	  | pauses the guest                            |                    nobody
//	  |  Round n {last}, Pages ..., RoundEnd        |
//	  |-------------------------------------------->| every page has come
//	  |     RoundDone (read only behind StateEnd)   | at least once
//	  |<--------------------------------------------|
//	  |  Verify ... (only if that was agreed on)    | compares sums
//	  |  State ..., StateEnd {length, CRC}          |
//	  |-------------------------------------------->| loads it
//	  |                                 Prepared    |
//	  |<--------------------------------------------|
//	  | commit record: state Committing             |
//	  |  Commit {id}                                |
//	  |-------------------------------------------->| commit record: Starting
//	  |                                             | starts the guest   target
//	  |                               Started       |
//	  |<--------------------------------------------| record: Started
//	  | releases its copy                           |                    target
//
// From HelloReply on Alive goes both ways whenever a side has sent nothing else
// for one interval (Timing.Tick). Fail can take the place of any message of the target before Started, and of
// any of the source before Commit.
//
// ## Who runs the guest
//
// Three rules; each is local, one atomic step in one place of the code.
//
//	S1  The source sends Commit only after it has paused the guest, has read
//	    Prepared, and has moved its state from Sending to Committing.
//	S2  From Committing the source resumes the guest only if the target has
//	    said Fail, or NotStarted in answer to a Query. It releases the guest
//	    only on Started.
//	T1  The target's record of a migration is one word: Open, then either
//	    Starting, Started or Aborted (record.go). Only Commit moves it from
//	    Open to Starting; a lost link, a time-out, an error or a Query moves it
//	    from Open to Aborted. The guest starts only in Starting. Aborted and
//	    Started are final. Fail and NotStarted are sent only from Aborted.
//
// Never two: the target runs it only after Starting, so after Commit was sent,
// so (S1) after the source paused it. The source resumes it after that only on
// Fail or NotStarted (S2), which the target says only from Aborted (T1), from
// where it never starts. Before Committing the source may resume as it likes:
// no Commit exists, and none will be sent, since that takes state Sending.
//
// Not none: before Committing any failure makes the source resume. After it the
// source asks until it learns which of the two final values the record has. If
// the answer is Aborted it resumes; if Started, the target runs the guest. Only
// a target that has lost its memory (its host identity is another one) cannot
// answer; then the guest stays paused at the source, InDoubt, until the
// operator decides, because it may have run there until that host went down,
// and have been seen by the world.
//
// What fails, when, and who runs the guest then:
//
//	anything, either side, before Commit is sent   source, at once
//	source dies before Commit is sent              nobody: it died with its host
//	Commit is lost, or the target dies before it   source, after it could ask;
//	                                               InDoubt if the target rebooted
//	Start fails on the target                      source, on Fail
//	Started is lost                                target; source learns by Query
//	source dies after Commit is sent               target
//
// ## Query
//
// A source in doubt dials again: Hello {purpose query, same id}, HelloReply,
// Outcome {started | not started | pending | unknown}. The target decides on
// the spot: an Open record becomes Aborted, whatever its own connection still
// holds unread.
//
// ## States of the source
//
// stateNext in source.go is the same as a table; any other step is a panic.
//
//	Idle > Connecting > Copying > Stopping > Sending > Committing > Done
//	           |           |          |         |        |    |      ^
//	           +-----------+----------+---------+        |    v      |
//	                       v                             |  InDoubt -+
//	               Failed, Cancelled                     v    v
//	                                                     Failed
//
// ## States of the target
//
// targetNext in target.go is the same as a table. A connection that only asks
// (Query) is answered in Greeting and ends there.
//
//	Greeting > Describing > Preparing > BetweenRounds > InRound > Loading
//	                                          ^            |         |
//	                                          +------------+         v
//	                                 Started < Starting < Prepared <-+
//
//	from all but Started: Aborted
//
// ## Versions
//
//   - The frame's layout and that of Hello never change; a change to either
//     needs another magic.
//   - Hello offers a range of protocol versions; the target takes the highest it
//     knows or refuses, naming both ranges. Any change of a message's layout or
//     of the sequence is a new version. A release speaks at least its
//     predecessor's version, so that hosts can be upgraded one by one.
//   - Features are bits. Those the source needs must all be known to the target;
//     of the others both use what both know. A message that belongs to a feature
//     is illegal without it.
//   - What config and state sections hold has versions of its own, checked by
//     the machine.
//   - Type zero is no message, so zeroed bytes never are one.

// Protocol versions this release speaks.
const (
	minVersion = 1
	maxVersion = 1
)

// Features.
const (
	featVerify = 1 << 0 // sums of all pages are compared before the commit
	featS2     = 1 << 1 // runs of pages may be S2 blocks (github.com/klauspost/compress/s2)
	featDelta  = 1 << 2 // of pages that came before only the changed words may come (delta.go)

	knownFeatures = featVerify | featS2 | featDelta
)

// A msgType is what a frame is.
type msgType uint8

const (
	_             msgType = iota // illegal
	msgHello                     // source: who, what for, versions, features
	msgHelloReply                // target: version and features in use
	msgMachine                   // source: name, regions, config
	msgReady                     // target: the empty machine is built
	msgRound                     // source: a round begins
	msgPages                     // source: a batch of pages
	msgRoundEnd                  // source: a round's sums
	msgRoundDone                 // target: all of it is in memory
	msgVerify                    // source: sums of pages
	msgState                     // source: a piece of the state
	msgStateEnd                  // source: the state's length and sum
	msgPrepared                  // target: only Commit is missing
	msgCommit                    // source: the guest is yours
	msgStarted                   // target: it runs
	msgOutcome                   // target: the answer to a query
	msgFail                      // either: it is over, and why
	msgAlive                     // either: nothing to say, but here
	numMsgs
)

var msgNames = [numMsgs]string{
	"nothing", "Hello", "HelloReply", "Machine", "Ready", "Round", "Pages", "RoundEnd", "RoundDone", "Verify",
	"State", "StateEnd", "Prepared", "Commit", "Started", "Outcome", "Fail", "Alive",
}

func (t msgType) String() string {
	if t < numMsgs {
		return msgNames[t]
	}
	return "unknown"
}

// Limits on what a peer may send.
const (
	maxName    = 64
	maxConfig  = 256 << 10
	maxState   = 4 << 20 // several times the largest: 64 processors, and a console that does not compress
	maxText    = 1 << 10 // of a failure's reason
	maxSums    = 16 << 10
	maxRuns    = 1 << 10 // runs of pages in a batch
	batchPages = 128     // pages of data in a batch
	stateChunk = 256 << 10
)

// maxLength bounds each message's payload.
var maxLength = [numMsgs]uint32{
	msgHello:      helloSize,
	msgHelloReply: helloReplySize,
	msgMachine:    4 + maxName + 4 + maxRegions*16 + 4 + maxConfig,
	msgReady:      0,
	msgRound:      roundSize,
	msgPages:      batchPages*PageSize + maxRuns*runSize + batchTail,
	msgRoundEnd:   roundSumSize,
	msgRoundDone:  roundSumSize,
	msgVerify:     8 + 4 + maxSums*4,
	msgState:      stateChunk,
	msgStateEnd:   12,
	msgPrepared:   8,
	msgCommit:     16,
	msgStarted:    8,
	msgOutcome:    1,
	msgFail:       1 + 4 + maxText,
	msgAlive:      0,
}

// A msgSet is a set of message types.
type msgSet uint32

func set(ts ...msgType) (s msgSet) {
	for _, t := range ts {
		s |= 1 << t
	}
	return s
}

func (s msgSet) has(t msgType) bool { return s>>t&1 != 0 }
