# Coffer's build. `make help` lists what there is; .ci/run calls the same targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

GO ?= go
# No cgo but in coffer-pkcs11: static binaries, the same bytes on every machine.
export CGO_ENABLED := 0
export GOTOOLCHAIN ?= local

# Where packages, the guest image and the tests' images are kept.
CACHE := $(or $(COFFER_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/coffer)
GUEST := $(CACHE)/guest
PLATFORM := $(GUEST)/platform.json
LAYOUTS := $(CACHE)/standins/layouts

BUILD := $(GO) build -trimpath -buildvcs=false
# Packages whose tests boot VMs; they skip that part unless COFFER_E2E=1.
E2E_PACKAGES = $(sort $(dir $(shell grep -rl --include='*_test.go' 'Getenv("COFFER_E2E")' . | sed 's,^,./,;s,^\./\./,./,')))
# VMs of test/e2e at a time; two cores under TCG are full with three. The other packages
# have one each, and two run at once.
E2E_PARALLEL ?= 3
# Fuzzing time of one target; empty: 10m for what an unauthenticated peer can
# send, 2m for the rest.
FUZZTIME ?=

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##### what a user calls

# The simulated TEE of the demo. sgx-sim is a process: it takes no guest image, no
# QEMU and no Debian package.
DEMO_TEE ?= tpm-sim
DEMO_LAYOUTS := $(if $(filter sgx-sim,$(DEMO_TEE)),$(CACHE)/standins/demo,$(LAYOUTS))

.PHONY: demo
demo: $(if $(filter sgx-sim,$(DEMO_TEE)),build runsc demo-image,build guest standins) ## show the main job: a sealed pod in a simulated TEE (DEMO_TEE=tpm-sim), and three refusals
	$(GO) run ./test/demo --bin bin --tee $(DEMO_TEE) --platform $(PLATFORM) --layouts $(DEMO_LAYOUTS)

.PHONY: demo-image
demo-image:
	$(GO) run ./test/standins build --only registry.example/coffer/demo:plain --out $(CACHE)/standins/demo

.PHONY: test
test: ## everything that CI tests, on this machine (packages, builds, unit tests, VMs, Kubernetes)
	@scripts/part.sh "packages (test)" 180 $(MAKE) deps
	@scripts/part.sh "builds" 480 $(MAKE) build runsc guest standins
	@scripts/part.sh "unit tests" 420 $(MAKE) unit
	@scripts/part.sh "VM tests" 420 $(MAKE) e2e
	@scripts/part.sh "Kubernetes" 480 $(MAKE) e2e-kube

.PHONY: deps
deps: ## install the missing Debian packages
	@scripts/deps.sh

.PHONY: build
build: ## build all binaries into bin/
	@mkdir -p bin
	$(BUILD) -o bin/ ./cmd/...
	$(BUILD) -o bin/test-mirror ./test/mirror
	@if command -v gcc >/dev/null; then $(MAKE) coffer-pkcs11; else echo "no gcc: coffer-pkcs11, which needs cgo, is left out"; fi

.PHONY: runsc
runsc: ## build coffer-runsc, the library OS of process TEEs (a module of its own: gVisor)
	@mkdir -p bin
	cd host/libos/runsc && $(BUILD) -ldflags="-s -w -buildid=" -o ../../../bin/coffer-runsc .

.PHONY: coffer-pkcs11
coffer-pkcs11: ## build the trustee's way to hardware security modules (needs gcc: the one binary with cgo)
	CGO_ENABLED=1 $(BUILD) -o bin/ ./cmd/coffer-pkcs11

# The FIPS 140-3 module to build with, as the toolchain names it: certified, inprocess, or a version.
FIPS_MODULE ?= certified
FIPS_BIN ?= bin/fips

.PHONY: fips
fips: ## build coffer and coffer-trustee with Go's FIPS 140-3 module (docs/trustee/fips.md)
	@mkdir -p $(FIPS_BIN)
	GOFIPS140=$(FIPS_MODULE) $(BUILD) -o $(FIPS_BIN)/ ./cmd/coffer ./cmd/coffer-trustee

.PHONY: guest
guest: deps build ## build the guest image and print its measurements
	bin/coffer guest build --temp-lock --out $(GUEST)

.PHONY: trustee-image
trustee-image: ## build a container image of coffer-trustee, as an OCI layout in bin/images/trustee
	$(GO) run ./test/programimage --program coffer-trustee --name registry.example/coffer/trustee:latest --out bin/images/trustee

.PHONY: standins
standins: deps ## build the images that stand in for public ones in tests
	$(GO) run ./test/standins build --out $(LAYOUTS)

##### tests

# Their tests wait for minutes in all: they begin before all else is compiled.
UNIT_FIRST := ./trustee/server ./test/trustee ./trustee/store/postgres
.PHONY: unit
unit: ## unit tests, and every seed of every fuzz target
	$(GO) test -timeout 10m $(UNIT_FIRST) ./...
	cd host/libos/runsc && $(GO) vet ./... && $(GO) test ./...

.PHONY: e2e
e2e: ## tests that boot VMs (needs deps, build, guest and standins)
	@echo "packages that boot VMs: $(E2E_PACKAGES)"
	COFFER_E2E=1 COFFER_PLATFORM=$(PLATFORM) COFFER_STANDINS=$(LAYOUTS) \
	  $(GO) test -timeout 20m -p 2 $(filter-out ./test/e2e/,$(E2E_PACKAGES))
	COFFER_E2E=1 COFFER_PLATFORM=$(PLATFORM) COFFER_STANDINS=$(LAYOUTS) \
	  $(GO) test -timeout 20m -parallel $(E2E_PARALLEL) ./test/e2e/

.PHONY: e2e-full
e2e-full: deps build runsc guest standins ## the tests that boot VMs, uncached and with what takes too long for CI
	COFFER_E2E=1 COFFER_E2E_FULL=1 COFFER_PLATFORM=$(PLATFORM) COFFER_STANDINS=$(LAYOUTS) \
	  $(GO) test -count=1 -timeout 120m -p 1 -parallel $(E2E_PARALLEL) -v $(E2E_PACKAGES)

.PHONY: kube
kube: ## build Kubernetes, etcd and containerd from their modules, for e2e-kube (4 to 9 minutes on two cores, once)
	@scripts/deps.sh kube
	bash test/kube/build.sh

.PHONY: e2e-kube
e2e-kube: deps build runsc guest standins kube ## sealed pods on a Kubernetes of its own (test/kube)
	cd test/kube && COFFER_KUBE_TEST=1 COFFER_PLATFORM=$(abspath $(PLATFORM)) COFFER_LAYOUTS=$(abspath $(LAYOUTS)) \
	  $(GO) test -count=1 -timeout 60m -v .

.PHONY: e2e-kube-full
e2e-kube-full: e2e-kube ## the same with 200 pods, the walk by the sandbox API, and on containerd 1.7 the CRI's walk and a kubelet 1.35
	bash test/kube/build.sh full
	cd test/kube && COFFER_KUBE_TEST=1 COFFER_E2E_FULL=1 COFFER_PLATFORM=$(abspath $(PLATFORM)) COFFER_LAYOUTS=$(abspath $(LAYOUTS)) \
	  $(GO) test -count=1 -timeout 120m -v -run 'OneAfterTheOther|FailedStarts' .
	cd test/kube && COFFER_KUBE_TEST=1 MODE=cri COFFER_CRI_CLASS=coffer-tpm-sim-sandbox COFFER_PLATFORM=$(abspath $(PLATFORM)) COFFER_LAYOUTS=$(abspath $(LAYOUTS)) \
	  $(GO) test -count=1 -timeout 10m -v -run CRI .
	cd test/kube && COFFER_KUBE_TEST=1 MODE=cri BIN="$${COFFER_KUBE:-$$HOME/.cache/coffer-kube}/bin17" COFFER_PLATFORM=$(abspath $(PLATFORM)) COFFER_LAYOUTS=$(abspath $(LAYOUTS)) \
	  $(GO) test -count=1 -timeout 10m -v -run CRI .
	cd test/kube && COFFER_KUBE_TEST=1 BIN="$${COFFER_KUBE:-$$HOME/.cache/coffer-kube}/bin135" COFFER_PLATFORM=$(abspath $(PLATFORM)) COFFER_LAYOUTS=$(abspath $(LAYOUTS)) \
	  $(GO) test -count=1 -timeout 20m -v -run '^(TestPod|TestSecret|TestDenials|TestVolumes)$$' .

.PHONY: bench-kube
bench-kube: deps build runsc guest standins kube ## measure pods of a cluster: kubectl apply to Ready, the shim's cost
	cd test/kube && COFFER_KUBE_TEST=1 COFFER_KUBE_BENCH=1 COFFER_PLATFORM=$(abspath $(PLATFORM)) COFFER_LAYOUTS=$(abspath $(LAYOUTS)) \
	  $(GO) test -count=1 -timeout 60m -v -run 'HowFast|TenAtOnce' .

.PHONY: race
race: ## unit tests under the race detector (needs a C compiler)
	CGO_ENABLED=1 $(GO) test -race -timeout 20m ./...

.PHONY: fuzz
fuzz: ## fuzz every target: 10 minutes or 2 (FUZZTIME=30s for all; TARGETS=regexp)
	$(GO) run ./test/fuzzrun $(if $(FUZZTIME),-each $(FUZZTIME)) $(if $(TARGETS),-run '$(TARGETS)')

.PHONY: fuzz-ci
fuzz-ci: ## fuzz for three minutes in all, compiling included: changed packages first, then some others
	$(GO) run ./test/fuzzrun -total $(or $(FUZZTIME),3m) -changed

.PHONY: bench
bench: deps build guest standins ## measure whole runs and the code's benchmarks (docs/performance.md)
	$(GO) run ./test/bench --bin bin --platform $(PLATFORM) --layouts $(LAYOUTS) $(BENCH_ARGS)
	COFFER_LAYER_MIB=1024 $(GO) test -count=1 -run PeakHeap -v ./image/unpack
	$(GO) test -run '^$$' -bench . -benchmem $(BENCH_PACKAGES)

.PHONY: bench-trustee
bench-trustee: build ## put a trustee under load and print what it costs (docs/performance.md)
	$(GO) run ./test/load --bin bin $(LOAD_ARGS)
LOAD_ARGS ?=

BENCH_PACKAGES = $(sort $(dir $(shell grep -rl --include='*_test.go' '^func Benchmark' . | sed 's,^,./,;s,^\./\./,./,')))
BENCH_ARGS ?=

##### for developers

bin/golangci-lint: tools/go.mod tools/go.sum
	@mkdir -p bin
	cd tools && $(GO) build -o ../bin/golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint

.PHONY: lint
lint: bin/golangci-lint ## golangci-lint as tools/go.mod pins it
	bin/golangci-lint run ./...
	if command -v gcc >/dev/null; then CGO_ENABLED=1 bin/golangci-lint run ./cmd/coffer-pkcs11/...; fi

.PHONY: fmt
fmt: ## format the Go code
	gofmt -w $$(git ls-files '*.go' | grep -v '\.pb\.go$$')

.PHONY: vuln
vuln: ## known vulnerabilities of what is linked (needs the vulnerability database: no part of CI)
	cd tools && $(GO) build -o ../bin/govulncheck golang.org/x/vuln/cmd/govulncheck
	bin/govulncheck ./...

.PHONY: generate
generate: ## regenerate the protobuf code (needs the Debian package protobuf-compiler)
	cd tools && $(GO) build -o ../bin/ google.golang.org/protobuf/cmd/protoc-gen-go github.com/containerd/ttrpc/cmd/protoc-gen-go-ttrpc \
	  google.golang.org/grpc/cmd/protoc-gen-go-grpc
	PATH="$$PWD/bin:$$PATH" protoc --go_out=. --go_opt=module=github.com/cofferproject/coffer \
	  --go-ttrpc_out=. --go-ttrpc_opt=module=github.com/cofferproject/coffer $$(git ls-files 'api/*.proto' $(GRPC_PROTOS:%=':!%'))
	PATH="$$PWD/bin:$$PATH" protoc --go_out=. --go_opt=module=github.com/cofferproject/coffer \
	  --go-grpc_out=. --go-grpc_opt=module=github.com/cofferproject/coffer $(GRPC_PROTOS)
# What is spoken over gRPC and not ttrpc: never linked into the guest.
GRPC_PROTOS := api/aspb/attestation.proto api/pluginpb/plugin.proto api/rvpspb/reference.proto

.PHONY: clean
clean: ## remove what was built (the cache of packages stays)
	rm -rf bin $(GUEST) $(LAYOUTS)
