package boot

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// ScriptName is the boot file of a network folder: what DHCP names to machines with iPXE.
const ScriptName = "boot.ipxe"

// NetworkFolder describes what a TFTP or HTTP server offers to machines that boot from the network.
type NetworkFolder struct {
	Image       string // path of the flat image
	CommandLine string
	Files       []File // boot modules
}

// Write fills dir with the image, the files and an iPXE script that loads them.
func (n *NetworkFolder) Write(dir string) error {
	script, err := n.script()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	for _, f := range append([]File{{n.Image, imageName}}, n.Files...) {
		to := filepath.Join(dir, f.Name)
		if err := os.RemoveAll(to); err != nil {
			return err
		}
		if err := copyFile(to, f.Path); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, ScriptName), script, 0o666)
}

// script names files without a server: iPXE finds them beside the script, by TFTP or HTTP, whichever brought it.
func (n *NetworkFolder) script() ([]byte, error) {
	if strings.ContainsAny(n.CommandLine, "\n\r$\\") { // iPXE expands ${...} and joins lines at a backslash
		return nil, fmt.Errorf("command line %q: line breaks, $ and \\ cannot be passed through iPXE", n.CommandLine)
	}
	var b strings.Builder
	b.WriteString("#!ipxe\n")
	fmt.Fprintf(&b, "kernel %s %s\n", imageName, n.CommandLine)
	for _, f := range n.Files {
		if !goodName(f.Name) || f.Name == imageName || f.Name == ScriptName {
			return nil, fmt.Errorf("%q is no name for a boot module: letters, digits, dots, dashes and underscores, and not %s or %s", f.Name, imageName, ScriptName)
		}
		fmt.Fprintf(&b, "initrd %s\n", f.Name)
	}
	b.WriteString("boot\n")
	return []byte(b.String()), nil
}
