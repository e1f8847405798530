package vmguest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"godwit/migrate"
	"godwit/vmm"
)

// Rehearse moves a machine back and forth between home and a second registry of the
// same host, over a line in memory: everything that a migration does but the
// network, with the real processor's tables and states. It needs the machine's
// memory a second time. The machine ends where it was, unless another took its name meanwhile.
func Rehearse(ctx context.Context, home *Target, name string, trips int, o migrate.Options, told func(migrate.Report)) error {
	other := vmm.NewRegistry(home.Registry.Host())
	var sessions sync.WaitGroup
	ends := [2]*Target{home, {Registry: other}}
	var m [2]*migrate.Manager
	for i := range m {
		m[i] = migrate.NewManager(migrate.Config{
			Target: ends[i], Find: Find(ends[i].Registry),
			Dial: func(context.Context, string) (net.Conn, error) {
				a, b := net.Pipe()
				sessions.Add(1)
				go func() { defer sessions.Done(); m[1-i].ServeConn(b) }()
				return a, nil
			},
		})
	}
	end := func() {
		m[0].Close()
		m[1].Close()
		sessions.Wait()
	}
	defer end()
	for i := range 2 * trips {
		rep, err := m[i%2].Migrate(ctx, name, "rehearsal", o)
		told(rep)
		if err == nil {
			continue
		}
		err = fmt.Errorf("move %d: %w", i+1, err)
		if i%2 == 1 {
			// Home, whatever became of it there: it may have powered off. The failed move must have given up its name.
			end()
			vm, lost := other.Get(name)
			if lost == nil {
				lost = home.Registry.Adopt(vm, other)
			}
			if lost != nil {
				other.Close()
				return errors.Join(err, fmt.Errorf("vm %s could not be taken back and is gone: %w", name, lost))
			}
		}
		return err
	}
	return nil
}
