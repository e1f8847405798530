package control

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"godwit/cmd/internal/shell"
)

func testShell() *shell.Shell {
	s := shell.New()
	s.Add(
		&shell.Command{Name: "echo", Args: "WORD ...", Summary: "echo", Example: "echo a", Run: func(c *shell.Call) error {
			fmt.Fprintln(c.Out, strings.Join(c.Args, "|"))
			return nil
		}},
		&shell.Command{Name: "fail", Summary: "fail", Example: "fail", Run: func(c *shell.Call) error { return errors.New("it is broken; mend it") }},
		&shell.Command{Name: "wait", Summary: "wait", Example: "wait", Run: func(c *shell.Call) error {
			fmt.Fprintln(c.Out, "waiting")
			<-c.Ctx.Done()
			return c.Ctx.Err()
		}},
		&shell.Command{Name: "cat", Summary: "cat", Example: "cat", Run: func(c *shell.Call) error {
			c.Raw(true)
			b := make([]byte, 5)
			_, err := io.ReadFull(c.Input, b)
			c.Out.Write(b)
			return err
		}},
	)
	return s
}

func pair(t *testing.T) net.Conn {
	a, b := net.Pipe()
	s := &Server{Host: "test", Shell: testShell(), Log: t.Logf}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Add(1)
	go func() { defer wg.Done(); s.ServeConn(ctx, b) }()
	t.Cleanup(func() { a.Close(); cancel(); wg.Wait() })
	return a
}

func TestCommandRunsRemotely(t *testing.T) {
	var out bytes.Buffer
	if err := Run(context.Background(), pair(t), Command{Args: []string{"echo", "a b", "c"}, Out: &out}); err != nil || out.String() != "a b|c\n" {
		t.Fatalf("%q, %v", out.String(), err)
	}
}

func TestErrorOfTheCommandArrives(t *testing.T) {
	err := Run(context.Background(), pair(t), Command{Args: []string{"fail"}, Out: io.Discard})
	var h HostError
	if !errors.As(err, &h) || err.Error() != "it is broken; mend it" || h.Usage {
		t.Fatal(err)
	}
	for _, wrong := range [][]string{{"fail", "now"}, {"nonsense"}, {"fail", "-json"}, {}} {
		if err := Run(context.Background(), pair(t), Command{Args: wrong, Out: io.Discard}); !errors.As(err, &h) || !h.Usage {
			t.Errorf("%q: %v is no error of the caller's", wrong, err)
		}
	}
}

func TestCancelEndsTheCommand(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	w := writerFunc(func(b []byte) { cancel() }) // cancel as soon as it says that it waits
	err := Run(ctx, pair(t), Command{Args: []string{"wait"}, Out: w})
	if err == nil || err.Error() != "wait: cancelled" {
		t.Fatal(err)
	}
}

type writerFunc func([]byte)

func (f writerFunc) Write(b []byte) (int, error) { f(b); return len(b), nil }

func TestKeyboardIsPassedOn(t *testing.T) {
	var out bytes.Buffer
	raw := false
	err := Run(context.Background(), pair(t), Command{Args: []string{"cat"}, Out: &out, Input: strings.NewReader("hello"), Raw: func(on bool) { raw = on }})
	if err != nil || out.String() != "hello" || !raw {
		t.Fatalf("%q raw %v, %v", out.String(), raw, err)
	}
}

func TestClientThatVanishesEndsItsCommand(t *testing.T) {
	a, b := net.Pipe()
	ended := make(chan struct{})
	s := &Server{Shell: testShell(), Log: t.Logf}
	go func() { s.ServeConn(context.Background(), b); close(ended) }()
	fmt.Fprintf(a, "%s\n", greeting)
	readLine(a)
	writeFrame(a, frameRequest, []byte(`{"args":["wait"]}`))
	readFrame(a)
	a.Close()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Fatal("the command went on")
	}
}

func TestWhoeverIsNoGodwitctlIsToldApart(t *testing.T) {
	a, b := net.Pipe()
	log := make(chan string, 1)
	s := &Server{Shell: testShell(), Log: func(f string, v ...any) { log <- fmt.Sprintf(f, v...) }}
	go s.ServeConn(context.Background(), b)
	fmt.Fprintf(a, "GET /\x1b[2J HTTP/1.1\n")
	if l := <-log; !strings.Contains(l, `began with "GET /\x1b[2J HTTP/1.1"`) || !strings.Contains(l, "is it godwitctl?") || strings.Contains(l, "control port") {
		t.Error(l)
	}
}

func TestAHostThatHasNoPlaceIsToldApart(t *testing.T) {
	a, b := net.Pipe()
	go func() { readLine(b); b.Close() }()
	if err := Run(context.Background(), a, Command{Args: []string{"echo"}}); err == nil || !strings.Contains(err.Error(), "without a greeting") {
		t.Error(err)
	}
}

// FuzzClient is a host that answers anything.
func FuzzClient(f *testing.F) {
	frame := func(t frameType, p string) string {
		var h [5]byte
		h[0] = byte(t)
		binary.LittleEndian.PutUint32(h[1:], uint32(len(p)))
		return string(h[:]) + p
	}
	f.Add([]byte(greeting + " h\n" + frame(frameOutput, "x") + frame(frameRaw, "\x01") + frame(frameDone, `{"error":"e","usage":true}`)))
	f.Add([]byte(greeting + " h\n" + frame(frameAlive, "") + "\xff\xff\xff\xff\xff"))
	f.Add([]byte("SSH-2.0-x\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		a, b := net.Pipe()
		go io.Copy(io.Discard, b)
		go func() {
			b.SetWriteDeadline(time.Now().Add(time.Second))
			b.Write(in)
			b.Close()
		}()
		var out bytes.Buffer
		err := Run(context.Background(), a, Command{Args: []string{"x"}, Out: &out, Raw: func(bool) {}})
		if err == nil && !bytes.Contains(in, []byte{byte(frameDone)}) {
			t.Fatal("no end, and no error")
		}
	})
}

func FuzzServer(f *testing.F) {
	frame := func(t frameType, p string) string {
		var h [5]byte
		h[0] = byte(t)
		binary.LittleEndian.PutUint32(h[1:], uint32(len(p)))
		return string(h[:]) + p
	}
	f.Add([]byte(greeting + "\n" + frame(frameRequest, `{"args":["echo","x"]}`)))
	f.Add([]byte(greeting + "\n" + frame(frameRequest, `{"args":["cat"],"input":true}`) + frame(frameInput, "hello")))
	f.Add([]byte("GET / HTTP/1.1\n\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		a, b := net.Pipe()
		s := &Server{Shell: testShell(), Log: func(string, ...any) {}}
		ended := make(chan struct{})
		go func() { s.ServeConn(context.Background(), b); close(ended) }()
		go io.Copy(io.Discard, a)
		a.SetWriteDeadline(time.Now().Add(time.Second))
		a.Write(in)
		a.Close()
		<-ended
	})
}

func TestClientsThatAreDroppedDoNotWashOutTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lines []string
		s := &Server{Log: func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }}
		for range 2 {
			lines = nil
			for range 1000 {
				s.complain("one is dropped")
			}
			time.Sleep(complaintsTime)
			synctest.Wait()
			if len(lines) != complaintsMost+1 || !strings.Contains(lines[complaintsMost], "995 more") {
				t.Fatalf("%q", lines)
			}
		}
	})
}

// A client whose computer was switched off, or whose line is dead, closes nothing. Its console must not keep its place for
// as long as TCP hopes.
func TestAClientThatDoesNotAnswerIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		s := &Server{Host: "test", Shell: testShell(), Log: t.Logf}
		done := make(chan bool)
		go func() { s.ServeConn(context.Background(), b); close(done) }()
		fmt.Fprintf(a, "%s\n", greeting)
		if _, err := readLine(a); err != nil {
			t.Fatal(err)
		}
		if err := writeFrame(a, frameRequest, []byte(`{"args":["wait"]}`)); err != nil {
			t.Fatal(err)
		}
		var alive atomic.Bool
		alive.Store(true)
		go func() { // the line takes all there is
			for {
				typ, _, err := readFrame(a)
				if err != nil {
					return
				}
				if typ == frameAlive && alive.Load() {
					writeFrame(a, frameAlive, nil)
				}
			}
		}()
		time.Sleep(10 * aliveTimeout)
		select {
		case <-done:
			t.Fatal("a client that answers was given up")
		default:
		}
		alive.Store(false)
		time.Sleep(2 * aliveTimeout)
		select {
		case <-done:
		default:
			t.Error("the command of a client that has gone still runs")
		}
		a.Close()
		<-done
	})
}

// The real client answers.
func TestAClientWaitsForACommandThatTakesLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		s := &Server{Host: "test", Shell: testShell(), Log: t.Logf}
		done := make(chan bool)
		go func() { s.ServeConn(context.Background(), b); close(done) }()
		ctx, cancel := context.WithTimeout(context.Background(), 20*aliveTimeout)
		defer cancel()
		begin := time.Now()
		var out bytes.Buffer
		err := Run(ctx, a, Command{Args: []string{"wait"}, Out: &out})
		if d := time.Since(begin); d < 20*aliveTimeout || err == nil || !strings.Contains(err.Error(), "cancelled") {
			t.Errorf("after %v: %v", d, err)
		}
		<-done
	})
}

// resettable notes how it was closed.
type resettable struct {
	net.Conn
	linger atomic.Int64 // 1 more than what was set
}

func (r *resettable) SetLinger(seconds int) error { r.linger.Store(int64(seconds) + 1); return nil }

func TestAStrangerLeavesNoConnectionBehind(t *testing.T) {
	for hello, dropped := range map[string]bool{"GET / HTTP/1.1\n": true, greeting + "\n": false} {
		a, b := net.Pipe()
		s := &Server{Host: "test", Shell: testShell(), Log: t.Logf}
		r := &resettable{Conn: b}
		ended := make(chan bool)
		go func() { s.ServeConn(context.Background(), r); close(ended) }()
		if dropped {
			io.WriteString(a, hello)
		} else if err := Run(context.Background(), a, Command{Args: []string{"echo"}, Out: io.Discard}); err != nil {
			t.Fatal(err)
		}
		<-ended
		if (r.linger.Load() == 1) != dropped {
			t.Errorf("%q: linger %d", hello, r.linger.Load()-1)
		}
		a.Close()
	}
}

// A forgetful connection is like gVisor's: once it has ended it does not say any more who was there.
type forgetful struct {
	net.Conn
	ended bool
}

func (f *forgetful) Read(b []byte) (int, error) { f.ended = true; return f.Conn.Read(b) }

func (f *forgetful) RemoteAddr() net.Addr {
	if f.ended {
		return nil
	}
	return f.Conn.RemoteAddr()
}

func TestTheLogSaysWhoWasDropped(t *testing.T) {
	a, b := net.Pipe()
	go func() { io.WriteString(a, "GET / HTTP/1.1\n"); a.Close() }()
	var log []string
	s := &Server{Host: "test", Shell: testShell(), Log: func(f string, args ...any) { log = append(log, fmt.Sprintf(f, args...)) }}
	s.ServeConn(context.Background(), &forgetful{Conn: b})
	if len(log) != 1 || !strings.Contains(log[0], "a client at pipe is dropped") {
		t.Errorf("%q", log)
	}
}
