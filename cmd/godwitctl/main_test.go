package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// asProgram in the environment makes the test's program godwitctl itself.
const asProgram = "GODWITCTL_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

// program is a godwitctl that has not begun yet.
func program(t *testing.T, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), asProgram+"=1", "GODWIT_HOST=")
	return cmd
}

// end is how a program ended: its exit status, -1 if a signal did it.
func end(t *testing.T, err error) int {
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if exit == nil {
		return 0
	}
	return exit.ExitCode()
}

// answering is the address of somebody who lets f talk to whoever connects.
func answering(t *testing.T, f func(net.Conn)) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); f(c) }()
		}
	}()
	return l.Addr().String()
}

func frame(kind byte, payload string) string {
	b := binary.LittleEndian.AppendUint32([]byte{kind}, uint32(len(payload)))
	return string(b) + payload
}

// hello greets, and takes what the program asks; the rest is said behind it.
func hello(c net.Conn, rest ...string) {
	b := make([]byte, 4096)
	c.Read(b)
	io.WriteString(c, "godwit-control/1 liar\n")
	c.Read(b)
	for _, r := range rest {
		io.WriteString(c, r)
	}
}

const (
	frameCancel = 3
	frameOut    = 4
	frameAlive  = 5
	frameDone   = 6
)

func TestWhoeverAnswersTheProgramEndsAndSaysWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		name string
		peer func(net.Conn)
		want string
	}{
		{"hangs up", func(c net.Conn) {}, "closed without a greeting"},
		{"a web server", func(c net.Conn) { io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n") }, "not a Godwit control port"},
		{"noise", func(c net.Conn) { io.WriteString(c, strings.Repeat("\x1b[2J", 5000)) }, "not a Godwit control port"},
		{"a later release", func(c net.Conn) { io.WriteString(c, "godwit-control/2 \x1b[2J\n") }, "use matching releases"},
		{"half an answer", func(c net.Conn) { hello(c, frame(frameOut, "half")) }, "connection lost"},
		{"half a frame", func(c net.Conn) { hello(c, frame(frameOut, "half")[:7]) }, "connection lost"},
		{"no frame", func(c net.Conn) { hello(c, "\x00\x00\x00\x00\x00") }, "breaks the protocol"},
		{"a giant", func(c net.Conn) { hello(c, "\x04\x00\x00\x00\x80") }, "breaks the protocol"},
		{"a request", func(c net.Conn) { hello(c, frame(1, "{}")) }, "breaks the protocol"},
		{"no result", func(c net.Conn) { hello(c, frame(frameDone, "{")) }, "breaks the protocol"},
		{"an error with escapes", func(c net.Conn) { hello(c, frame(frameDone, `{"error":"\u001b[2Jbad"}`)) }, "error: "},
	} {
		cmd := program(t, "-host", answering(t, c.peer), "host")
		var complaint bytes.Buffer
		cmd.Stderr = &complaint
		if status := end(t, cmd.Run()); status != 1 || !strings.Contains(complaint.String(), c.want) || strings.ContainsRune(complaint.String(), 0x1b) {
			t.Errorf("%s: status %d, %q", c.name, status, &complaint)
		}
	}
}

func TestAHostThatDoesNotCancelIsLeftAtTheSecondInterrupt(t *testing.T) {
	cancelled := make(chan bool, 1)
	addr := answering(t, func(c net.Conn) {
		hello(c, frame(frameOut, "busy\n"), frame(frameAlive, ""))
		for b := make([]byte, 5); b[0] != frameCancel; { // it says that it is alive, too
			if _, err := io.ReadFull(c, b); err != nil {
				return
			}
		}
		cancelled <- true
		io.Copy(io.Discard, c)
	})
	cmd := program(t, "-host", addr, "selftest")
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	io.ReadFull(out, make([]byte, 5)) // it listens to signals
	cmd.Process.Signal(os.Interrupt)
	<-cancelled
	cmd.Process.Signal(os.Interrupt)
	if status := end(t, cmd.Wait()); status != 1 || !strings.Contains(complaint.String(), "may still be running") {
		t.Errorf("status %d, %q", status, &complaint)
	}
}

func TestAnInterruptBeforeTheGreetingEndsTheProgram(t *testing.T) {
	connected := make(chan bool, 1)
	addr := answering(t, func(c net.Conn) {
		c.Read(make([]byte, 64)) // its greeting
		connected <- true
		c.Read(make([]byte, 64))
	})
	cmd := program(t, "-host", addr, "host")
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-connected
	cmd.Process.Signal(os.Interrupt)
	if status := end(t, cmd.Wait()); status != 1 || !strings.Contains(complaint.String(), "interrupted") {
		t.Errorf("status %d, %q", status, &complaint)
	}
}

// The terminal would stay in raw mode if SIGPIPE ended the program.
func TestClosedOutputEndsTheProgramQuietlyButNotByASignal(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer w.Close()
	addr := answering(t, func(c net.Conn) {
		hello(c, frame(frameOut, "nobody reads this"))
		c.Read(make([]byte, 16))
	})
	cmd := program(t, "-host", addr, "log")
	var complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = w, &complaint
	if status := end(t, cmd.Run()); status != 1 || complaint.Len() != 0 {
		t.Errorf("status %d, %q", status, &complaint)
	}
}

func TestExitStatusTellsWrongCallsFromFailures(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := silent.Addr().String()
	silent.Close()
	usage := answering(t, func(c net.Conn) { hello(c, frame(frameDone, `{"error":"usage","usage":true}`)) })
	ok := answering(t, func(c net.Conn) { hello(c, frame(frameOut, "fine\n"), frame(frameDone, "{}")) })
	for _, c := range []struct {
		args   []string
		status int
	}{
		{nil, 2}, {[]string{"host"}, 2}, {[]string{"-host", ok}, 2}, {[]string{"-nonsense"}, 2}, {[]string{"-h"}, 0},
		{[]string{"-host", nobody, "host"}, 1}, {[]string{"-host", "192.0.2.10:99999", "host"}, 2}, {[]string{"-host", usage, "fly"}, 2}, {[]string{"-host", ok, "host"}, 0},
	} {
		if status := end(t, program(t, c.args...).Run()); status != c.status {
			t.Errorf("%q: status %d, not %d", c.args, status, c.status)
		}
	}
}

func TestTheHostMayBeNamedWithoutAPort(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.10": "192.0.2.10:7480", "192.0.2.10:80": "192.0.2.10:80", "192.0.2.10:": "192.0.2.10:7480",
		"web1": "web1:7480", "::1": "[::1]:7480", "[::1]": "[::1]:7480", "[::1]:80": "[::1]:80",
	} {
		if got, err := address(in); got != want || err != nil {
			t.Errorf("%s: %s, %v, not %s", in, got, err, want)
		}
	}
	for _, in := range []string{":", ":80", "web1:x", "web1:0", "web1:99999", "web1:-1", "http://web1", "http://web1:80", "a:b:c", "[web1:80"} {
		if got, err := address(in); err == nil || !strings.Contains(err.Error(), "-host 192.0.2.10:7480") {
			t.Errorf("%s: %s, %v", in, got, err)
		}
	}
}
