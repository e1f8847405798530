package fetch

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

func content(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(n)}).Read(b)
	return b
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestTFTP(t *testing.T) {
	for name, tune := range map[string]func(s *tftpServer){
		"options":       func(s *tftpServer) {},
		"no options":    func(s *tftpServer) { s.options = false },
		"small blocks":  func(s *tftpServer) { s.maxBlock = 700 },
		"no window":     func(s *tftpServer) { s.maxWindow = 0 },
		"small window":  func(s *tftpServer) { s.maxWindow = 3 },
		"loss":          func(s *tftpServer) { s.loss = 0.05 },
		"loss, classic": func(s *tftpServer) { s.loss, s.options = 0.05, false },
		"twice":         func(s *tftpServer) { s.duplicate = true },
		"a stranger":    func(s *tftpServer) { s.stranger = true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, n := range []int{0, 1, 511, 512, 1468, 1469, 50_000, 1468 * 16} {
				s := newTFTPServer(t)
				tune(s)
				want := content(n)
				s.files["a/file"] = want
				got, err := (&Client{Net: loopback{}}).Get(within(t, time.Minute), s.url("a/file"))
				if err != nil || !bytes.Equal(got, want) {
					t.Fatalf("%d bytes: got %d, %v", n, len(got), err)
				}
			}
		})
	}
}

func TestTFTPBlockNumbersWrap(t *testing.T) {
	s := newTFTPServer(t)
	s.maxBlock = 8
	want := content(70_000 * 8)
	s.files["f"] = want
	got, err := (&Client{Net: loopback{}}).Get(within(t, time.Minute), s.url("f"))
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("got %d bytes, %v", len(got), err)
	}
}

func TestTFTPWindowIsNotSentAgainWithoutLoss(t *testing.T) {
	s := newTFTPServer(t)
	s.files["f"] = content(1468 * 100)
	begin := time.Now()
	if _, err := (&Client{Net: loopback{}}).Get(within(t, time.Minute), s.url("f")); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// Whoever waited too long on a busy machine, the client or the server, has had a window sent again.
	if most := 101 + 16*(1+int(time.Since(begin)/serverWait)); s.sent > most {
		t.Errorf("%d packets for 101 blocks", s.sent)
	}
}

func TestTFTPErrors(t *testing.T) {
	for name, tc := range map[string]struct {
		tune func(s *tftpServer)
		file string
		want string
	}{
		"absent":          {func(s *tftpServer) {}, "absent", "file not found (no ?[31msuch file)"},
		"longer":          {func(s *tftpServer) { s.tsize = "99" }, "f", "more than the 99 bytes"},
		"shorter":         {func(s *tftpServer) { s.tsize = "60000" }, "f", "ended after 50000 of 60000"},
		"wild size":       {func(s *tftpServer) { s.tsize = "-1" }, "f", "file size"},
		"over the limit":  {func(s *tftpServer) { s.tsize = "900000000000" }, "f", "larger than allowed"},
		"silence":         {func(s *tftpServer) { s.stall = 3 }, "f", "sent nothing"},
		"larger block":    {func(s *tftpServer) { s.oack = []byte("\x00\x06blksize\x009000\x00") }, "f", "block size"},
		"larger window":   {func(s *tftpServer) { s.oack = []byte("\x00\x06windowsize\x0099\x00") }, "f", "window size"},
		"unasked option":  {func(s *tftpServer) { s.oack = []byte("\x00\x06rollover\x001\x00") }, "f", "not asked for"},
		"block too long":  {func(s *tftpServer) { s.oack = append([]byte{0, 3, 0, 1}, make([]byte, 600)...) }, "f", "block of 600 bytes"},
		"acknowledgement": {func(s *tftpServer) { s.oack = []byte{0, 5, 0, 77, 'x', 0} }, "f", "error 77 (x)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newTFTPServer(t)
			tc.tune(s)
			s.files["f"] = content(50_000)
			idle := time.Minute
			if s.stall != 0 {
				idle = time.Second
			}
			_, err := (&Client{Net: loopback{}, Idle: idle}).Get(within(t, time.Minute), s.url(tc.file))
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), s.url(tc.file)) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
}

// An endless stream of packets that bring nothing new does not hold a transfer up.
func TestTFTPServerThatRepeatsItself(t *testing.T) {
	for name, packets := range map[string][2][]byte{
		"options": {[]byte("\x00\x06tsize\x00100\x00"), []byte("\x00\x06tsize\x00100\x00")},
		"a block": {append([]byte{0, 3, 0, 1}, make([]byte, 512)...), append([]byte{0, 3, 0, 1}, make([]byte, 512)...)},
		"rubbish": {append([]byte{0, 3, 0, 1}, make([]byte, 512)...), []byte("rubbish")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := &scripted{answers: packets[:1:1], endless: packets[1]}
			u, _ := url.Parse("tftp://10.0.0.1/f")
			r, _, err := openTFTP(within(t, 30*time.Second), n, u, 100*time.Millisecond)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if _, err := io.ReadAll(r); err == nil || !strings.Contains(err.Error(), "nothing new") {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestUnannouncedFileTakesNoMoreMemoryThanTheLimitAllows(t *testing.T) {
	const limit = 3_000_000
	f := &File{Size: -1, limit: limit, body: io.NopCloser(bytes.NewReader(content(limit)))}
	got, err := f.all()
	if err != nil || !bytes.Equal(got, content(limit)) || cap(got) > limit+1<<16 {
		t.Errorf("%d bytes, in %d of memory, %v", len(got), cap(got), err)
	}
	f = &File{Size: limit, limit: limit, body: io.NopCloser(bytes.NewReader(content(limit)))}
	if n := testing.AllocsPerRun(1, func() {
		f.done = 0
		f.body = io.NopCloser(bytes.NewReader(got))
		if _, err := f.all(); err != nil {
			t.Error(err)
		}
	}); n > 3 { // the file, and what reads it
		t.Errorf("an announced file took %v allocations", n)
	}
}

func TestTFTPCloseTellsTheServer(t *testing.T) {
	s := newTFTPServer(t)
	s.files["f"] = content(1_000_000)
	f, err := (&Client{Net: loopback{}}).Open(within(t, 30*time.Second), s.url("f"))
	if err != nil || f.Size != 1_000_000 {
		t.Fatal(f, err)
	}
	if _, err := io.ReadFull(f, make([]byte, 5000)); err != nil {
		t.Fatal(err)
	}
	f.Close()
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		s.mu.Lock()
		ended := s.ended
		s.mu.Unlock()
		if ended == "error 0" {
			return
		}
		if time.Since(start) > time.Minute {
			t.Fatalf("the server's transfer: %q", ended)
		}
	}
}

func TestTFTPContextEndsIt(t *testing.T) {
	s := newTFTPServer(t)
	s.stall = 1
	s.files["f"] = content(50_000)
	ctx, cancel := context.WithCancel(context.Background())
	f, err := (&Client{Net: loopback{}}).Open(ctx, s.url("f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := io.ReadAll(f); !errors.Is(err, context.Canceled) { // it would end otherwise by itself, in time
		t.Error(err)
	}
}

func TestHTTP(t *testing.T) {
	want := content(3_000_000)
	mux := http.NewServeMux()
	mux.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "file", time.Time{}, bytes.NewReader(want))
	})
	mux.HandleFunc("/chunked", func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		w.Write(want)
	})
	mux.Handle("/moved", http.RedirectHandler("/file", http.StatusFound))
	mux.Handle("/round", http.RedirectHandler("/round", http.StatusFound))
	mux.Handle("/secure", http.RedirectHandler("https://example.org/", http.StatusFound))
	mux.HandleFunc("/short", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "5000")
		w.Write(want[:3000])
	})
	stop := make(chan struct{})
	mux.HandleFunc("/silent", func(w http.ResponseWriter, r *http.Request) { <-stop })
	mux.HandleFunc("/drips", func(w http.ResponseWriter, r *http.Request) {
		c, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		for line := "HTTP/1.1 200 OK\r\nA: "; ; line = "b" {
			if _, err := io.WriteString(c, line); err != nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	mux.HandleFunc("/chunkdrips", func(w http.ResponseWriter, r *http.Request) {
		c, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		for line := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3;"; ; line = "b" {
			if _, err := io.WriteString(c, line); err != nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	mux.HandleFunc("/stalls", func(w http.ResponseWriter, r *http.Request) {
		w.Write(want[:3000])
		w.(http.Flusher).Flush()
		<-stop
	})
	srv := httptest.NewServer(mux)
	defer srv.Close()
	defer close(stop)
	get := func(path string) ([]byte, error) {
		idle := time.Minute
		switch path {
		case "/silent", "/stalls", "/drips", "/chunkdrips":
			idle = 300 * time.Millisecond
		}
		return (&Client{Net: loopback{}, Idle: idle, Limit: 4_000_000}).Get(within(t, time.Minute), srv.URL+path)
	}
	for _, path := range []string{"/file", "/chunked", "/moved"} {
		if got, err := get(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", path, len(got), err)
		}
	}
	for path, want := range map[string]string{
		"/absent": "404",
		"/round":  "5 redirections",
		"/secure": "not http",
		"/short":  "EOF",
		"/silent": "the server sent nothing, or too little, for 300ms",
		"/stalls": "after 3000 bytes",
		"/drips":  "too little, for 300ms",

		"/chunkdrips": "i/o timeout",
	} {
		if _, err := get(path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), srv.URL+path) {
			t.Errorf("%s: error %v, want one with %q", path, err, want)
		}
	}
	for _, path := range []string{"/file", "/chunked"} {
		_, err := (&Client{Net: loopback{}, Limit: 2_999_999}).Get(within(t, 30*time.Second), srv.URL+path)
		if !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s over the limit: %v", path, err)
		}
	}
}

func TestHTTPWithoutServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := "http://" + l.Addr().String() + "/x"
	l.Close()
	if _, err := (&Client{Net: loopback{}}).Get(within(t, 30*time.Second), address); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Error(err)
	}
}

func TestProgressEndsAtTheEnd(t *testing.T) {
	s := newTFTPServer(t)
	s.files["f"] = content(200_000)
	var done, total int64
	calls := 0
	c := Client{Net: loopback{}, Progress: func(d, n int64) {
		if d < done {
			t.Error("progress went back")
		}
		done, total = d, n
		calls++
	}}
	if _, err := c.Get(within(t, 30*time.Second), s.url("f")); err != nil {
		t.Fatal(err)
	}
	if done != 200_000 || total != 200_000 || calls > 100 {
		t.Errorf("%d of %d, %d calls", done, total, calls)
	}
}

func TestBadAddresses(t *testing.T) {
	for address, want := range map[string]string{
		"ftp://server/file":     "use http:// or tftp://",
		"module:vmlinuz":        "no host",
		"/file":                 "no host",
		"tftp://server/":        "names no file",
		"tftp://server":         "names no file",
		"tftp://server:99999/f": "port",
		"http://%zz/":           "invalid",
		"tftp://server/" + strings.Repeat("x", 500): "names no file",
		"tftp://server/a%00b":                       "names no file",
	} {
		if _, err := (&Client{Net: loopback{}}).Open(within(t, 10*time.Second), address); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", address, err, want)
		}
	}
}

func TestModeInTheAddress(t *testing.T) {
	s := newTFTPServer(t)
	s.files["f"] = content(10)
	if _, err := (&Client{Net: loopback{}}).Get(within(t, 10*time.Second), s.url("f;mode=octet")); err != nil {
		t.Error(err)
	}
}

func FuzzParseTFTP(f *testing.F) {
	f.Add([]byte{0, 3, 0, 1, 'x'})
	f.Add([]byte{0, 5, 0, 1, 'n', 'o', 0})
	f.Add([]byte("\x00\x06blksize\x001468\x00tsize\x00100\x00"))
	f.Add([]byte{0, 6, 0, 0})
	f.Add([]byte{0, 4, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parseTFTP(b)
		if err != nil {
			return
		}
		switch p.op {
		case opData:
			if len(p.data) != len(b)-4 {
				t.Error("data lost")
			}
		case opError:
			if strings.ContainsFunc(p.failure().Error(), func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Errorf("unprintable: %q", p.failure())
			}
		case opOACK:
			terms, err := accept(p.options, wantedTerms)
			if err == nil && (terms.block < 8 || terms.block > wantedTerms.block || terms.window < 1 || terms.window > wantedTerms.window || terms.size < -1) {
				t.Errorf("%+v", terms)
			}
		default:
			t.Errorf("operation %d let through", p.op)
		}
	})
}

// FuzzTransfer plays a server that sends whatever it likes.
func FuzzTransfer(f *testing.F) {
	f.Add([]byte{0, 3, 0, 1, 'x'}, []byte{0, 3, 0, 2})
	f.Add([]byte("\x00\x06blksize\x008\x00"), []byte{0, 3, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8})
	f.Add([]byte("\x00\x06tsize\x003\x00"), []byte{0, 3, 0, 1, 1, 2, 3})
	f.Fuzz(func(t *testing.T, first, second []byte) {
		n := &scripted{answers: [][]byte{first, second, second}}
		u, _ := url.Parse("tftp://10.0.0.1/f")
		r, _, err := openTFTP(context.Background(), n, u, 5*time.Millisecond)
		if err != nil {
			return
		}
		defer r.Close()
		got, _ := io.ReadAll(r)
		if len(got) > len(first)+2*len(second) {
			t.Errorf("%d bytes out of nothing", len(got))
		}
	})
}

// scripted is a network of one peer that answers from a script, then no more.
type scripted struct {
	loopback
	answers [][]byte
	endless []byte // after that, for ever
}

func (s *scripted) ListenPacket(context.Context, string, string) (net.PacketConn, error) {
	return &script{s: s}, nil
}

type script struct {
	net.PacketConn
	s *scripted
}

type expired struct{ error }

func (expired) Timeout() bool   { return true }
func (expired) Temporary() bool { return true }
func (expired) Error() string   { return "timeout" }

func (c *script) ReadFrom(b []byte) (int, net.Addr, error) {
	if len(c.s.answers) == 0 && c.s.endless != nil {
		return copy(b, c.s.endless), &net.UDPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 4000}, nil
	}
	if len(c.s.answers) == 0 {
		time.Sleep(6 * time.Millisecond)
		return 0, nil, expired{}
	}
	n := copy(b, c.s.answers[0])
	c.s.answers = c.s.answers[1:]
	return n, &net.UDPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 4000}, nil
}

func (c *script) WriteTo(b []byte, _ net.Addr) (int, error) { return len(b), nil }
func (c *script) SetReadDeadline(time.Time) error           { return nil }
func (c *script) Close() error                              { return nil }
