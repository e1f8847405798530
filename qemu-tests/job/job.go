// Package job runs programs that start others, such as the go command: when their context ends, all of them end.
package job

import (
	"context"
	"os/exec"
	"syscall"
	"time"
)

// patience is how long an interrupted program may take to clean up.
const patience = 10 * time.Second

// Command is exec.CommandContext for such a program. It has a process group of its own, all of which is interrupted; it
// cannot read from the terminal.
func Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = patience
	return cmd
}
