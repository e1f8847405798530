// Package shell is the command language of a host: what its serial console and
// its control port both serve. It knows words, help, completion and how results
// are shown; what the commands do is given to it.
package shell

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"
)

// A Command is one entry of the language.
type Command struct {
	Name    string // one or two words: "vm create"
	Args    string // its arguments as help shows them
	Summary string // one line, no full stop
	Detail  string // more, for `help NAME`, a paragraph a line
	Example string
	Shows   bool // it shows a result, so -json applies
	AtHost  bool // only whoever sits at the host's own console may run it
	// Complete offers values for the word being typed; nil for none.
	Complete func(args []string, word string) []string
	Run      func(*Call) error
}

// A Call is one command being run.
type Call struct {
	Ctx  context.Context // ended by ^C, or when the caller goes away
	Args []string
	JSON bool
	// AtHost: it comes from the host's own console, not over a network.
	AtHost bool
	Out    io.Writer
	// Input is the caller's keyboard, byte by byte, while the command runs;
	// nil where there is none.
	Input io.Reader
	// Raw tells the caller's terminal to pass all keys on (true) or to edit
	// lines again (false); nil where there is no terminal.
	Raw func(bool)
}

// A Result is shown as text, or as JSON by its exported fields.
type Result interface {
	Text(w io.Writer)
}

// Show prints r the way the caller asked for.
func (c *Call) Show(r Result) error {
	if !c.JSON {
		var b bytes.Buffer // whole, so that no line of the log comes between two of its lines
		r.Text(&b)
		_, err := io.WriteString(c.Out, Printable(b.String()))
		return err
	}
	b, err := JSON(r)
	if err != nil {
		return fmt.Errorf("show: %w", err)
	}
	_, err = c.Out.Write(b)
	return err
}

// Printf shows progress or a remark; with -json nothing, so that the output parses.
func (c *Call) Printf(format string, args ...any) {
	if !c.JSON {
		io.WriteString(c.Out, Printable(fmt.Sprintf(format, args...)))
	}
}

// ErrUsage marks errors that the command's usage answers.
var ErrUsage = errors.New("usage")

// Usagef is an error in how a command was called.
func Usagef(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrUsage, fmt.Sprintf(format, args...))
}

// A wrongCall is an ErrUsage with all there is to say.
type wrongCall string

func (e wrongCall) Error() string { return string(e) }
func (wrongCall) Unwrap() error   { return ErrUsage }

// A Shell is a set of commands.
type Shell struct {
	commands []*Command
	byName   map[string]*Command
}

// New returns a Shell with only `help`.
func New() *Shell {
	s := &Shell{byName: map[string]*Command{}}
	s.Add(&Command{
		Name: "help", Args: "[COMMAND]", Summary: "list the commands, or explain one",
		Example: "help vm create", Shows: true, Complete: s.completeHelp, Run: s.help,
	})
	return s
}

// Add adds a command; a name twice is a programming error.
func (s *Shell) Add(cmds ...*Command) {
	for _, c := range cmds {
		if s.byName[c.Name] != nil || c.Run == nil || c.Summary == "" || c.Example == "" {
			panic("shell: command " + c.Name + " is incomplete or defined twice")
		}
		s.byName[c.Name] = c
		s.commands = append(s.commands, c)
	}
	sort.Slice(s.commands, func(i, j int) bool { return s.commands[i].Name < s.commands[j].Name })
}

// Commands are all, by name.
func (s *Shell) Commands() []*Command { return s.commands }

// find returns the command that args begin with and how many words it took.
func (s *Shell) find(args []string) (*Command, int) {
	for n := min(2, len(args)); n > 0; n-- {
		if c := s.byName[strings.Join(args[:n], " ")]; c != nil {
			return c, n
		}
	}
	return nil, 0
}

// Run runs one command. c.Args holds all its words; -json may stand anywhere
// behind the command's name.
func (s *Shell) Run(c *Call) (err error) {
	cmd, n := s.find(c.Args)
	if cmd == nil {
		return s.unknown(c.Args)
	}
	rest := make([]string, 0, len(c.Args))
	for _, a := range c.Args[n:] {
		switch a {
		case "-json", "--json":
			if !cmd.Shows {
				return wrongCall(cmd.Name + " shows no result, so it takes no -json")
			}
			c.JSON = true
		case "-h", "-help", "--help":
			return c.Show(explanation{cmd})
		default:
			rest = append(rest, a)
		}
	}
	c.Args = rest
	if cmd.AtHost && !c.AtHost {
		return fmt.Errorf("%s is not run over the network: type it on the host's serial console", cmd.Name)
	}
	defer func() {
		// A defect in one command must not take the host's console with it.
		if p := recover(); p != nil {
			err = fmt.Errorf("%s: internal error: %v (please report it; the host goes on)", cmd.Name, p)
		}
	}()
	if cmd.Args == "" && len(c.Args) > 0 {
		err = Usagef("it takes no argument")
	} else {
		err = cmd.Run(c)
	}
	if err == context.Canceled {
		err = fmt.Errorf("%s: %w", cmd.Name, err)
	}
	if errors.Is(err, context.Canceled) {
		text := strings.ReplaceAll(err.Error(), context.Canceled.Error(), "cancelled")
		return errors.New(strings.ReplaceAll(text, "cancelled: cancelled", "cancelled")) // its own word for it, and Go's
	}
	if errors.Is(err, ErrUsage) {
		err = wrongCall(fmt.Sprintf("%s: %s\n  usage: %s\n  example: %s", cmd.Name,
			strings.TrimPrefix(err.Error(), ErrUsage.Error()+": "), cmd.usage(), cmd.Example))
	}
	return err
}

func (c *Command) usage() string {
	u := c.Name
	if c.Args != "" {
		u += " " + c.Args
	}
	if c.Shows {
		u += " [-json]"
	}
	return u
}

func (s *Shell) unknown(args []string) error {
	if len(args) == 0 {
		return wrongCall("no command given; `help` lists them")
	}
	words := short(strings.Join(args[:min(2, len(args))], " "))
	var sub []string
	for _, c := range s.commands {
		if strings.HasPrefix(c.Name, args[0]+" ") {
			sub = append(sub, strings.TrimPrefix(c.Name, args[0]+" "))
		}
	}
	switch {
	case sub != nil && len(args) > 1 && s.byName[args[0]] == nil && !strings.HasPrefix(args[1], "-"):
		return wrongCall(fmt.Sprintf("unknown command %q; %s needs one of: %s", words, args[0], strings.Join(sub, ", ")))
	case sub != nil:
		return wrongCall(fmt.Sprintf("%s needs one of: %s", args[0], strings.Join(sub, ", ")))
	}
	return wrongCall(fmt.Sprintf("unknown command %q; `help` lists them", short(args[0])))
}

// short is the beginning of what was typed, or pasted, and is no command.
func short(s string) string {
	const most = 60
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}

func (s *Shell) help(c *Call) error {
	if len(c.Args) == 0 {
		return c.Show(overview(s.commands))
	}
	if cmd, n := s.find(c.Args); cmd != nil && n == len(c.Args) {
		return c.Show(explanation{cmd})
	}
	var group explanation
	for _, cmd := range s.commands {
		if strings.HasPrefix(cmd.Name, c.Args[0]+" ") && len(c.Args) == 1 {
			group = append(group, cmd)
		}
	}
	if group == nil {
		return s.unknown(c.Args)
	}
	return c.Show(group)
}

// overview is all commands, each with an example below it: serial terminals are 80 columns wide.
type overview []*Command

func (o overview) Text(w io.Writer) {
	width := 0
	for _, cmd := range o {
		width = max(width, len(cmd.Name))
	}
	for _, cmd := range o {
		name := cmd.Name
		for _, l := range Wrap(cmd.Summary, 79-width-2) {
			fmt.Fprintf(w, "%-*s  %s\n", width, name, l)
			name = ""
		}
		if cmd.Example != cmd.Name {
			fmt.Fprintf(w, "%-*s    %s\n", width, "", cmd.Example)
		}
	}
	fmt.Fprintln(w, "Below each stands an example. `help COMMAND` tells more. Tab completes; ^C ends")
	fmt.Fprintln(w, "a running command; -json gives results as JSON.")
}

// explanation is all there is to say about some.
type explanation []*Command

func (e explanation) Text(w io.Writer) {
	for _, c := range e {
		for i, l := range Wrap(c.usage(), 79-8) {
			fmt.Fprintf(w, "%s%s\n", []string{"", "        "}[min(i, 1)], l)
		}
		for _, paragraph := range append([]string{c.Summary}, strings.Split(c.Detail, "\n")...) {
			for _, l := range Wrap(paragraph, 79-4) {
				if l != "" {
					fmt.Fprintf(w, "    %s\n", l)
				}
			}
		}
		if c.AtHost {
			fmt.Fprintln(w, "    Only on the host's serial console.")
		}
		fmt.Fprintf(w, "    example: %s\n", c.Example)
	}
}

// MarshalJSON is what help shows of a command.
func (c *Command) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Name    string `json:"name"`
		Usage   string `json:"usage"`
		Summary string `json:"summary"`
		Detail  string `json:"detail,omitempty"`
		Example string `json:"example"`
		JSON    bool   `json:"json"`
		AtHost  bool   `json:"serial_console_only,omitempty"`
	}{c.Name, c.usage(), c.Summary, c.Detail, c.Example, c.Shows, c.AtHost})
}

func (s *Shell) completeHelp(args []string, word string) []string {
	before := ""
	if len(args) > 0 {
		before = strings.Join(args, " ") + " "
	}
	var r []string
	for _, c := range s.commands {
		if rest, ok := strings.CutPrefix(c.Name, before); ok {
			rest, _, _ = strings.Cut(rest, " ")
			r = append(r, rest)
		}
	}
	return r
}

// Complete extends line, which the cursor stands at the end of, as far as the
// possibilities agree. If it can not, it returns them.
func (s *Shell) Complete(line string) (newLine string, options []string) {
	words := strings.Fields(line)
	word := ""
	if len(words) > 0 && !strings.HasSuffix(line, " ") {
		word = words[len(words)-1]
		words = words[:len(words)-1]
	}
	set := map[string]bool{}
	before := strings.Join(words, " ")
	for _, c := range s.commands {
		name := c.Name
		if before != "" {
			rest, ok := strings.CutPrefix(name, before+" ")
			if !ok {
				continue
			}
			name = rest
		}
		first, _, _ := strings.Cut(name, " ")
		set[first] = true
	}
	if cmd, n := s.find(words); cmd != nil {
		if cmd.Complete != nil {
			for _, v := range cmd.Complete(words[n:], word) {
				set[v] = true
			}
		}
		if cmd.Shows && strings.HasPrefix(word, "-") {
			set["-json"] = true
		}
	}
	var opts []string
	for v := range set {
		if strings.HasPrefix(v, word) {
			opts = append(opts, v)
		}
	}
	sort.Strings(opts)
	if len(opts) == 0 {
		return line, nil
	}
	common := opts[0]
	for _, o := range opts[1:] {
		for !strings.HasPrefix(o, common) {
			common = common[:len(common)-1]
		}
	}
	line = line[:len(line)-len(word)] + common
	if len(opts) == 1 {
		if !strings.HasSuffix(common, "=") && !strings.HasSuffix(common, "://") {
			line += " "
		}
		return line, nil
	}
	if common != word {
		return line, nil
	}
	return line, opts
}
