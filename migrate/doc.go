// Package migrate moves running guests between hosts by iterative pre-copy. It
// knows no hardware: a machine gives it the interfaces of guest.go, the network
// a net.Conn.
//
// docs/migration.md has the story, protocol.go the messages, the states of both
// ends and why the guest never runs twice. A Manager (manager.go) is a host's part
// in it; source.go and target.go are the two ends, pipeline.go fills the line,
// choice.go decides whether pages are compressed, group.go how many pages a write
// fault opens.
package migrate
