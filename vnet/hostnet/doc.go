// Package hostnet is the host's own network: gVisor's TCP/IP stack over network
// interfaces, with addresses from its configuration or from DHCP.
//
// Start brings it up in the background and returns at once. Connections are
// ordinary net.Conn and net.Listener. Nothing here uses the sockets of package
// net, which do not exist in the host image.
package hostnet
