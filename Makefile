# Every target says what it does; `make help` lists them.
SHELL  := /bin/bash
# Where `make push` pushes to.
PUSH_TO ?= ghcr.io/waitdaemon/waitdaemon
TAG    ?= dev
# This machine's architecture, as Go and OCI name it, and the other one. ARCH is what is built for; what is not for this
# machine goes into folders of its own.
NATIVE := $(if $(filter aarch64 arm64,$(shell uname -m)),arm64,amd64)
OTHER  := $(if $(filter arm64,$(NATIVE)),amd64,arm64)
ARCH   ?= $(NATIVE)
folder  = $(1)$(if $(filter-out $(NATIVE),$(2)),/$(2))
musl    = $(if $(filter arm64,$(1)),aarch64,x86_64)-unknown-linux-musl
TARGET := $(call musl,$(ARCH))
CACHE  := $(call folder,.cache,$(ARCH))
DIST   := $(call folder,dist,$(ARCH))
export GOARCH := $(ARCH)
NERDCTL = CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags='-s -w -X github.com/containerd/nerdctl/v2/pkg/version.Version=$(1)'
GO     := CGO_ENABLED=0 go build -trimpath -ldflags='-s -w'

VERSION ?= $(shell git describe --tags --always 2> /dev/null | sed 's/^v//')
# The time of what is released: the commit's.
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct)
# Builds the program for a target. No path of the machine that builds it gets into it.
CARGO_HOME ?= $(HOME)/.cargo
build = cargo build -q --release --target $(1) --bin waitdaemon \
  --config "target.$(1).rustflags=['--remap-path-prefix=$(CARGO_HOME)/registry/src=crates', '--remap-path-prefix=$(CURDIR)=waitdaemon']"

.DEFAULT_GOAL := help
.PHONY: check controls help demo test test-machines test-machines-arm64 e2e soak fuzz image push program programs cache setup docs recordings fmt clean release-image bench fleet check-release rehearse-release release-tools gate

help: ## list the targets
	@awk -F ':.*## ' '/^##@ / { print substr($$0, 5) } /^[a-z0-9-]+:.*## / { printf "  make %-21s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ first

demo: ## watch one reboot action from start to reboot, in a throw-away machine (DEMO_WAIT=5 ENGINE=docker|nerdctl)
	@scripts/setup $(if $(filter nerdctl,$(ENGINE)),test,demo)
	@$(MAKE) --no-print-directory -s dist/waitdaemon.tar $(if $(filter nerdctl,$(ENGINE)),cache)
	@ENGINE=$(ENGINE) cargo run -q -p demo --bin demo

check: ## what needs neither root nor an engine: lints, unit tests, the simulation (about a minute); the first thing to run
	@scripts/check

##@ test

test: ## formatting, lints, unit tests, and everything on real engines with the real Tink Agent; ONE=captain::again runs some cases alone
	@scripts/setup test
	@$(MAKE) --no-print-directory -s cache $(if $(ONE),,$(CACHE)/lint/cargo-deny) image programs
	@scripts/test $(ONE)

test-machines: ## reboot and kexec on machines that boot for real, in QEMU (about 15 minutes)
	@scripts/setup machines
	@$(MAKE) --no-print-directory -s $(CACHE)/tink/agent $(CACHE)/qemu/captain.ext4 dist/waitdaemon.tar
	@cargo build -q -p lab --bins
	@cargo test -q --test machines -- $(ONE)

test-machines-arm64: ## the same on emulated arm64 machines: a reboot and a kexec for each OSIE (about 15 minutes)
	@scripts/setup machines-arm64
	@$(MAKE) --no-print-directory -s $(CACHE)/tink/agent
	@$(MAKE) --no-print-directory -s ARCH=arm64 $(call folder,.cache,arm64)/tink/agent $(call folder,.cache,arm64)/qemu/captain.ext4 $(call folder,dist,arm64)/waitdaemon.tar
	@cargo build -q -p lab --bins
	@MACHINES=arm64 cargo test -q --test machines -- $(ONE)

e2e: ## the README's reboot through the real Tinkerbell server and agent, to the next boot (builds the server: about 10 minutes once)
	@scripts/setup test
	@$(MAKE) --no-print-directory -s cache $(CACHE)/tink-server/tinkerbell image
	@cargo build -q -p lab --bins
	@cargo run -q -p demo --bin e2e

soak: ## every fault at every step, on real engines (about 20 minutes)
	@scripts/setup test
	@$(MAKE) --no-print-directory -s cache image
	@cargo build -q -p lab --bins
	@SOAK=alone cargo test -q --test integration

controls: ## every negative control: with a guard broken, its case must fail (about 20 minutes)
	@scripts/setup test
	@$(MAKE) --no-print-directory -s cache image
	@cargo build -q -p lab -p demo --bins && cargo test -q --test integration --no-run
	@scripts/controls

FUZZ_SECONDS ?= 60
fuzz: ## fuzz each parser (FUZZ_SECONDS=60)
	@scripts/setup test
	@scripts/fuzz $(FUZZ_SECONDS)

##@ build

setup: ## install what building and testing need (apt packages, Rust's musl target)
	@scripts/setup test

image: $(DIST)/waitdaemon.tar $(DIST)/waitdaemon-nerdctl.tar ## write dist/*.tar (waitdaemon:dev, waitdaemon:dev-nerdctl), for docker load and nerdctl load

$(DIST)/waitdaemon.tar: program
	@cargo run -q -p packaging --bin image -- target/$(TARGET)/release/waitdaemon waitdaemon:dev $@

$(DIST)/waitdaemon-nerdctl.tar: program $(CACHE)/nerdctl/nerdctl
	@cargo run -q -p packaging --bin image -- target/$(TARGET)/release/waitdaemon waitdaemon:dev-nerdctl $@ $(CACHE)/nerdctl/nerdctl

program: ## build the static program
	@[ -e target/$(TARGET)/release/waitdaemon ] || echo "building the program for $(ARCH) (cold about a minute) ..."
	@$(call build,$(TARGET))

# For both architectures.
programs: program
	@$(MAKE) --no-print-directory -s ARCH=$(OTHER) program

push: dist/waitdaemon.tar ## push the image with your Docker (PUSH_TO=registry.example.org/waitdaemon TAG=1)
	@docker load -q -i dist/waitdaemon.tar
	@docker tag waitdaemon:dev $(PUSH_TO):$(TAG)
	@docker push $(PUSH_TO):$(TAG)

AGENTS := $(CACHE)/agents/v0.23/agent $(CACHE)/agents/v0.24/agent

cache: $(CACHE)/tink/agent $(AGENTS) $(CACHE)/docker28/dockerd $(CACHE)/docker28/containerd $(CACHE)/docker-new/dockerd $(CACHE)/containerd-next/containerd $(CACHE)/nerdctl/nerdctl $(CACHE)/captain/rootfs $(CACHE)/captain/next ## build agents, engines and CaptainOS's root for the tests

##@ measure

bench: ## measure size, memory and time against the floor; writes bench/results.json and docs/timeline.svg (PEER_IMAGE=...); ONE=captain measures on one system
	@scripts/setup bench
	@$(MAKE) --no-print-directory -s cache image
	@ONE=$(ONE) cargo run -q -p bench --bin bench

fleet: ## 1,000 machines that wait for the real Smee at once: its load, and how far apart they start (one minute)
	@scripts/setup test
	@$(MAKE) --no-print-directory -s $(CACHE)/tink-server/tinkerbell
	@cargo run -q -p bench --bin fleet

##@ release

release-image: ## write dist/*-oci.tar, each with the images for amd64 and arm64, and print their digests
	@scripts/setup release
	@$(MAKE) --no-print-directory -s programs nerdctls
	@$(call release,dist/waitdaemon-oci.tar,$(VERSION),,)
	@$(call release,dist/waitdaemon-nerdctl-oci.tar,$(VERSION)-nerdctl,:$(call nerdctl,amd64),:$(call nerdctl,arm64))

# Writes an archive: its path, its version, what is added to the image for amd64, and to the one for arm64.
release = cargo run -q -p packaging --bin release -- $(1) $(PUSH_TO) $(2) $$(git rev-parse HEAD) \
  $$(date -u -d @$(SOURCE_DATE_EPOCH) +%Y-%m-%dT%H:%M:%SZ) \
  amd64=target/$(call musl,amd64)/release/waitdaemon$(3) arm64=target/$(call musl,arm64)/release/waitdaemon$(4)

# nerdctl for an architecture, and for both.
nerdctl = $(call folder,.cache,$(1))/nerdctl/nerdctl
nerdctls: $(CACHE)/nerdctl/nerdctl
	@$(MAKE) --no-print-directory -s ARCH=$(OTHER) $(call nerdctl,$(OTHER))

check-release: ## build the released images twice, in different folders; the digests must be the same
	@scripts/check-release

rehearse-release: ## every step of a release that needs no outside service, against a registry on loopback (about 15 minutes)
	@scripts/setup rehearsal
	@$(MAKE) --no-print-directory -s release-tools nerdctls
	@scripts/rehearse-release

release-tools: $(CACHE)/release/cosign

gate: ## known vulnerabilities in what ships (databases are fetched; says what it left out without them)
	@scripts/setup gate
	@$(MAKE) --no-print-directory -s $(CACHE)/lint/cargo-deny $(CACHE)/gate/govulncheck $(CACHE)/nerdctl/nerdctl
	@scripts/gate

##@ keep up

docs: ## write the tables in docs/ from the code and from the cases that the tests run
	@WRITE_DOCS=1 cargo test -q --lib page_is_the > /dev/null
	@WRITE_DOCS=1 cargo test -q --test integration -- page_is_the > /dev/null

recordings: cache image ## record documents of the real engines into tests/fixtures (needs jq)
	@cargo build -q -p lab --bins && scripts/record

fmt: ## format the sources
	@cargo fmt --all

clean: ## remove everything that was built
	@rm -rf target dist $(CACHE)

# What all this is made with: agents, engines, disks, tools.

$(CACHE)/tink/agent: lab/tink/go.mod lab/tink/go.sum lab/tink/server-standin/main.go
	@echo "building the Tink Agent v0.25.0 (cold about 2 minutes) ..."
	@cd lab/tink && $(GO) -o ../../$(CACHE)/tink/ tool ./server-standin 2> >(grep -v '^go: downloading' >&2)
	@touch $@

$(AGENTS): $(CACHE)/agents/%/agent: lab/agents/%/go.mod lab/agents/%/go.sum
	@echo "building the Tink Agent $*.0 (cold about a minute) ..."
	@cd lab/agents/$* && $(GO) -o ../../../$(CACHE)/agents/$*/ tool 2> >(grep -v '^go: downloading' >&2)
	@touch $@

# Without what no machine of the lab uses: Kubernetes and other file systems.
ENGINE_TAGS := exclude_graphdriver_btrfs,no_btrfs,no_devmapper,no_zfs,no_cri,netgo,osusergo,static_build
# Builds the tools of a Go module in lab/ into a folder of the cache: module, folder, more flags.
engine = cd lab/$(1) && $(GO) $(3) -tags $(ENGINE_TAGS) -o ../../$(CACHE)/$(2)/ tool 2> >(grep -v '^go: downloading' >&2) && touch ../../$@

$(CACHE)/docker28/dockerd: lab/docker28/go.mod lab/docker28/go.sum
	@echo "building Docker 28.2.2, as HookOS has it (cold about 3 minutes) ..."
	@$(call engine,docker28,docker28,-ldflags='-s -w -X github.com/docker/docker/dockerversion.Version=28.2.2')

$(CACHE)/docker28/containerd: lab/containerd17/go.mod lab/containerd17/go.sum
	@echo "building containerd 1.7.27, as HookOS has it (cold about a minute) ..."
	@$(call engine,containerd17,docker28)

$(CACHE)/docker-new/dockerd: lab/docker-new/go.mod lab/docker-new/go.sum
	@echo "building moby v2.0.0-beta.24 (cold about 3 minutes) ..."
	@$(call engine,docker-new,docker-new)

$(CACHE)/containerd-next/containerd: lab/containerd-next/go.mod lab/containerd-next/go.sum
	@echo "building containerd 2.4.2 (cold about a minute) ..."
	@$(call engine,containerd-next,containerd-next)

$(CACHE)/containerd22/containerd: lab/containerd22/go.mod lab/containerd22/go.sum
	@echo "building containerd 2.2.1, as CaptainOS has it (cold about a minute) ..."
	@$(call engine,containerd22,containerd22)

$(CACHE)/nerdctl/nerdctl: lab/nerdctl/go.mod lab/nerdctl/go.sum
	@echo "building nerdctl 2.2.1 (cold about 2 minutes) ..."
	@cd lab/nerdctl && $(call NERDCTL,2.2.1) -o ../../$(CACHE)/nerdctl/ tool 2> >(grep -v '^go: downloading' >&2)
	@touch $@

$(CACHE)/nerdctl-next/nerdctl: lab/nerdctl-next/go.mod lab/nerdctl-next/go.sum
	@echo "building nerdctl 2.3.5 (cold about 2 minutes) ..."
	@cd lab/nerdctl-next && $(call NERDCTL,2.3.5) -o ../../$(CACHE)/nerdctl-next/ tool 2> >(grep -v '^go: downloading' >&2)
	@touch $@

$(CACHE)/tink-server/tinkerbell: lab/tink-server/go.mod lab/tink-server/go.sum lab/tink-server/quamina/quamina.go
	@echo "building the Tinkerbell server v0.25.0 with its own etcd and API server (cold about 10 minutes, 3 GB) ..."
	@cd lab/tink-server && $(GO) -buildvcs=false -tags embedded -o ../../$@ github.com/tinkerbell/tinkerbell/cmd/tinkerbell 2> >(grep -v '^go: downloading' >&2)

$(CACHE)/captain/rootfs: lab/captain/rootfs $(wildcard lab/captain/*.*) $(CACHE)/nerdctl/nerdctl $(CACHE)/containerd22/containerd
	@echo "making the root of CaptainOS-like machines with debootstrap (about a minute) ..."
	@mkdir -p $(CACHE)/captain && lab/captain/rootfs $(abspath $@) $(ARCH)
	@touch $@

# What CaptainOS's next release has in place of the root's: each machine lays it over the root.
$(CACHE)/captain/next: $(CACHE)/nerdctl-next/nerdctl $(CACHE)/containerd-next/containerd
	@rm -rf $@ $@.new && mkdir -p $@.new/usr/local/bin
	@cp $^ $(CACHE)/containerd-next/containerd-shim-runc-v2 $@.new/usr/local/bin/ && mv $@.new $@

$(CACHE)/qemu/captain.ext4: lab/qemu/disks lab/foreign lab/qemu/osie lab/qemu/initrd-init lab/qemu/second-init $(wildcard lab/qemu/hook/* lab/qemu/captain/* lab/qemu/captain/systemd/system/*) $(CACHE)/captain/rootfs $(CACHE)/docker28/dockerd $(CACHE)/docker28/containerd $(if $(filter arm64,$(ARCH)),$(CACHE)/qemu/kernel)
	@echo "making the disks of machines that boot for real (half a minute) ..."
	@# Lists that are old name packages that are gone.
	@[ "$$(id -u)" != 0 ] || apt-get update -qq || echo "apt's lists stay as they are" >&2
	@lab/qemu/disks $(CACHE)/qemu $(ARCH)
	@touch $@

$(CACHE)/qemu/kernel: lab/qemu/kernel-arm64 lab/qemu/kernel-arm64.config lab/foreign
	@echo "building the kernel of arm64 machines (cold about 6 minutes) ..."
	@mkdir -p $(CACHE)/qemu && lab/qemu/kernel-arm64 $(abspath $@)

$(CACHE)/lint/cargo-deny: lab/lint/go.mod lab/lint/go.sum
	@echo "building cargo-deny 0.20.2 and actionlint 1.7.12 (cold about 3 minutes) ..."
	@cd lab/lint && $(GO) -o ../../$(CACHE)/lint/ tool 2> >(grep -v '^go: downloading' >&2)
	@cargo install -q --locked --version 0.20.2 --root $(CACHE)/lint/cargo cargo-deny
	@ln -sf cargo/bin/cargo-deny $@

$(CACHE)/release/cosign: lab/release/go.mod lab/release/go.sum
	@echo "building cosign 2.6.5, cyclonedx-gomod 1.10.0 and cargo-cyclonedx 0.5.9 (cold about 8 minutes) ..."
	@cd lab/release && $(GO) -o ../../$(CACHE)/release/ tool 2> >(grep -v '^go: downloading' >&2)
	@cargo install -q --locked --version 0.5.9 --root $(CACHE)/release/cargo cargo-cyclonedx
	@touch $@

$(CACHE)/gate/govulncheck: lab/gate/go.mod lab/gate/go.sum
	@cd lab/gate && $(GO) -o ../../$(CACHE)/gate/ tool 2> >(grep -v '^go: downloading' >&2)
	@touch $@
