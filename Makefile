# `make help`, and `make` alone, print the lines that begin with #:
#:
#: make demo    two emulated hosts boot from the network, and a guest moves between them: the shortest way to see Godwit
#: make test    everything this machine can prove: build, vet, all Go tests, every scenario on every ground; some 30 minutes
#: make image   the host image in all its forms, in build/
#: make bench   sizes, times, and instructions counted by the emulator
#: make soak    what takes too long for every day, as in: make soak DURATION=10m ROUNDS=100
#: make crash   virtual disks: over a million crash states; half an hour of one CPU
#: make help    this
#:
#: Some of it:  go test ./vmm/...                                    the Go tests of some packages
#:              go run ./qemu-tests list                             the scenarios
#:              go run ./qemu-tests test -run migrate -on QEMU/SVM   some of them, on one ground
#: More:        README.md, docs/rig.md
.PHONY: help image test demo bench soak crash

help:
	@sed -n 's/^#: \{0,1\}//p' $(firstword $(MAKEFILE_LIST))

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
