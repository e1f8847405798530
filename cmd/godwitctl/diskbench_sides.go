package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"godwit/vdisk"
	"godwit/vdisk/load"
)

// A side is one implementation with its images.
type side interface {
	name() string
	// can says why a row means nothing on this side, or nothing.
	can(benchRow) string
	// run takes count requests through; images are made anew where the row
	// needs it, outside the time.
	run(ctx context.Context, r benchRow, count int) (taken, error)
	// fill makes the image whose blocks are all allocated.
	fill(context.Context) error
}

// taken is how long a run took; opening is the first change of the opening, where it
// is known apart.
type taken struct{ steady, opening time.Duration }

const benchFill = 0x55

// prepare finds out who takes part, and makes the images.
func (b *bench) prepare(ctx context.Context) error {
	b.sides = []side{&ownSide{b, true}, &ownSide{b, false}}
	if img, err := exec.LookPath("qemu-img"); err != nil {
		b.note("qemu-img is not installed: there is nothing to compare with but a raw file (Debian: apt install qemu-utils)")
	} else {
		qio, err := exec.LookPath("qemu-io")
		if err != nil {
			b.note("qemu-io is not installed: trims are not compared")
		}
		for _, f := range []string{"raw", "vhdx", "qcow2"} {
			b.sides = append(b.sides, &qemuSide{b: b, img: img, io: qio, format: f})
		}
		if ok, err := strides(ctx, img, b.dir); err != nil {
			return err
		} else if !ok {
			b.note("this qemu-img does not wrap steps that reach beyond the disk's end as older ones do: scattered rows are not compared")
			for _, s := range b.sides[2:] {
				s.(*qemuSide).straight = true
			}
		}
	}
	return nil
}

// refill makes the images of a row anew, each time beginning with another side: how
// the page cache happens to hold a file stays with it, and is worth a factor.
func (b *bench) refill(ctx context.Context) error {
	b.refilled++
	for i := range b.sides {
		s := b.sides[(i+b.refilled)%len(b.sides)]
		if err := s.fill(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.name(), err)
		}
	}
	return nil
}

// settle waits until a file's dirty pages are written, so that one side's do not
// slow the next.
func settle(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// remove deletes an image and lets the file system come to terms with it, discards
// included.
func (b *bench) remove(path string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return settle(b.dir)
}

type ownSide struct {
	b    *bench
	vhdx bool
}

func (s *ownSide) name() string {
	if s.vhdx {
		return "godwit VHDX"
	}
	return "godwit raw"
}

func (s *ownSide) can(benchRow) string { return "" }

func (s *ownSide) path(filled bool) string {
	name := map[bool]string{false: "own-new", true: "own-filled"}[filled]
	return filepath.Join(s.b.dir, name+map[bool]string{false: ".raw", true: ".vhdx"}[s.vhdx])
}

type closeDisk interface {
	vdisk.Disk
	io.Closer
}

func (s *ownSide) create(path string, size int64) error {
	os.Remove(path)
	f, err := vdisk.OpenFile(path, vdisk.FileOptions{Create: true})
	if err != nil {
		return err
	}
	if s.vhdx {
		err = vdisk.Create(f, vdisk.CreateOptions{Size: size, BlockSize: int(s.b.block)})
	} else {
		err = f.Truncate(size)
	}
	return errors.Join(err, f.Close())
}

func (s *ownSide) open(path string) (closeDisk, error) {
	f, err := vdisk.OpenFile(path, vdisk.FileOptions{Direct: s.b.direct})
	if err != nil {
		return nil, err
	}
	if s.vhdx {
		return vdisk.Open(f, vdisk.Options{})
	}
	return vdisk.OpenRaw(f, 512)
}

func (s *ownSide) fill(ctx context.Context) error {
	path := s.path(true)
	if err := s.create(path, s.b.size); err != nil {
		return err
	}
	_, err := s.load(path, load.Load{Kind: vdisk.Write, Size: 1 << 20, Step: 1 << 20, Depth: 1, Count: int(s.b.size >> 20), Fill: benchFill})
	return err
}

// first is the first change of an opening: the load's first 4 KiB, and a flush if the
// load has some.
func first(d vdisk.Disk, l load.Load) (time.Duration, error) {
	p := load.Buffer(4 << 10)
	for i := range p {
		p[i] = l.Fill
	}
	start := time.Now()
	_, err := d.WriteAt(p, 0)
	if err == nil && l.FlushEvery > 0 {
		err = d.Flush()
	}
	return time.Since(start), err
}

func (s *ownSide) load(path string, l load.Load) (t taken, err error) {
	d, err := s.open(path)
	if err != nil {
		return t, err
	}
	q := vdisk.NewQueue(d, l.Depth)
	if l.Kind == vdisk.Write {
		t.opening, err = first(d, l)
	}
	if err == nil {
		t.steady, err = load.Run(q, d.Size(), l)
	}
	if err == nil && l.Kind == vdisk.Discard {
		start := time.Now()
		err = d.Flush()
		t.steady += time.Since(start)
	}
	q.Close()
	err = errors.Join(err, d.Close())
	if err == nil && l.Kind != vdisk.Read {
		err = settle(path)
	}
	return t, err
}

func (s *ownSide) run(ctx context.Context, r benchRow, count int) (t taken, err error) {
	if err := ctx.Err(); err != nil {
		return t, err
	}
	l := load.Load{Kind: vdisk.Read, Size: r.Size, Step: s.b.step(r), Depth: r.Depth, Count: count, Fill: benchFill, OneBuffer: true,
		FlushEvery: r.Flush, NoDrain: r.NoDrain}
	path := s.path(!r.Allocate)
	switch {
	case r.Allocate:
		if err := s.create(path, s.b.vast); err != nil {
			return t, err
		}
		defer func() { err = errors.Join(err, s.b.remove(path)) }()
	case r.Trim:
		if err := s.fill(ctx); err != nil {
			return t, err
		}
	}
	if r.Write {
		l.Kind = vdisk.Write
	}
	if r.Trim {
		l.Kind = vdisk.Discard
	}
	return s.load(path, l)
}

type qemuSide struct {
	b        *bench
	img, io  string
	format   string
	straight bool // it can not do scattered rows
}

func (s *qemuSide) name() string {
	if s.format == "vhdx" {
		return "qemu VHDX"
	}
	return "qemu " + s.format
}

func (s *qemuSide) can(r benchRow) string {
	switch {
	case r.Trim && s.io == "":
		return "qemu-io is not installed"
	case r.Trim && s.format == "vhdx":
		return "qemu's VHDX ignores trims"
	case r.Scatter && s.straight:
		return "this qemu-img has no such pattern"
	}
	return ""
}

func (s *qemuSide) path(filled bool) string {
	return filepath.Join(s.b.dir, map[bool]string{false: "qemu-new.", true: "qemu-filled."}[filled]+s.format)
}

func (s *qemuSide) create(ctx context.Context, path string, size int64) error {
	os.Remove(path)
	args := []string{"create", "-q", "-f", s.format}
	if s.format == "vhdx" {
		args = append(args, "-o", fmt.Sprintf("block_size=%d,subformat=dynamic", s.b.block))
	}
	_, err := output(ctx, s.img, append(args, path, strconv.FormatInt(size, 10))...)
	return err
}

func (s *qemuSide) fill(ctx context.Context) error {
	path := s.path(true)
	if err := s.create(ctx, path, s.b.size); err != nil {
		return err
	}
	_, err := s.bench(ctx, path, "-w", "-c", strconv.FormatInt(s.b.size>>20, 10), "-d", "1", "-s", "1M", fmt.Sprintf("--pattern=%d", benchFill))
	return errors.Join(err, settle(path))
}

func (s *qemuSide) cache() string {
	if s.b.direct {
		return "none"
	}
	return "writeback"
}

func (s *qemuSide) bench(ctx context.Context, path string, args ...string) (time.Duration, error) {
	args = append([]string{"bench", "-f", s.format, "-t", s.cache(), "-i", s.b.aio}, args...)
	out, err := output(ctx, s.img, append(args, path)...)
	if err != nil {
		return 0, err
	}
	m := benchTime.FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("qemu-img bench says %q, and not how long it took", out)
	}
	sec, err := strconv.ParseFloat(string(m[1]), 64)
	// It prints milliseconds: what took less than one is taken for one.
	return max(time.Duration(sec*float64(time.Second)), time.Millisecond), err
}

var benchTime = regexp.MustCompile(`Run completed in ([0-9.]+) seconds`)

func output(ctx context.Context, name string, args ...string) ([]byte, error) {
	c := exec.CommandContext(ctx, name, args...)
	var errs bytes.Buffer
	c.Stderr = &errs
	out, err := c.Output()
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", filepath.Base(name), args[0], err, bytes.TrimSpace(errs.Bytes()))
	}
	return out, err
}

func (s *qemuSide) run(ctx context.Context, r benchRow, count int) (t taken, err error) {
	path := s.path(!r.Allocate)
	if r.Trim {
		if err := s.fill(ctx); err != nil {
			return t, err
		}
		t.steady, err = s.trim(ctx, path, r, count)
		return t, err
	}
	if r.Allocate {
		if err := s.create(ctx, path, s.b.vast); err != nil {
			return t, err
		}
		defer func() { err = errors.Join(err, s.b.remove(path)) }()
	}
	args := []string{"-c", strconv.Itoa(count), "-d", strconv.Itoa(r.Depth), "-s", strconv.FormatInt(r.Size, 10), "-S", strconv.FormatInt(s.b.step(r), 10)}
	if r.Write {
		args = append(args, "-w", fmt.Sprintf("--pattern=%d", benchFill))
	}
	if r.Flush > 0 {
		args = append(args, fmt.Sprintf("--flush-interval=%d", r.Flush))
	}
	if r.NoDrain {
		args = append(args, "--no-drain")
	}
	t.steady, err = s.bench(ctx, path, args...)
	if err == nil && r.Write {
		err = settle(path)
	}
	return t, err
}

// trim adds up the times that qemu-io gives for each command, and takes its own for
// the flush at the end.
func (s *qemuSide) trim(ctx context.Context, path string, r benchRow, count int) (time.Duration, error) {
	c := exec.CommandContext(ctx, s.io, "-f", s.format, "-d", "unmap", "-t", s.cache(), path)
	in, err := c.StdinPipe()
	if err != nil {
		return 0, err
	}
	out, err := c.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := c.Start(); err != nil {
		return 0, err
	}
	defer c.Wait()
	defer in.Close()
	// One command at a time: it sleeps on what it has read but not looked at.
	answers := bufio.NewReader(out)
	ask := func(command string) (string, error) {
		if _, err := io.WriteString(in, command); err != nil {
			return "", err
		}
		var said []byte
		for !bytes.HasSuffix(said, []byte("qemu-io> ")) {
			c, err := answers.ReadByte()
			if err != nil {
				return "", fmt.Errorf("qemu-io ended before it answered: %w", err)
			}
			said = append(said, c)
		}
		return string(said), nil
	}
	if _, err := ask(""); err != nil {
		return 0, err
	}
	var took time.Duration
	for i := range count {
		said, err := ask(fmt.Sprintf("discard %d %d\n", int64(i)*r.Size, r.Size))
		if err != nil {
			return 0, err
		}
		m := opsRate.FindStringSubmatch(said)
		if m == nil {
			return 0, fmt.Errorf("qemu-io answers a discard with %q", said)
		}
		v, err := strconv.ParseFloat(m[1], 64)
		if err != nil || v <= 0 {
			return 0, fmt.Errorf("qemu-io says %q requests a second", m[1])
		}
		took += time.Duration(float64(time.Second) / v)
	}
	start := time.Now()
	_, err = ask("flush\n")
	return took + time.Since(start), err
}

var opsRate = regexp.MustCompile(`and ([^ ]+) ops/sec`)

// strides tells whether qemu-img bench takes steps modulo the disk's size.
func strides(ctx context.Context, img, dir string) (bool, error) {
	path := filepath.Join(dir, "strides.raw")
	defer os.Remove(path)
	const n, unit = 16, 64 << 10
	if err := os.WriteFile(path, make([]byte, n*unit), 0o600); err != nil {
		return false, err
	}
	if _, err := output(ctx, img, "bench", "-f", "raw", "-w", "--pattern=85", "-c", "4", "-d", "1", "-s", "64k", "-S", strconv.Itoa(11*unit), path); err != nil {
		return false, err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return false, err
	}
	for i := range n {
		want := byte(0)
		if i == 0 || i == 11 || i == 6 || i == 1 {
			want = 85
		}
		if b[i*unit] != want {
			return false, nil
		}
	}
	return true, nil
}
