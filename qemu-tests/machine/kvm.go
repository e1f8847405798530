package machine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// KVM_GET_SUPPORTED_CPUID on the system descriptor (Linux, Documentation/virt/kvm/api.rst 4.46), struct kvm_cpuid2 with
// room for entries of 40 bytes.
const (
	kvmGetSupportedCPUID = 0xc008ae05
	kvmCPUIDEntries      = 256
	kvmCPUIDEntrySize    = 40
)

// Where CPUID shows the extensions: VMX in 1:ECX bit 5 (SDM vol. 2, CPUID), SVM in 80000001h:ECX bit 2 (APM vol. 3, E.4.2).
const (
	leafVMX, bitVMX = 1, 5
	leafSVM, bitSVM = 0x80000001, 2
)

// nestedVendor asks /dev/kvm whether guests can have VT-x or SVM: that is what nested virtualization needs, whatever
// the module's parameters say.
func nestedVendor() (Vendor, error) {
	fd, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("/dev/kvm: %w", err)
	}
	defer unix.Close(fd)
	buf := make([]byte, 8+kvmCPUIDEntries*kvmCPUIDEntrySize)
	binary.NativeEndian.PutUint32(buf, kvmCPUIDEntries)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), kvmGetSupportedCPUID, uintptr(unsafe.Pointer(&buf[0]))); e != 0 {
		return "", fmt.Errorf("/dev/kvm: KVM_GET_SUPPORTED_CPUID: %w", e)
	}
	return vendorOf(buf)
}

// vendorOf finds the extension in a struct kvm_cpuid2.
func vendorOf(b []byte) (Vendor, error) {
	n := int(binary.NativeEndian.Uint32(b))
	for i := range min(n, (len(b)-8)/kvmCPUIDEntrySize) {
		e := b[8+i*kvmCPUIDEntrySize:]
		leaf, ecx := binary.NativeEndian.Uint32(e), binary.NativeEndian.Uint32(e[20:])
		switch {
		case leaf == leafVMX && ecx>>bitVMX&1 != 0:
			return VTx, nil
		case leaf == leafSVM && ecx>>bitSVM&1 != 0:
			return SVM, nil
		}
	}
	return "", errors.New("/dev/kvm offers its guests neither VT-x nor SVM")
}
