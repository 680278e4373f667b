# "make" lists the targets. Each also runs in .ci/run, on a machine with
# nothing but Go and apt.

.DEFAULT_GOAL := help
SHELL := bash

# Systems that must build, their tests included. Which of them are also run is
# in docs/platforms.md.
PLATFORMS := linux/amd64 linux/arm64 linux/386 linux/arm linux/riscv64 \
	windows/amd64 windows/arm64 darwin/amd64 darwin/arm64 \
	freebsd/amd64 openbsd/amd64 netbsd/amd64

# For go test: make test TESTFLAGS='-v -run Create'
TESTFLAGS ?=
# How long each fuzz target runs, and how many processes "make kill" kills.
FUZZTIME ?= 60s
KILLS ?= 10000
QEMU ?= $(shell command -v qemu-aarch64-static || command -v qemu-aarch64)

# Modules of the workspace: this one and the heavy ones beside it (bench).
# tools/ is not among them, as its hundreds of dependencies should not take
# part in the choice of anybody's versions.
MODULES = $(shell go list -m -f '{{.Dir}}')
# Those of them whose tests run with ours. Not emulated: they have no code for
# one system.
BESIDE = ./array/shmarrow/... ./array/shmgonum/...
LINT = GOWORK=off go tool -modfile=$(CURDIR)/tools/go.mod golangci-lint

##@ Build
help: ## list the targets
	@awk -F ':.*## ' '/^##@/ { print "\n" substr($$0, 5) } /^[a-z0-9-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## the command, in bin/
	go build -trimpath -o bin/ ./cmd/...

clean: ## remove what the other targets made here
	rm -rf bin coverage.out

##@ Checks that run no program of ours
check: fmt vet lint tidy arch cross ## all of these

fmt: ## gofmt has nothing to change
	@files=$$(gofmt -l .); if [ -n "$$files" ]; then echo "not formatted: $$files" >&2; exit 1; fi

vet: ## go vet, also of the crash points' code and the heavy modules
	@set -e; for dir in $(MODULES); do (cd "$$dir" && go vet ./...); done
	@go vet -tags shmcrash ./...

lint: ## golangci-lint; the first time it has to be compiled, some minutes
	@set -e; for dir in $(MODULES); do (cd "$$dir" && $(LINT) run ./...); done

tidy: ## go.mod and go.sum are complete and hold nothing else
	@set -e; for dir in $(MODULES); do (cd "$$dir" && GOWORK=off go mod tidy -diff); done

arch: ## imports point down only (arch_test.go)
	@go test -count=1 -run Architecture .

# vet compiles all that a package stands on. Only the command is linked: with the
# examples there are dozens of programs, and linking is most of the time.
cross: ## code and tests compile and vet for every system
	@failed=; for p in $(PLATFORMS); do \
		export CGO_ENABLED=0 GOOS=$${p%/*} GOARCH=$${p#*/}; \
		if go build -o /dev/null ./cmd/shm && go vet ./...; then echo "ok   $$p"; else echo "FAIL $$p"; failed=1; fi; \
	done; test -z "$$failed"

##@ Tests
test: ## the tests, also of the heavy modules
	go test $(TESTFLAGS) ./... $(BESIDE)

race: ## the tests under the race detector, which sees the heap only, not shared memory
	go test -race $(TESTFLAGS) ./... $(BESIDE)

test-386: ## the tests with 32-bit words
	GOARCH=386 CGO_ENABLED=0 go test $(TESTFLAGS) ./...

# No binfmt_misc is needed: SHM_QEMU tells the tests to start their own
# children through the emulator as well.
test-arm64: ## the tests on arm64, emulated by qemu-user-static
	@test -n "$(QEMU)" || { echo 'no qemu-aarch64-static (Debian: apt-get install qemu-user-static)' >&2; exit 1; }
	GOARCH=arm64 CGO_ENABLED=0 SHM_QEMU=$(QEMU) go test -exec $(QEMU) $(TESTFLAGS) ./...

test-windows: ## the tests on Windows, as Wine has it
	GOOS=windows GOARCH=amd64 CGO_ENABLED=0 go test -exec $(CURDIR)/.ci/wine.sh $(TESTFLAGS) ./...

# What the library does where a file cannot be made without a name: on old
# kernels, some FUSE and network file systems, and all systems but Linux.
test-named: ## the tests as on file systems without O_TMPFILE, kills among them
	SHM_TEST_NO_TMPFILE=1 go test -count=1 $(TESTFLAGS) . ./list ./lock ./internal/lease ./internal/platform/mem
	SHM_TEST_NO_TMPFILE=1 SHM_KILLS=200 go test -tags shmcrash -run '^TestKill' -count=1 $(TESTFLAGS) . ./list ./lock

fuzz: ## every fuzz target, FUZZTIME each
	@.ci/fuzz.sh $(FUZZTIME)

kill: ## kill KILLS processes at named crash points and look at what they leave
	@go test -tags shmcrash -list '^TestKill' ./... | grep -q '^TestKill' || { echo 'no test is named TestKill…' >&2; exit 1; }
	SHM_KILLS=$(KILLS) go test -tags shmcrash -run '^TestKill' -count=1 -timeout 0 $(TESTFLAGS) ./...

mutants: ## the tests of locks, rings and topics find each of a list of defects
	go test -tags shmcrash -run '^TestMutants$$' -count=1 -timeout 30m $(TESTFLAGS) ./lock ./ring ./topic

cover: ## coverage by function
	go test -coverpkg=./... -coverprofile=coverage.out ./...
	go tool cover -func=coverage.out

##@ Figures
bench: ## measure beside the peers; writes docs/benchmarks.md (BENCH=-peers: first build those that take minutes)
	cd bench && go run . $(BENCH)

.PHONY: help build clean check fmt vet lint tidy arch cross test race test-386 test-arm64 test-windows test-named fuzz kill mutants cover bench
