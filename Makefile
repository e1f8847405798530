# The two commands of README.md are `make demo` and `make test`.
.PHONY: image test

# build/godwit.img, godwit.elf and godwit.sym; see docs/boot.md.
image:
	go run ./boot/mkimage -o build

test:
	go build ./...
	go vet ./...
	go test ./...
