package machine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// process is a running emulator. It ends with its context, with kill, or by itself, and never outlives the rig: the
// kernel kills it when the rig dies.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error
	once sync.Once
}

const graceToDie = 2 * time.Second

func startProcess(ctx context.Context, cmd *exec.Cmd) (*process, error) {
	// A process group of its own keeps the terminal's ^C to the rig, which ends the emulators in its own order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	context.AfterFunc(ctx, p.kill)
	return p, nil
}

// kill ends the process and waits until it is gone.
func (p *process) kill() {
	p.once.Do(func() {
		p.signal(syscall.SIGTERM)
		select {
		case <-p.done:
		case <-time.After(graceToDie):
			p.signal(syscall.SIGKILL)
		}
	})
	<-p.done
}

func (p *process) signal(s syscall.Signal) {
	select {
	case <-p.done: // the number may belong to another process now
		return
	default:
	}
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		panic(fmt.Sprintf("signal %v to our own child %d: %v", s, p.cmd.Process.Pid, err))
	}
}
