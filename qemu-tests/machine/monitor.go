package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// Monitor gives QEMU's monitor a command that answers nothing unless it fails, such as "nmi". The machine's Spec asked for
// a monitor.
func (m *Machine) Monitor(ctx context.Context, command string) error {
	if err := m.tellMonitor(ctx, command); err != nil {
		return fmt.Errorf("%s: monitor: %s: %w", m.Name, command, err)
	}
	return nil
}

func (m *Machine) tellMonitor(ctx context.Context, command string) error {
	if m.monitor == "" {
		return errors.New("this machine has none")
	}
	c, err := new(net.Dialer).DialContext(ctx, "unix", m.monitor)
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })()
	return monitorCommand(c, command)
}

// monitorCommand speaks QMP (docs/interop/qmp-spec.txt in QEMU's sources): one JSON object after the other, a greeting
// first, and events between the answers.
func monitorCommand(c io.ReadWriter, command string) error {
	in, out := json.NewDecoder(c), json.NewEncoder(c)
	type object = map[string]any
	for _, ask := range []object{
		{"execute": "qmp_capabilities"},
		{"execute": "human-monitor-command", "arguments": object{"command-line": command}},
	} {
		if err := out.Encode(ask); err != nil {
			return err
		}
		answer := object{}
		for answer["return"] == nil {
			answer = object{}
			if err := in.Decode(&answer); err != nil {
				return err
			}
			if e, bad := answer["error"]; bad {
				return fmt.Errorf("%v", e)
			}
		}
		if text, ok := answer["return"].(string); ok && strings.TrimSpace(text) != "" {
			return errors.New(strings.TrimSpace(text))
		}
	}
	return nil
}
