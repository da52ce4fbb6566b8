# Targets run on a machine with Go 1.26 and make. Tools are pinned here and built by Go when they are needed.

GOTESTSUM     := gotest.tools/gotestsum@v1.13.0
GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
GOVULNCHECK   := golang.org/x/vuln/cmd/govulncheck@v1.9.0
CYCLONEDX     := github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0
VERSITYGW     := github.com/versity/versitygw/cmd/versitygw@v1.8.0

WORKSPACE := contract client outbox outbox/outboxotel outbox/outboxprom service member-svc storage-svc devstack devstack/testenv
MODULES   := $(WORKSPACE) devstack/e2e bench

DEVSTACK     := $(CURDIR)/bin/devstack
# One set of flags for programs, tools, linters and tests, so that nothing is compiled twice. Go's version stamp needs a
# trusted git checkout, which a copied tree is not.
export CGO_ENABLED := 0
export GOFLAGS     := -trimpath -buildvcs=false
# The race detector needs cgo, and cgo needs a C compiler.
COMPILER     := $(shell command -v $(firstword $(shell go env CC)) 2>/dev/null)
RACE_TEST    := $(if $(COMPILER),env CGO_ENABLED=1 go test -race,go test)

export DEVSTACK_BIN  := $(DEVSTACK)
export VERSITYGW_BIN := $(CURDIR)/bin/versitygw
# The linter runs vet.
TESTSUM      := go run $(GOTESTSUM) --raw-command --
TEST_FLAGS   := -json -count=1 -vet=off

.DEFAULT_GOAL := help
.PHONY: vulncheck sbom help demo test verify chaos screenshots bench bench-peers modules lint build services devstack versitygw up down clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: devstack ## the whole story on this machine; with ONCE=1 it ends afterwards
	@$(DEVSTACK) demo

test: devstack ## all tests but the slow ones, with the race detector
	@$(if $(COMPILER),,echo "No C compiler found: the tests run without the race detector.")
	@$(TESTSUM) $(RACE_TEST) $(TEST_FLAGS) -p=3 work

verify: devstack modules build versitygw ## slower checks: modules, images, compose, fault tests (needs npm, Chromium, and PgBouncer, nginx and HAProxy, or apt-get)
	@cd devstack/e2e && GOWORK=off $(TESTSUM) go test $(TEST_FLAGS) -timeout=55m -p=1 -parallel=3 ./...
	@cd devstack && $(TESTSUM) go test $(TEST_FLAGS) -timeout=55m -tags=verify -parallel=6 -run=EveryGuard ./internal/guards
	@cd bench && GOWORK=off $(TESTSUM) go test $(TEST_FLAGS) ./...
	@cd outbox && $(TESTSUM) go test $(TEST_FLAGS) -tags=verify -run=PgBouncer .
	@cd member-svc && $(TESTSUM) go test $(TEST_FLAGS) -tags=verify -run='PgBouncer|FullDisk' .
	@cd storage-svc && $(TESTSUM) $(RACE_TEST) $(TEST_FLAGS) -tags=verify -run='Versity|RealMounts' ./internal/provider

vulncheck: ## known vulnerabilities in called code; asks vuln.go.dev
	@for m in $(MODULES); do echo "vulncheck $$m"; (cd $$m && GOWORK=off go run $(GOVULNCHECK) ./...) || exit 1; done

sbom: ## bin/*.cdx.json: the modules in each service, with licences (CycloneDX)
	@mkdir -p bin
	@for m in member-svc storage-svc; do \
		(cd $$m && GOWORK=off go run $(CYCLONEDX) app -json -licenses -std -output ../bin/$$m.cdx.json .) || exit 1; \
	done

bench: build ## measure outbox and sagas against the limits of this machine (40 min); FLAGS=-rows=R,L for some rows
	@cd bench && GOWORK=off go run . -devstack $(DEVSTACK) -bin $(CURDIR)/bin -results RESULTS.md $(FLAGS)

bench-peers: build ## the same, compared with River and Watermill (60 min)
	@cd bench && GOWORK=off go run . -devstack $(DEVSTACK) -bin $(CURDIR)/bin -results RESULTS.md -peers $(FLAGS)

chaos: devstack ## the fault matrix for as long as FLAGS say, e.g. FLAGS='-seed 7 -kills 1000 -signups 100000 -races 50000'
	@cd devstack/e2e && GOWORK=off go test -tags=chaos -v -count=1 -timeout=0 -run '^Test(FaultMatrix|FullDisks|RecoveryKeepsToTheRate|WipedWhileStorageIsDown)$$' . $(FLAGS)

screenshots: devstack ## retake docs/img (needs Chromium)
	@cd devstack/e2e && GOWORK=off go test -tags=screenshots -count=1 -run '^TestScreenshots$$' ./browser

modules: # each module builds on its own and has a tidy go.mod
	@for m in $(MODULES); do \
		echo "module $$m"; \
		(cd $$m && GOWORK=off go build ./... && GOWORK=off go mod tidy -diff) || exit 1; \
	done

lint: ## golangci-lint, with gofmt and go vet, on every module
	@go run $(GOLANGCI_LINT) run $(WORKSPACE:%=./%/...)
	@for m in devstack/e2e bench; do (cd $$m && GOWORK=off go run $(GOLANGCI_LINT) run ./...) || exit 1; done

build: services devstack ## bin/member-svc, bin/storage-svc, bin/devstack

services: # rebuilds only what changed; devstack calls this
	@for m in member-svc storage-svc; do (cd $$m && go build -o ../bin/$$m .) || exit 1; done

devstack:
	@cd devstack && go build -o $(DEVSTACK) .

versitygw: # the object store of the containers, for the tests
	@GOBIN=$(CURDIR)/bin go install $(VERSITYGW)

up: ## the containers: docker compose up
	docker compose up --build --detach --wait

down: ## stop the containers; their volumes stay
	docker compose down

clean: ## remove bin/
	rm -rf bin
