package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"godwit/cmd/internal/shell"
	"godwit/vdisk"
)

const diskUsage = `godwitctl disk works on disk images, on this machine.

usage: godwitctl disk COMMAND [OPTION ...] FILE ...

    create -size 100G web.vhdx                   an empty dynamic image
    create -size 8G -fixed -sector 4096 db.vhdx
    create -parent base.vhdx web.vhdx            a differencing image over base.vhdx
    info web.vhdx
    check web.vhdx                               looks, and changes nothing; status 3 if there is damage
    repair -n web.vhdx                           what a repair would do
    repair web.vhdx                              mends it, and loses nothing that can be read
    snapshot web.vhdx web-1.vhdx                 freezes web.vhdx; use web-1.vhdx from then on
    commit -remove web-1.vhdx                    puts what it holds into its parent; again after a crash or ^C
    resize -size 200G web.vhdx                   larger or smaller; data behind a new end is only lost with -discard
    compact web.vhdx                             as short as it can be; ^C keeps what is gained
    convert disk.raw web.vhdx                    either way; formats by suffix, or by -from and -to
    map web.vhdx                                 what lies where
    bench DIR                                    speed beside qemu's VHDX, qcow2 and raw, in DIR's file system

All take -json. No file that exists is overwritten.

`

// damaged is check's exit status, apart from 1 (it failed) and 2 (usage).
const damaged = 3

type diskCommand struct {
	f       *flag.FlagSet
	json    bool
	size    bytesFlag
	block   bytesFlag
	log     bytesFlag
	sector  int
	fixed   bool
	parent  string
	from    string
	to      string
	noMeter bool
	dry     bool
	rows    string
	runs    int
	time    time.Duration
	direct  bool
	aio     string
	remove  bool
	discard bool
}

// bytesFlag is a size such as 512, 64K, 32M, 100G or 1T.
type bytesFlag int64

func (b *bytesFlag) String() string { return strconv.FormatInt(int64(*b), 10) }

func (b *bytesFlag) Set(s string) error {
	n, shift := strings.TrimSuffix(strings.ToUpper(s), "B"), 0
	if i := strings.LastIndexAny(n, "KMGT"); i >= 0 && i == len(n)-1 {
		shift = 10 * (1 + strings.IndexByte("KMGT", n[i]))
		n = n[:i]
	}
	v, err := strconv.ParseInt(n, 10, 64)
	if err != nil || v <= 0 || v<<shift>>shift != v {
		return fmt.Errorf("%q is no size; write 512, 64K, 32M, 100G or 1T", s)
	}
	*b = bytesFlag(v << shift)
	return nil
}

func disk(args []string) int {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, diskUsage)
		return 2
	}
	if help := []string{"help", "-h", "-help", "--help"}; slices.Contains(help, args[0]) {
		if len(args) == 2 && !strings.HasPrefix(args[1], "-") { // disk help COMMAND
			return disk([]string{args[1], "-h"})
		}
		fmt.Print(diskUsage)
		return 0
	}
	c := diskCommand{f: flag.NewFlagSet("disk "+args[0], flag.ContinueOnError)}
	c.f.BoolVar(&c.json, "json", false, "show results as JSON")
	run, files := (func(context.Context, []string) (int, error))(nil), 1
	create := func() {
		c.f.Var(&c.block, "block", "`size` of a block: a power of two from 1M to 256M")
		c.f.Var(&c.log, "log", "`size` of the log, in whole MiB")
		c.f.IntVar(&c.sector, "sector", 0, "logical sector size: 512 or 4096 `bytes`")
		c.f.BoolVar(&c.fixed, "fixed", false, "give every block its place from the start")
	}
	switch args[0] {
	case "create":
		create()
		c.f.Var(&c.size, "size", "`size` of the disk")
		c.f.StringVar(&c.parent, "parent", "", "make a differencing image over this `file`")
		run = c.create
	case "info":
		run = c.info
	case "check":
		run = c.check
	case "map":
		run = c.mapping
	case "snapshot":
		c.f.Var(&c.block, "block", "`size` of a block of the child: a power of two from 1M to 256M")
		c.f.Var(&c.log, "log", "`size` of the child's log, in whole MiB")
		run, files = c.snapshot, 2
	case "commit":
		c.f.BoolVar(&c.remove, "remove", false, "remove the child when all of it is in its parent")
		c.f.BoolVar(&c.noMeter, "quiet", false, "show no progress")
		run = c.commit
	case "resize":
		c.f.Var(&c.size, "size", "`size` that the disk is to have")
		c.f.BoolVar(&c.discard, "discard", false, "drop what lies behind a new end that is nearer")
		run = c.resize
	case "compact":
		c.f.BoolVar(&c.noMeter, "quiet", false, "show no progress")
		run = c.compact
	case "repair":
		c.f.BoolVar(&c.dry, "n", false, "only say what would be done")
		run = c.repair
	case "convert":
		create()
		c.f.StringVar(&c.from, "from", "", "`format` of the source: raw or vhdx")
		c.f.StringVar(&c.to, "to", "", "`format` of the destination: raw or vhdx")
		c.f.BoolVar(&c.noMeter, "quiet", false, "show no progress")
		run, files = c.convert, 2
	case "bench":
		c.size, c.block = 256<<20, 2<<20
		c.f.Var(&c.size, "size", "`size` of the disks")
		c.f.Var(&c.block, "block", "`size` of a VHDX block: a power of two from 1M to 256M")
		c.f.StringVar(&c.rows, "rows", "", "measure only the rows whose names match this `regexp`")
		c.f.IntVar(&c.runs, "runs", 5, "rounds")
		c.f.DurationVar(&c.time, "time", 200*time.Millisecond, "about how long one run takes")
		c.f.BoolVar(&c.direct, "direct", false, "pass by the page cache, on all sides")
		c.f.StringVar(&c.aio, "aio", "threads", "how qemu does its I/O: threads, native (with -direct) or io_uring")
		c.f.BoolVar(&c.noMeter, "quiet", false, "show no progress")
		run = c.bench
	default:
		fmt.Fprintf(os.Stderr, "godwitctl: no command disk %s\n\n%s", args[0], diskUsage)
		return 2
	}
	c.f.Usage = func() { c.usage(args[0]) }
	var names []string
	for rest := args[1:]; ; { // options may stand behind names
		switch err := c.f.Parse(rest); {
		case errors.Is(err, flag.ErrHelp):
			return 0
		case err != nil:
			return 2
		}
		if c.f.NArg() == 0 {
			break
		}
		names, rest = append(names, c.f.Arg(0)), c.f.Args()[1:]
	}
	if len(names) != files {
		what := "one file name"
		if files > 1 {
			what = "two file names"
		}
		fmt.Fprintf(os.Stderr, "godwitctl: disk %s takes %s, not %d\n\n%s", args[0], what, len(names), diskUsage)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	code, err := run(ctx, names)
	if err != nil {
		if c.json {
			json.NewEncoder(os.Stdout).Encode(map[string]string{"error": err.Error()})
		}
		fmt.Fprintf(os.Stderr, "godwitctl: disk %s: %v\n", args[0], err)
		return max(code, 1)
	}
	return code
}

// usage tells of one command: how it is called, with the examples of diskUsage, and its
// options.
func (c *diskCommand) usage(name string) {
	w := c.f.Output()
	if name == "bench" {
		fmt.Fprint(w, benchUsage)
	} else {
		files := "FILE"
		switch name {
		case "convert":
			files = "SOURCE DESTINATION"
		case "snapshot":
			files = "PARENT CHILD"
		case "commit":
			files = "CHILD"
		}
		fmt.Fprintf(w, "usage: godwitctl disk %s [OPTION ...] %s\n\n", name, files)
		for line := range strings.Lines(diskUsage) {
			if example := strings.TrimSpace(line); strings.HasPrefix(line, "    "+name+" ") {
				fmt.Fprintf(w, "    godwitctl disk %s\n", example)
			}
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w, "options:")
	c.f.PrintDefaults()
}

// show prints a result, as JSON if that is wanted.
func (c *diskCommand) show(v any, text func()) {
	if !c.json {
		text()
		return
	}
	b, err := shell.JSON(v)
	if err != nil {
		panic(err) // strings, numbers and lists of them
	}
	os.Stdout.Write(b)
}

func (c *diskCommand) options() vdisk.CreateOptions {
	return vdisk.CreateOptions{
		Size: int64(c.size), BlockSize: int(c.block), LogicalSector: c.sector, LogSize: int64(c.log), Fixed: c.fixed, Creator: "Godwit",
	}
}

// makeFile creates name and fills it; if that fails, nothing stays behind.
func makeFile(name string, fill func(b *vdisk.File) error) error {
	b, err := vdisk.OpenFile(name, vdisk.FileOptions{Create: true})
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s exists already; remove it or choose another name", name)
	}
	if err != nil {
		return err
	}
	if err = fill(b); err != nil {
		err = fmt.Errorf("%s: %w", name, err)
	}
	if cerr := b.Close(); err == nil && cerr != nil && !errors.Is(cerr, os.ErrClosed) {
		err = cerr
	}
	if err != nil {
		os.Remove(name)
		return err
	}
	return syncDir(filepath.Dir(name))
}

// syncDir makes the names in a directory outlive a crash.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (c *diskCommand) create(_ context.Context, names []string) (int, error) {
	o := c.options()
	switch {
	case c.parent == "" && c.size == 0:
		return 2, errors.New("say how large the disk is to be: -size 100G")
	case c.parent != "":
		p, err := vdisk.OpenPath(c.parent, vdisk.Options{ReadOnly: true}, vdisk.FileOptions{})
		if err != nil {
			return 1, err
		}
		defer p.Close()
		o.Parent = p
		if o.ParentPaths, err = vdisk.ParentPathsFrom(names[0], c.parent); err != nil {
			return 1, err
		}
	}
	if err := makeFile(names[0], func(b *vdisk.File) error { return vdisk.Create(b, o) }); err != nil {
		return 1, err
	}
	return c.info(nil, names)
}

func openDisk(name string) (*vdisk.Image, error) {
	return vdisk.OpenPath(name, vdisk.Options{ReadOnly: true}, vdisk.FileOptions{})
}

func (c *diskCommand) info(_ context.Context, names []string) (int, error) {
	im, err := openDisk(names[0])
	if err != nil {
		return 1, err
	}
	defer im.Close()
	i, err := im.Info()
	if err != nil {
		return 1, fmt.Errorf("%s: %w", names[0], err)
	}
	c.show(i, func() {
		fmt.Printf("%s: %s VHDX, made by %q\n", names[0], i.Kind, i.Creator)
		fmt.Printf("  disk      %s (%d bytes), sectors of %d bytes (physical %d), id %s\n", human(i.Size), i.Size, i.LogicalSector, i.PhysicalSector, i.DiskID)
		fmt.Printf("  file      %s, %d of %d blocks of %s allocated\n", human(i.FileSize), i.Allocated, i.Blocks, human(int64(i.BlockSize)))
		state := "empty: the file was closed"
		if i.LogInUse {
			state = "in use: the file was not closed, the next opening for writing replays it"
		}
		fmt.Printf("  log       %s, %s\n", human(i.LogSize), state)
		fmt.Printf("  versions  file %s, data %s\n", i.FileWriteGUID, i.DataWriteGUID)
		for _, p := range i.Parents {
			fmt.Printf("  parent    %s\n", p)
		}
	})
	return 0, nil
}

func human(n int64) string {
	for i, u := range []string{"TiB", "GiB", "MiB", "KiB"} {
		if unit := int64(1) << (40 - 10*i); n >= unit {
			if hundredths := 100 * (n % unit); hundredths%unit != 0 { // two places, and as many zeroes say that it is not exact
				return fmt.Sprintf("%.2f %s", float64(n)/float64(unit), u)
			}
			return strconv.FormatFloat(float64(n)/float64(unit), 'f', -1, 64) + " " + u
		}
	}
	return fmt.Sprintf("%d bytes", n)
}

func (c *diskCommand) check(_ context.Context, names []string) (int, error) {
	fs, err := vdisk.CheckPath(names[0])
	if err != nil {
		return 1, err
	}
	damage := 0
	for _, f := range fs {
		if f.Damage {
			damage++
		}
	}
	result := struct {
		File     string          `json:"file"`
		Damage   int             `json:"damage"`
		Findings []vdisk.Finding `json:"findings"`
	}{names[0], damage, append([]vdisk.Finding{}, fs...)}
	c.show(result, func() {
		for _, f := range fs {
			kind := string(f.Severity)
			if f.Damage {
				kind = "DAMAGE"
			}
			fmt.Printf("%s: %#x: %s: %s: %s\n    %s\n", names[0], f.Offset, kind, f.Name, f.Text, f.Do)
		}
		if damage == 0 {
			fmt.Printf("%s: no damage\n", names[0])
		} else {
			fmt.Printf("%s: %d of these are damage; copy what can be read (godwitctl disk convert) before anything writes to it, or see what repair -n would do\n", names[0], damage)
		}
	})
	if damage > 0 {
		return damaged, nil
	}
	return 0, nil
}

func (c *diskCommand) mapping(_ context.Context, names []string) (int, error) {
	im, err := openDisk(names[0])
	if err != nil {
		return 1, err
	}
	defer im.Close()
	if !c.json {
		fmt.Printf("%16s %16s %16s  %s\n", "disk offset", "length", "file offset", "state")
	}
	// One at a time: a map of a large disk does not fit a terminal, nor memory.
	e := json.NewEncoder(os.Stdout)
	err = im.Extents(0, func(x vdisk.Extent) error {
		switch {
		case c.json:
			return e.Encode(x)
		case x.File != 0:
			fmt.Printf("%#16x %#16x %#16x  %s\n", x.Offset, x.Length, x.File, x.State)
		default:
			fmt.Printf("%#16x %#16x %16s  %s\n", x.Offset, x.Length, "-", x.State)
		}
		return nil
	})
	if err != nil {
		return 1, fmt.Errorf("%s: %w", names[0], err)
	}
	return 0, nil
}

func format(given, name string) (vhdx bool, err error) {
	if given == "" {
		given = strings.TrimPrefix(strings.ToLower(filepath.Ext(name)), ".")
	}
	switch given {
	case "vhdx", "avhdx":
		return true, nil
	case "raw", "img", "bin", "iso":
		return false, nil
	}
	return false, fmt.Errorf("the format of %s is not known from its name; say -from or -to raw or vhdx", name)
}

// A source is what convert reads.
type source struct {
	io.ReaderAt
	size int64
	// next is the first place at or behind off that may not be zero.
	next  func(off int64) (int64, error)
	close func() error
	items []vdisk.UserItem
}

func (c *diskCommand) openSource(name string) (*source, error) {
	vhdx, err := format(c.from, name)
	if err != nil {
		return nil, err
	}
	if vhdx {
		im, err := openDisk(name)
		if err != nil {
			return nil, err
		}
		if c.sector == 0 {
			c.sector = im.SectorSize()
		}
		return &source{im, im.Size(), im.NextData, im.Close, im.UserItems()}, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		f.Close()
		return nil, err
	}
	const seekData = 3 // lseek(2)
	next := func(off int64) (int64, error) {
		n, err := f.Seek(off, seekData)
		switch {
		case errors.Is(err, syscall.ENXIO):
			return size, nil // a hole to the end
		case err != nil:
			return off, nil // no holes known here
		}
		return n, nil
	}
	return &source{f, size, next, f.Close, nil}, nil
}

func (c *diskCommand) convert(ctx context.Context, names []string) (int, error) {
	vhdx, err := format(c.to, names[1])
	if err != nil {
		return 2, err
	}
	src, err := c.openSource(names[0])
	if err != nil {
		return 1, err
	}
	defer src.close()
	if src.size == 0 {
		return 1, fmt.Errorf("%s is empty", names[0])
	}
	unit := int64(max(c.sector, 512))
	size := (src.size + unit - 1) / unit * unit // a raw file may end within a sector
	start := time.Now()
	var copied int64
	err = makeFile(names[1], func(b *vdisk.File) error {
		var dst io.WriterAt = b
		done := b.Flush
		if vhdx {
			o := c.options()
			o.Size = size
			if err := vdisk.Create(b, o); err != nil {
				return err
			}
			im, err := vdisk.Open(b, vdisk.Options{})
			if err != nil {
				return err
			}
			defer im.Close()
			for _, it := range src.items {
				if err := im.SetUserItem(it); err != nil {
					return err
				}
			}
			dst, done = im, im.Close
		} else if err := b.Truncate(src.size); err != nil {
			return err
		}
		if copied, err = c.copy(ctx, dst, src, unit, vhdx); err != nil {
			return err
		}
		return done()
	})
	if err != nil {
		return 1, err
	}
	r := map[string]any{"source": names[0], "destination": names[1], "size": size, "copied": copied, "seconds": time.Since(start).Seconds()}
	c.show(r, func() {
		fmt.Printf("%s: %s, of which %s held data, in %.1f s\n", names[1], human(size), human(copied), time.Since(start).Seconds())
	})
	return 0, nil
}

const chunk = 1 << 20

// copy moves what is not zero.
func (c *diskCommand) copy(ctx context.Context, dst io.WriterAt, src *source, unit int64, pad bool) (copied int64, err error) {
	show, finish := c.progress()
	defer finish()
	buf := make([]byte, chunk)
	zero := make([]byte, chunk)
	for off := int64(0); off < src.size; {
		if err := ctx.Err(); err != nil {
			return copied, errors.New("interrupted; nothing was kept")
		}
		if off, err = src.next(off); err != nil || off >= src.size {
			break
		}
		off = off / chunk * chunk
		p := buf[:min(chunk, src.size-off)]
		if n, err := src.ReadAt(p, off); n < len(p) {
			return copied, fmt.Errorf("reading at %#x: %w", off, err)
		}
		n := int64(len(p))
		if pad {
			p = buf[:(n+unit-1)/unit*unit]
			clear(p[n:])
		}
		if string(p) != string(zero[:len(p)]) {
			if _, err := dst.WriteAt(p, off); err != nil {
				return copied, fmt.Errorf("writing at %#x: %w", off, err)
			}
			copied += n
		}
		off += n
		if show != nil {
			show(off, src.size)
		}
	}
	return copied, err
}
