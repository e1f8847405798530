# The two commands of README.md are `make demo` and `make test`.
.PHONY: image test demo bench soak

# Two hosts boot from the network and a guest moves between them, running.
demo:
	@go run ./qemu-tests demo

# Everything this machine can prove: the code, then every scenario on every ground. Ends with a table.
test:
	@go run ./qemu-tests setup
	go build ./...
	go vet ./...
	@go run ./qemu-tests test -go

# What takes too long for every day: a guest under load for an hour, a thousand machines made and deleted, the kernel's
# self-test for a minute.
DURATION ?= 1h
ROUNDS ?= 1000
soak:
	@go run ./qemu-tests soak -duration $(DURATION) -rounds $(ROUNDS)

# Sizes, times, and instructions counted by the emulator.
bench:
	@go run ./qemu-tests bench

# Virtual disks: over a million crash states, and many more random logs; see docs/vdisk.md. Takes half an hour of one CPU.
crash:
	go test ./vdisk -timeout 6h -v -run 'EveryCrash|ReplayAgrees' -args -crash-operations 3 -crash-sample 5 -replay-cases 500000

# All forms of the host image, and the guest's files, in build/; see docs/boot.md.
image:
	go run ./qemu-tests files
	go run ./boot/mkimage -o build -module .cache/guest/vmlinuz -module build/guest/initramfs
