package machine

import (
	"os"
	"os/exec"
)

// output is the reading end of a child's standard output. Unlike exec.Cmd.StdoutPipe it stays readable after Wait, so
// what an emulator printed last is not lost.
type output struct {
	*os.File
	child *os.File
}

func outputPipe(cmd *exec.Cmd) (*output, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout = w
	return &output{r, w}, nil
}

// closeChildEnd is called once the child has been started, so that its end is the stream's.
func (o *output) closeChildEnd() { o.child.Close() }
