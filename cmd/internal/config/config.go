// Package config reads what a host is told at boot: its command line, and a
// config module with the same options, one a line. Nothing in them stops a host
// from coming up: what is wrong is reported as a Problem and left at its default.
package config

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"unicode"

	"godwit/cmd/internal/control"
	"godwit/cmd/internal/shell"
)

// DefaultMigratePort is where a host takes machines unless told otherwise.
const DefaultMigratePort = 4774

// DefaultModule is the config module's name where config= names no other.
const DefaultModule = "godwit.conf"

// Config is a host's configuration.
type Config struct {
	Name     string   `json:"name"`
	Module   string   `json:"config_module,omitempty"`
	Net      Net      `json:"net"`
	Control  uint16   `json:"control_port,omitempty"`     // 0: not served
	Migrate  uint16   `json:"migrate_port,omitempty"`     // 0: machines are not taken
	Patience int      `json:"patience_seconds,omitempty"` // 0: migrate.DefaultTiming
	Panic    string   `json:"panic"`                      // reboot or halt
	Idle     string   `json:"idle"`                       // halt or poll
	Guests   string   `json:"guests"`                     // untrusted or own
	Run      []string `json:"run,omitempty"`              // console commands to start with
	given    map[string]bool
}

// Net is how the host gets its address.
type Net struct {
	Mode    string       `json:"mode"` // dhcp, static or none
	Address netip.Prefix `json:"address,omitzero"`
	Gateway netip.Addr   `json:"gateway,omitzero"`
}

// A Problem is an option that was not understood.
type Problem struct {
	Where string // "command line" or "module:NAME line 3"
	What  string
}

func (p Problem) String() string { return p.Where + ": " + p.What }

// An option is one that a host knows.
type option struct {
	name, form, help string
	set              func(c *Config, v string) error
}

// Options lists them in the order of the documentation.
var options = []option{
	{"name", "name=NAME", "the host's name, for people and DHCP servers (default: godwit)", func(c *Config, v string) error {
		if len(v) == 0 || len(v) > 63 || strings.ContainsFunc(v, func(r rune) bool {
			return r != '-' && r != '.' && (r > 127 || !unicode.IsLetter(r) && !unicode.IsDigit(r))
		}) {
			return fmt.Errorf("%q is no host name: up to 63 letters, digits, dots and dashes", v)
		}
		c.Name = v
		return nil
	}},
	{"config", "config=module:NAME", "the boot module with more options (default: module:godwit.conf, if there is one)", func(c *Config, v string) error {
		m, ok := strings.CutPrefix(v, "module:")
		if !ok || m == "" {
			return fmt.Errorf("%q: write config=module:NAME", v)
		}
		c.Module = m
		return nil
	}},
	{"ip", "ip=dhcp | ip=none | ip=ADDR/BITS[,GATEWAY]", "the host's address (default: dhcp)", setIP},
	{"control", "control=insecure-tcp[:PORT] | control=off", fmt.Sprintf("serve the commands over TCP, without authentication (default: off; port %d)", control.DefaultPort),
		func(c *Config, v string) error { return setPort(&c.Control, v, control.DefaultPort) }},
	{"migrate", "migrate=insecure-tcp[:PORT] | migrate=off", fmt.Sprintf("take running machines from other hosts, without authentication (default: off; port %d)", DefaultMigratePort),
		func(c *Config, v string) error { return setPort(&c.Migrate, v, DefaultMigratePort) }},
	{"patience", "patience=SECONDS", "how long the other host of a migration may be silent, 1 to 3600 (default: 10); for slow lines and slow emulators", func(c *Config, v string) error {
		n, err := strconv.ParseUint(v, 10, 16)
		if err != nil || n < 1 || n > 3600 {
			return fmt.Errorf("%q is no number of seconds from 1 to 3600", v)
		}
		c.Patience = int(n)
		return nil
	}},
	{"panic", "panic=reboot | panic=halt", "what the host does after reporting a panic (default: reboot)", func(c *Config, v string) error {
		if v != "reboot" && v != "halt" {
			return fmt.Errorf("%q is neither reboot nor halt", v)
		}
		c.Panic = v
		return nil
	}},
	{"idle", "idle=halt | idle=poll", "what a CPU without work does (default: halt); poll is for Bochs only, whose clock leaps while all CPUs are halted: on QEMU such a host hears nothing more", func(c *Config, v string) error {
		if v != "halt" && v != "poll" {
			return fmt.Errorf("%q is neither halt nor poll", v)
		}
		c.Idle = v
		return nil
	}},
	{"guests", "guests=untrusted | guests=own", "whose guests run here (default: untrusted); with own, meant for a host that runs only its operator's, IBPB at each exit is left out on processors that need it: exits are quicker, and a guest may steer the host's branches", func(c *Config, v string) error {
		if v != "untrusted" && v != "own" {
			return fmt.Errorf("%q is neither untrusted nor own", v)
		}
		c.Guests = v
		return nil
	}},
	{"run", `run="COMMAND"`, "a console command to run at start, beside what is typed and without a keyboard; may be given several times", func(c *Config, v string) error {
		if v == "" {
			return fmt.Errorf("no command given")
		}
		if len(c.Run) >= 64 {
			return fmt.Errorf("more than 64 run= options")
		}
		c.Run = append(c.Run, v)
		return nil
	}},
}

func setIP(c *Config, v string) error {
	switch v {
	case "dhcp", "none":
		c.Net = Net{Mode: v}
		return nil
	}
	a, gw, hasGW := strings.Cut(v, ",")
	p, err := netip.ParsePrefix(a)
	if err != nil || !p.Addr().Is4() || p.Bits() == 0 {
		return fmt.Errorf("%q is no IPv4 address with its prefix length, such as 192.0.2.10/24", a)
	}
	// RFC 1122, 3.2.1.3: what no host has.
	addr, host := p.Addr(), ^uint32(0)>>p.Bits()
	ip := addr.As4()
	switch low := binary.BigEndian.Uint32(ip[:]) & host; {
	case addr.IsUnspecified(), addr.IsLoopback(), !addr.IsGlobalUnicast() && !addr.IsLinkLocalUnicast():
		return fmt.Errorf("%v is no address of a host", addr)
	case p.Bits() < 31 && (low == 0 || low == host):
		return fmt.Errorf("%v is the address of the whole network %v or its broadcast address", addr, p.Masked())
	}
	n := Net{Mode: "static", Address: p}
	if hasGW {
		g, err := netip.ParseAddr(gw)
		if err != nil || !g.Is4() {
			return fmt.Errorf("gateway %q is no IPv4 address", gw)
		}
		if !p.Contains(g) {
			return fmt.Errorf("gateway %v is outside %v", g, p.Masked())
		}
		n.Gateway = g
	}
	c.Net = n
	return nil
}

func setPort(port *uint16, v string, def uint16) error {
	mode, p, has := strings.Cut(v, ":")
	switch {
	case v == "off":
		*port = 0
	case mode == "insecure-tcp" && !has:
		*port = def
	case mode == "insecure-tcp":
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return fmt.Errorf("%q is no port (1 to 65535)", p)
		}
		*port = uint16(n)
	default:
		return fmt.Errorf("%q: write insecure-tcp, insecure-tcp:PORT or off", v)
	}
	return nil
}

// Default is a host told nothing.
func Default() *Config {
	return &Config{Name: "godwit", Net: Net{Mode: "dhcp"}, Panic: "reboot", Idle: "halt", Guests: "untrusted"}
}

// CommandLine applies a boot command line. It takes precedence over a module,
// whichever is applied first.
func (c *Config) CommandLine(line string) []Problem {
	words, err := shell.Split(line)
	c.given = map[string]bool{}
	var ps []Problem
	if err != nil { // what stands before it holds: the host may be managed through it
		ps = append(ps, Problem{"command line", err.Error() + "; this option and those after it are ignored"})
	}
	for _, w := range words {
		if what := c.apply(w); what != "" {
			ps = append(ps, Problem{"command line", what})
			continue
		}
		name, _, _ := strings.Cut(w, "=")
		if c.given[name] && name != "run" {
			ps = append(ps, Problem{"command line", fmt.Sprintf("option %s is given twice: the last one holds", name)})
		}
		c.given[name] = true
	}
	if more := len(ps) - 2*maxProblems; more > 0 {
		ps = append(ps[:2*maxProblems], Problem{"command line", fmt.Sprintf("%d more of its options are wrong", more)})
	}
	return ps
}

// Conflicts finds options that do not go together, and settles them.
func (c *Config) Conflicts() []Problem {
	if c.Control == 0 || c.Control != c.Migrate {
		return nil
	}
	c.Migrate = 0
	return []Problem{{"options", fmt.Sprintf("control and migrate are both on port %d: migrate is off; give it another port", c.Control)}}
}

// ModuleText applies a config module: one option a line, blank lines and lines
// that begin with # apart. Options that the command line gave stay as they are;
// run= adds up.
func (c *Config) ModuleText(name string, text []byte) []Problem {
	const maxModule = 64 << 10
	where := "module:" + name
	if len(text) > maxModule {
		return []Problem{{where, fmt.Sprintf("%d bytes are more than a config may have (%d); ignored", len(text), maxModule)}}
	}
	var ps []Problem
	more := 0
	seen := map[string]bool{}
	text = bytes.TrimPrefix(text, []byte("\ufeff")) // as some editors begin a file
	for i, l := range strings.Split(string(text), "\n") {
		if len(ps) > maxProblems {
			more += len(ps) - maxProblems
			ps = ps[:maxProblems]
		}
		l = strings.TrimSpace(l)
		if l == "" || l[0] == '#' {
			continue
		}
		at := fmt.Sprintf("%s line %d", where, i+1)
		name, rest, ok := strings.Cut(l, "=")
		words, err := shell.Split(rest)
		if err != nil {
			ps = append(ps, Problem{at, err.Error()})
			continue
		}
		value := strings.Join(words, " ")
		if name == "run" && len(words) != 1 {
			value = rest // an unquoted command keeps its own quotes
		}
		if name == "config" {
			ps = append(ps, Problem{at, "config= belongs on the command line; ignored"})
			continue
		}
		if c.given[name] && name != "run" {
			continue
		}
		w := name
		if ok {
			w += "=" + value
		}
		if what := c.apply(w); what != "" {
			ps = append(ps, Problem{at, what})
			continue
		}
		if seen[name] && name != "run" {
			ps = append(ps, Problem{at, fmt.Sprintf("option %s is given twice: this one holds", name)})
		}
		seen[name] = true
	}
	if more += max(0, len(ps)-maxProblems); more > 0 {
		ps = append(ps[:maxProblems], Problem{where, fmt.Sprintf("%d more of its lines are wrong: is it a config at all?", more)})
	}
	return ps
}

// maxProblems bounds what is said about one module, which may be any file.
const maxProblems = 8

// apply sets one option and returns what is wrong with it.
func (c *Config) apply(word string) string {
	name, v, ok := strings.Cut(word, "=")
	for _, o := range options {
		if o.name == name {
			if !ok {
				return fmt.Sprintf("option %q needs a value: %s", name, o.form)
			}
			if err := o.set(c, v); err != nil {
				return clip(fmt.Sprintf("option %s: %v", name, err))
			}
			return ""
		}
	}
	var known []string
	for _, o := range options {
		known = append(known, o.name)
	}
	return fmt.Sprintf("unknown option %s ignored; known are %s", quote(name), strings.Join(known, ", "))
}

// clip shortens a text that quotes what may be long.
func clip(s string) string {
	const most = 400
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most/2], "") + " ... " + strings.ToValidUTF8(s[len(s)-most/2:], "")
}

// quote shows what may be long, or anything.
func quote(s string) string {
	const most = 40
	if len(s) <= most {
		return strconv.Quote(s)
	}
	return strconv.Quote(s[:most]) + fmt.Sprintf("... (%d bytes)", len(s))
}

// OptionHelp explains the options.
type OptionHelp []OptionInfo

// An OptionInfo is one of them.
type OptionInfo struct {
	Name    string `json:"name"`
	Form    string `json:"form"`
	Meaning string `json:"meaning"`
}

// Help is all that there are.
func Help() (l OptionHelp) {
	for _, o := range options {
		l = append(l, OptionInfo{o.name, o.form, o.help})
	}
	return l
}

// Text is 80 columns wide, as serial terminals are.
func (l OptionHelp) Text(w io.Writer) {
	for _, o := range l {
		fmt.Fprintln(w, o.Form)
		for _, line := range shell.Wrap(o.Meaning, 75) {
			fmt.Fprintf(w, "    %s\n", line)
		}
	}
}
