# The two commands of README.md are `make demo` and `make test`.
.PHONY: image test

# All forms of the host image, and the guest's files, in build/; see docs/boot.md.
image:
	go run ./qemu-tests files
	go run ./boot/mkimage -o build -module .cache/guest/vmlinuz -module build/guest/initramfs

test:
	go build ./...
	go vet ./...
	go test ./...
