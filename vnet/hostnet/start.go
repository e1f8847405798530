package hostnet

import (
	"fmt"

	"godwit/drivers/e1000"
	"godwit/drivers/pci"
	"godwit/kernel"
	"godwit/vnet/nic"
)

// Start brings the host's network up in the background: it finds the machine's
// network interfaces and gives them addresses as configured. What happens goes to
// cfg.Log, and Status tells how things stand; a machine without an interface is
// no error until somebody wants to use the network.
func Start(cfg Config) *Net {
	n := newNet(cfg)
	go func() {
		defer close(n.searched)
		n.build()
		bus, err := pci.Host()
		if err != nil {
			n.fail(err)
			return
		}
		for k, f := range e1000.Find(bus) {
			// Interfaces' interrupts are spread over the CPUs.
			cpu := k % kernel.NumCPU()
			open := func(h nic.Handler) (nic.Interface, func() error, error) {
				d, stop, err := e1000.Start(f, cpu, h)
				if err != nil {
					return nil, nil, err
				}
				return d, stop, nil
			}
			if err := n.add(fmt.Sprintf("%v at %v", e1000.ModelOf(f), f.Address), open, f.Address.String()); err != nil {
				n.logf("%v", err)
			}
		}
		if n.Count() == 0 {
			n.logf("%v", ErrNoInterface)
		}
	}()
	return n
}

// fail notes that there is no network, and why.
func (n *Net) fail(err error) {
	n.mu.Lock()
	n.problem = err.Error()
	n.mu.Unlock()
	n.logf("%v", err)
}

// Count is how many interfaces there are.
func (n *Net) Count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.ifaces)
}
