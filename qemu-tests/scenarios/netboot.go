package scenarios

import (
	"context"
	"fmt"
	"time"

	"godwit/boot"
	"godwit/qemu-tests/machine"
	"godwit/qemu-tests/rig"
)

func netboots() []*rig.Scenario {
	return []*rig.Scenario{
		{
			Name: "pxe", About: "PXE boots the iPXE script over TFTP, with config and modules", Limit: 6 * time.Minute,
			Skip: notOnSecondBochs, Run: func(ctx context.Context, t *rig.T) error { return netboot(ctx, t, boot.ScriptName) },
		},
		{
			Name: "pxe-http", About: "the same files over HTTP", Limit: 6 * time.Minute,
			Skip: onQEMU, Run: func(ctx context.Context, t *rig.T) error { return netboot(ctx, t, "http://10.77.0.1/"+boot.ScriptName) },
		},
		{
			Name: "pxe-image", About: "the bare image is a boot file over TFTP", Limit: 6 * time.Minute,
			Skip: onQEMU, Run: netbootImage,
		},
	}
}

// folder writes what the network serves: the image, a config and the guest's kernel.
func folder(t *rig.T, config string) (string, error) {
	conf, err := writeFile(t, "godwit.conf", config)
	if err != nil {
		return "", err
	}
	f := boot.NetworkFolder{Image: t.Files.Image, Files: []boot.File{
		{Path: conf.Path, Name: conf.Name},
		{Path: t.Files.Guest.Kernel, Name: "vmlinuz"},
		{Path: t.Files.Guest.Initramfs, Name: "initramfs"},
	}}
	return t.Path("tftp"), f.Write(t.Path("tftp"))
}

func netboot(ctx context.Context, t *rig.T, bootFile string) error {
	dir, err := folder(t, "name=fromnetwork\n")
	if err != nil {
		return err
	}
	lan, err := t.LAN(ctx, dir, bootFile)
	if err != nil {
		return err
	}
	nic, _, err := lan.NIC()
	if err != nil {
		return err
	}
	h, err := t.Host(ctx, machine.Spec{Name: "host", Boot: machine.Boot{Network: true}, NIC: nic})
	if err != nil {
		return err
	}
	t.Measure("power to prompt", "%.1f s", h.Ready.Seconds())
	return checkModules(ctx, h, "fromnetwork", t.Files.Guest.Kernel)
}

func netbootImage(ctx context.Context, t *rig.T) error {
	dir, err := folder(t, "")
	if err != nil {
		return err
	}
	lan, err := t.LAN(ctx, dir, "godwit.img")
	if err != nil {
		return err
	}
	nic, _, err := lan.NIC()
	if err != nil {
		return err
	}
	h, err := t.Host(ctx, machine.Spec{Name: "host", Boot: machine.Boot{Network: true}, NIC: nic})
	if err != nil {
		return err
	}
	var f hostFacts
	if err := h.JSON(ctx, "host", &f); err != nil {
		return err
	}
	if f.Name != "godwit" || len(f.Modules) != 0 {
		return fmt.Errorf("the host is named %q and has modules %+v; want neither", f.Name, f.Modules)
	}
	return nil
}
