package job

import (
	"bufio"
	"context"
	"io"
	"os"
	"testing"
	"time"
)

// The child of a shell that waits for it, as `go run` does for its program, holds the pipe open as long as it lives.
func TestAllThatAProgramStartedEndsWithIt(t *testing.T) { endsWithIt(t, ":") }

func TestAProgramThatIgnoresInterruptsIsKilled(t *testing.T) {
	defer func(p time.Duration) { patience = p }(patience)
	patience = 10 * time.Millisecond
	endsWithIt(t, "''")
}

// endsWithIt does that with a shell that does something at an interrupt; its child ignores what it ignores.
func endsWithIt(t *testing.T, atInterrupt string) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := Command(ctx, "sh", "-c", `trap `+atInterrupt+` INT; sh -c "echo begun; exec sleep 1000"`)
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	out := bufio.NewReader(r)
	if line, err := out.ReadString('\n'); err != nil || line != "begun\n" {
		t.Fatalf("%q, %v", line, err)
	}
	cancel()
	cmd.Wait()
	if _, err := io.ReadAll(out); err != nil { // until nobody holds it
		t.Fatal(err)
	}
}
