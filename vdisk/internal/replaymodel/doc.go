// Package replaymodel says what replaying the log of a VHDX file must do: a
// second reading of [MS-VHDX] v20240423, sections 2.2.2 and 2.3, to hold an
// implementation against. It was written from the text of the specification
// alone, before its author had seen the implementation in package vdisk, and
// shares no code with it. It favours plainness over speed: the whole file is a
// byte slice, every search is the one the specification spells out.
//
// Where the text leaves a choice, the model takes these:
//
//   - Two valid headers with the same sequence number: neither is greater than
//     the other, so there is no current header (2.2.2).
//   - EntryLength is exactly the descriptor sectors that DescriptorCount needs
//     and one data sector for each data descriptor (2.3.1), and an entry is not
//     longer than the log.
//   - Reserved fields that "MUST be 0" and are not said to be ignored make an
//     entry invalid when they are not, as does a tail outside the log: step 3
//     of 2.3.3 verifies each field.
//   - A tail is contained in a sequence when it is the offset of one of its
//     entries: 2.3.1.1 calls it the beginning log entry of a sequence.
//   - Steps 6 and 7 of 2.3.3 would never end for a sequence that fills the log:
//     the new tail is the old one, not less. Not having advanced ends the scan.
//   - An entry that writes over the file identifier, the headers or the log is
//     valid in form, and replaying it would break 2.2.1, 2.2.2.1 and 2.3.1: a
//     file whose active sequence has one is refused whole.
package replaymodel
