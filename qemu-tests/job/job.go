// Package job runs programs that start others, such as the go command: when their context ends, all of them end.
package job

import (
	"context"
	"os/exec"
	"syscall"
	"time"
)

// patience is how long an interrupted program may take to clean up.
var patience = 10 * time.Second

// Command is exec.CommandContext for such a program. It has a process group of its own, all of which is interrupted, and
// killed if that does not end it: a shell that started us in the background may have had interrupts ignored. It cannot read
// from the terminal.
func Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error {
		all := -cmd.Process.Pid
		time.AfterFunc(patience, func() { syscall.Kill(all, syscall.SIGKILL) }) // there may be nobody left
		return syscall.Kill(all, syscall.SIGINT)
	}
	cmd.WaitDelay = patience + time.Second
	return cmd
}
