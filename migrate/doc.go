// Package migrate moves running guests between hosts by iterative pre-copy. It
// knows no hardware: a machine gives it the interfaces of guest.go, the network
// a net.Conn. protocol.go has the protocol, docs/migration.md the story.
package migrate
