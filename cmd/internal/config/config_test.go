package config

import (
	"bytes"
	"strings"
	"testing"
)

func TestOptions(t *testing.T) {
	c := Default()
	ps := c.CommandLine(`name=a1 ip=192.0.2.10/24,192.0.2.1 control=insecure-tcp migrate=insecure-tcp:99 patience=60 panic=halt idle=poll guests=own run="vm list" run='vm start x'`)
	if len(ps) != 0 {
		t.Fatal(ps)
	}
	if c.Name != "a1" || c.Net.Mode != "static" || c.Net.Address.String() != "192.0.2.10/24" || c.Net.Gateway.String() != "192.0.2.1" ||
		c.Control != 7480 || c.Migrate != 99 || c.Patience != 60 || c.Panic != "halt" || c.Idle != "poll" || c.Guests != "own" || strings.Join(c.Run, ";") != "vm list;vm start x" {
		t.Fatalf("%+v", c)
	}
}

func TestWrongOptionsAreNamedAndTheRestHolds(t *testing.T) {
	c := Default()
	ps := c.CommandLine("colour=blue ip=300.1.1.1/8 ip=10.0.0.1/8,11.0.0.1 control=tcp panic migrate=insecure-tcp:0 name=ok name=a_b config=x run= patience=0 patience=1h idle=sleep guests=friends")
	want := []string{`unknown option "colour"`, "300.1.1.1/8", "outside", `"tcp"`, "needs a value", "port", "a_b", "module:NAME", "no command", `"0" is no number`, `"1h" is no number`, "sleep", "friends"}
	if len(ps) != len(want) {
		t.Fatalf("%d problems: %v", len(ps), ps)
	}
	for i, w := range want {
		if !strings.Contains(ps[i].String(), w) {
			t.Errorf("problem %d: %s, want %q", i, ps[i], w)
		}
	}
	if c.Name != "ok" || c.Net.Mode != "dhcp" || c.Control != 0 || c.Guests != "untrusted" {
		t.Errorf("%+v", c)
	}
}

func TestModuleYieldsToTheCommandLine(t *testing.T) {
	c := Default()
	c.CommandLine("name=line run=one")
	ps := c.ModuleText("m", []byte("# a comment\nname=module\n\nip=none\r\nrun=vm create a cmdline=\"x y\"\nrun='vm start a'\nnonsense\nconfig=module:y\nrun=\"open\n"))
	if c.Name != "line" || c.Net.Mode != "none" {
		t.Errorf("%+v", c)
	}
	if got := strings.Join(c.Run, ";"); got != `one;vm create a cmdline="x y";vm start a` {
		t.Errorf("run: %s", got)
	}
	if len(ps) != 3 || ps[0].Where != "module:m line 7" || ps[1].Where != "module:m line 8" || ps[2].Where != "module:m line 9" {
		t.Errorf("%v", ps)
	}
	if ps := c.ModuleText("big", make([]byte, 1<<20)); len(ps) != 1 {
		t.Errorf("a huge module: %d problems", len(ps))
	}
}

func TestAnOpenQuoteLeavesWhatStandsBeforeIt(t *testing.T) {
	c := Default()
	ps := c.CommandLine(`control=insecure-tcp ip=none run="vm list`)
	if len(ps) != 1 || !strings.Contains(ps[0].String(), "column 34") || !strings.Contains(ps[0].String(), "ignored") {
		t.Errorf("%v", ps)
	}
	if c.Control != 7480 || c.Net.Mode != "none" || len(c.Run) != 0 {
		t.Errorf("%+v", c)
	}
}

func TestAModuleThatIsNoConfigIsToldInAFewLines(t *testing.T) {
	c := Default()
	garbage := bytes.Repeat([]byte("\x7fELF\x02\x01\x01\x00"+strings.Repeat("\xff", 300)+"\n"), 200)
	ps := c.ModuleText("m", append(garbage, "name=end\n"...))
	if len(ps) != maxProblems+1 || !strings.Contains(ps[maxProblems].String(), "192 more") {
		t.Errorf("%d problems: %v", len(ps), ps[len(ps)-1])
	}
	for _, p := range ps {
		if len(p.String()) > 400 {
			t.Errorf("a line of %d bytes", len(p.String()))
		}
	}
	if c.Name != "end" {
		t.Error("what is right in it does not hold")
	}
}

func TestOptionsFitASerialTerminal(t *testing.T) {
	var b bytes.Buffer
	Help().Text(&b)
	for l := range strings.Lines(b.String()) {
		if len(l) > 80 {
			t.Errorf("%q", l)
		}
	}
}

func TestEveryOptionIsExplained(t *testing.T) {
	var b bytes.Buffer
	Help().Text(&b)
	text := strings.Join(strings.Fields(b.String()), " ")
	for _, o := range options {
		if !strings.Contains(text, o.help) || !strings.HasPrefix(o.form, o.name+"=") {
			t.Errorf("%s", o.name)
		}
	}
}

func FuzzConfig(f *testing.F) {
	f.Add("name=a ip=1.2.3.4/5", "run=x\nip=dhcp")
	f.Fuzz(func(t *testing.T, line, module string) {
		c := Default()
		c.CommandLine(line)
		c.ModuleText("m", []byte(module))
		if c.Name == "" || c.Net.Mode == "" || c.Panic == "" {
			t.Fatalf("%+v", c)
		}
	})
}

func TestAddressesThatNoHostHasAreRefused(t *testing.T) {
	for v, want := range map[string]string{
		"127.0.0.1/8": "no address of a host", "0.0.0.0/24": "no address of a host", "224.0.0.1/24": "no address of a host", "255.255.255.255/32": "no address of a host",
		"10.0.0.0/24": "whole network 10.0.0.0/24", "10.0.0.255/24": "broadcast",
		"10.0.0.1/24": "", "10.0.0.0/31": "", "10.0.0.0/32": "", "169.254.1.1/16": "", "10.0.0.255/16": "",
	} {
		ps := Default().CommandLine("ip=" + v)
		if want == "" && ps != nil || want != "" && (len(ps) != 1 || !strings.Contains(ps[0].String(), want)) {
			t.Errorf("%s: %v, want %q", v, ps, want)
		}
	}
}

func TestAnOptionThatIsGivenTwiceIsTold(t *testing.T) {
	c := Default()
	ps := c.CommandLine("name=a ip=none name=b run=x run=x")
	if len(ps) != 1 || !strings.Contains(ps[0].String(), "option name is given twice") || c.Name != "b" {
		t.Errorf("%v, %+v", ps, c)
	}
	c = Default()
	if ps := c.ModuleText("m", []byte("\ufeffname=a\nrun=x\nrun=x\nname=b\n")); len(ps) != 1 || !strings.Contains(ps[0].String(), "line 4: option name is given twice") || c.Name != "b" {
		t.Errorf("%v, %+v", ps, c)
	}
}

func TestAHugeCommandLineIsToldInAFewLines(t *testing.T) {
	for _, line := range []string{strings.Repeat("x=y ", 1000), strings.Repeat("run=x ", 1000), "name=" + strings.Repeat("n", 100000), strings.Repeat("x", 100000)} {
		n := 0
		for _, p := range Default().CommandLine(line) {
			n += len(p.String())
		}
		if n == 0 || n > 4000 {
			t.Errorf("%.10s...: told in %d bytes", line, n)
		}
	}
}

func TestTwoServicesOnOnePortAreTold(t *testing.T) {
	c := Default()
	c.CommandLine("control=insecure-tcp:99 migrate=insecure-tcp:99")
	if ps := c.Conflicts(); len(ps) != 1 || c.Control != 99 || c.Migrate != 0 || !strings.Contains(ps[0].String(), "port 99") {
		t.Errorf("%v, %+v", ps, c)
	}
	c.CommandLine("migrate=insecure-tcp")
	if ps := c.Conflicts(); ps != nil || c.Migrate == 0 {
		t.Errorf("%v, %+v", ps, c)
	}
}
