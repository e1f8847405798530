package job

import (
	"bufio"
	"context"
	"io"
	"os"
	"testing"
)

// The child of a shell that waits for it, as `go run` does for its program, holds the pipe open as long as it lives.
func TestAllThatAProgramStartedEndsWithIt(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := Command(ctx, "sh", "-c", `trap : INT; sh -c "echo begun; exec sleep 1000"`)
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
