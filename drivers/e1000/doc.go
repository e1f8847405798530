// Package e1000 drives Intel's 82540EM and 82574L Gigabit Ethernet controllers,
// and what QEMU and Bochs emulate under those names.
//
// Sections are those of the PCI/PCI-X Family of Gigabit Ethernet Controllers
// Software Developer's Manual, 317453-006 ("8254x"). The 82574L's datasheet,
// 317694 rev. 3.4 ("82574"), is cited by the titles of its sections, which are
// the same registers unless a comment says otherwise.
//
// The driver reaches the device through three small interfaces for registers,
// memory and interrupt, and is tested on Linux against a model of the device's
// registers. One goroutine serves the device: it sleeps until an interrupt,
// hands received frames on in batches, takes back sent ones and follows the link.
package e1000
