# Each verb works on every module of the workspace (go.work). `make` alone lists the verbs.
# Needs git, Go and GNU make (3.81 or later); everything else is fetched or done without.

ROOT          = github.com/lockstep-ci/lockstep
ALL           = $(ROOT)/...
# A module's path below ROOT is its folder: pkg/jobs, services/runner, …
MODULES       = $(patsubst $(ROOT)/%,%,$(shell go list -m))
SERVICES      = $(notdir $(patsubst %/go.mod,%,$(wildcard services/*/go.mod)))
# Tests wait as often as they work (leases, browsers, servers that restart), so one package more than there are cores runs at once;
# the two that take longest begin first.
AT_ONCE       = -p $(or $(shell expr $$(getconf _NPROCESSORS_ONLN 2>/dev/null) + 1 2>/dev/null),3)
LONGEST       = $(ROOT)/pkg/jobs $(ROOT)/test/e2e
# -race needs a C compiler; Go itself turns cgo off where there is none.
RACE          = $(if $(filter 1,$(shell go env CGO_ENABLED)),-race)
GOLANGCI_LINT = bin/tools/golangci-lint
OPENAPI_LINT  = bin/tools/openapi-lint
GENERATORS    = $(addprefix bin/tools/,buf protoc-gen-go protoc-gen-connect-go protoc-gen-openapi gqlgen)

.PHONY: help run test browser test-short lint generated fmt build generate bench bench-micro fuzz chaos model tidy clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# REPO and REF given on make's command line are in bin/run's environment: make exports them.
run: build ## start Lockstep and run the example through it; REPO=<url or path> REF=<ref> runs another repository
	@exec bin/run

# -count=1: the tests read binaries and manifests outside their modules, which Go's test cache does not watch.
test: build browser ## test everything on a real PostgreSQL of its own (or on TEST_DATABASE_URL)
	@status=0; LOCKSTEP_BIN=$(CURDIR)/bin bin/withpg -- go test $(AT_ONCE) $(RACE) -count=1 $(SHORT) $(LONGEST) $(ALL) || status=$$?; \
	echo "the queue once more, without notifications"; \
	LOCKSTEP_TEST_NOTIFY=off bin/withpg -- go test $(RACE) -count=1 $(SHORT) -skip 'Interleaving|Model|Outlive|LongTransaction|Locked|Waited|Exhausted' $(ROOT)/pkg/jobs || status=$$?; \
	[ -n "$(RACE)" ] || echo "no C compiler: tested without -race"; \
	exit $$status

# Two tests look at the pages. Like PostgreSQL, the browser is fetched where that can be done without asking.
browser:
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && echo "installing chromium" && \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; } || \
		echo "no chromium in PATH: the tests of the pages will fail; install it (Debian: apt-get install chromium)"

test-short: SHORT = -short
test-short: test ## test without what takes long

# Images and importers build a module by itself, so each must build and be tidy without the workspace.
lint: $(GOLANGCI_LINT) $(OPENAPI_LINT) generated ## look for faults; check that every module builds and is tidy by itself
	$(GOLANGCI_LINT) run $(patsubst %,./%/...,$(MODULES))
	$(OPENAPI_LINT) services/api-gateway/internal/openapi/lint.yaml services/api-gateway/internal/openapi/openapi.json
	@for module in $(MODULES); do \
		echo "$$module: go build, go mod tidy -diff"; \
		(cd $$module && GOWORK=off go build -o /dev/null ./... && GOWORK=off go mod tidy -diff) || exit 1; \
	done

# Not by git: what CI has is a tree of files. `buf format` and `buf lint` look at the definition on the way (proto/generate).
SUMS          = find services pkg -type f -exec cksum {} + | sort
generated: $(GENERATORS)
	@echo "generated files are as make generate writes them"
	@before=$$($(SUMS)); go generate $(ALL) && [ "$$before" = "$$($(SUMS))" ] || { echo "they were not: commit what it has written"; exit 1; }

fmt: $(GOLANGCI_LINT) ## format the Go files
	$(GOLANGCI_LINT) fmt $(MODULES)

build: ## build the services and migrate, run and withpg as static binaries into bin/
	@echo "go build -o bin/ $(SERVICES) migrate run withpg"
	@CGO_ENABLED=0 go build -trimpath -o bin/ $(addprefix $(ROOT)/services/,$(SERVICES)) \
		$(ROOT)/migrations/cmd/migrate $(ROOT)/dev/cmd/run $(ROOT)/dev/cmd/withpg

generate: $(GENERATORS) ## write the generated files anew
	go generate $(ALL)

bench: build ## measure the queue beside others; BENCH=a,c picks parts, OUT=<file> keeps the table (docs/performance.md)
	@go build -o bin/ $(ROOT)/test/bench
	@LOCKSTEP_BIN=$(CURDIR)/bin bin/withpg -durable -- bin/bench $(if $(OUT),-o $(OUT))

bench-micro: build ## run the queue's micro-benchmarks, in the form that benchstat compares; COUNT=<n> times each
	@bin/withpg -durable -- go test -run '^$$' -bench . -benchmem -count $(or $(COUNT),1) $(ROOT)/pkg/jobs/...

# Only the gateway has targets. Their seeds are part of `make test`.
fuzz: build ## send each fuzz target of the gateway made-up input for FUZZ_TIME (30s)
	@cd services/api-gateway && for package in $$(go list -f '{{.Dir}}' ./...); do \
		for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9]*\)(f \*testing.F).*/\1/p' $$package/*_test.go 2>/dev/null); do \
			$(CURDIR)/bin/withpg -- go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(or $(FUZZ_TIME),30s) $$package || exit 1; \
		done; \
	done

chaos: build ## kill, stop and cut off everything under load for CHAOS_SECONDS (120), and audit it; SEED=<n> repeats a run
	@go build -o bin/ $(ROOT)/test/chaos && LOCKSTEP_BIN=$(CURDIR)/bin exec bin/chaos

model: ## check the model of the queue (needs spin and a C compiler)
	@docs/model/run

tidy: ## go mod tidy in every module, those of the tools too
	@for module in $(MODULES) $(wildcard tools/*); do (cd $$module && GOWORK=off go mod tidy) || exit 1; done

clean: ## remove what run keeps (its database too) and bin/
	go build -o bin/ $(ROOT)/dev/cmd/run
	bin/run clean
	rm -rf bin

# Each built from a module of its own, so that its needs raise no version of ours.
$(OPENAPI_LINT): tools/openapi-lint/main.go
$(GOLANGCI_LINT) $(OPENAPI_LINT) $(GENERATORS): bin/tools/%: tools/%/go.mod tools/%/go.sum
	@echo "building $* (a large one takes some minutes, once)"
	@cd tools/$* && GOWORK=off CGO_ENABLED=0 go build -trimpath -o ../../bin/tools/ tool
