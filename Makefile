# SPDX-License-Identifier: Apache-2.0
#
# make demo    build, then a group of four in separate processes, narrated
# make test    everything that a change must pass, with the time of each part
# make check   format, build without cgo, vet, tidy, staticcheck
# make bench   the table of the keystores in README.md; make bench-proteus that of Proteus
#              beside Core Crypto's, which it installs; make bench-plugins what plugins
#              cost; make bench-all runs every benchmark
# make fuzz    every fuzz target, FUZZTIME each
# make soak    random groups beside a model of them for SOAK_TIME (an hour); 10000
#              random histories of the client's store beside a map, and of Proteus with
#              each of its real implementations, 50000 of it beside a model; four
#              processes of a client on one PostgreSQL, killed ones on a SQLite file, and
#              200 goroutines on two sessions of tokens, for SCALE_TIME (ten minutes)
#              each; plugins killed at each call of every operation, in 1000 random
#              runs and 20 demonstrations; 1000 processes killed while they use a token;
#              and two tokens more, a TPM in software and opencryptoki
# make soak-race, soak-fuzz   the tests again and again; fuzzing for 10 minutes each
# make soak-interop   every scenario with every assignment of actors, and long random ones
# make token   the tests of PKCS#11 tokens on one of yours, whose URI is HSM
# make build   bin/conclave; with a C compiler it can use PKCS#11 tokens
#
# CONCLAVE_SHARED names the folder with the specifications' test vectors;
# without it ./shared or ../shared is used, and if neither exists those tests
# are skipped.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
.PHONY: demo setup setup-soak postgres tokens tokens-soak token peer ca test check unit scale race bench bench-proteus bench-plugins bench-many bench-all fuzz soak soak-race soak-fuzz soak-interop build plugins clean

DIRS := $(wildcard core providers storage hsm plugins app softhsm-test)
PKGS := $(DIRS:%=./%/...)
PARTS := setup check unit scale race
FUZZTIME ?= 10s
SOAK ?= 20
SOAK_TIME ?= 1h
SCALE_TIME ?= 10m
STATICCHECK := bin/staticcheck-v0.8.2
STEP_CA := bin/peers/step-ca-v0.30.2
TOKENS := softhsm2 opensc openssl libnss3 libnss3-tools p11-kit p11-kit-modules
TOKENS_SOAK := swtpm tpm2-tools tpm2-abrmd libtpm2-pkcs11-1 libtpm2-pkcs11-tools libtss2-tcti-tabrmd0 \
	dbus-daemon opencryptoki util-linux

build:
	@mkdir -p bin
	go build -trimpath -o bin/conclave ./app/conclave
	@[ "$$(go env CGO_ENABLED)" = 1 ] || echo "without PKCS#11: there is no C compiler, or CGO_ENABLED=0"

# The plugins of plugins/examples, as the plugin folder of a home has them.
plugins:
	@mkdir -p bin/plugins
	for name in filestore issuer token; do go build -trimpath -o bin/plugins/conclave-plugin-$$name ./plugins/examples/$$name || exit; done

demo: build
	bin/conclave demo

# Each part is a target of its own; the first that fails ends the run.
test:
	@begin=$$SECONDS; report=; \
	for part in $(PARTS); do \
		start=$$SECONDS; echo "=== $$part"; \
		$(MAKE) --no-print-directory $$part || { echo "=== $$part FAILED after $$((SECONDS - start)) s"; exit 1; }; \
		report+=$$(printf '\n%8d s  %s' $$((SECONDS - start)) $$part); \
	done; \
	echo "=== time of each part$$report"; printf '%8d s  all\n' $$((SECONDS - begin)); \
	echo "packages: $$(grep -c '^ok' bin/unit.log) passed, $$(grep -c '^FAIL' bin/unit.log || true) failed"

# What it installs it says first. A C compiler is for PKCS#11 modules and the race detector.
setup:
	@go version | grep -Eq 'go1\.(2[6-9]|[3-9][0-9])' || \
		{ echo "Conclave needs Go 1.26 or later, this is: $$(go version)"; exit 1; }
	@echo "setup: Go modules of go.mod into the module cache"
	@go mod download
	@if ! command -v cc >/dev/null; then \
		install="apt-get install -y --no-install-recommends gcc libc6-dev"; \
		echo "setup: a C compiler, for PKCS#11 modules and the race detector: $$install"; \
		if [ "$$(id -u)" = 0 ]; then apt-get update -q && $$install; \
		elif sudo -n true 2>/dev/null; then sudo -n apt-get update -q && sudo -n $$install; \
		else echo "setup: please run as root: apt-get update && $$install"; exit 1; fi; \
	fi
	@$(MAKE) --no-print-directory $(STATICCHECK) postgres tokens peer ca

setup-soak: setup tokens-soak

# What only some tests need. Without it they are skipped, unless CONCLAVE_SHARED is set.
postgres tokens tokens-soak:
	@if ($(HAVE)) >/dev/null 2>&1; then exit 0; fi; \
	install='export DEBIAN_FRONTEND=noninteractive; set -e; apt-get update -q; $(INSTALL)'; \
	if ! command -v apt-get >/dev/null; then \
		echo "setup: $(WHAT) need $(ELSE)"; \
	else \
		echo "setup: for $(WHAT): $$install"; \
		if [ "$$(id -u)" = 0 ]; then sh -c "$$install" && exit 0; \
		elif sudo -n true 2>/dev/null; then sudo -n sh -c "$$install" && exit 0; \
		else echo "setup: please run that as root"; fi; \
	fi; \
	[ -z "$${CONCLAVE_SHARED:-}" ]

# A server for the tests to start; that of the system is neither made nor started. On Debian
# and Ubuntu its package makes and starts a cluster, unless that of postgresql-common, which
# it needs, says otherwise.
postgres: WHAT = the tests with PostgreSQL
postgres: ELSE = version 15 or later, with initdb in the PATH
postgres: HAVE = command -v initdb || ls /usr/lib/postgresql/*/bin/initdb
postgres: INSTALL = apt-get install -y --no-install-recommends postgresql-common; \
	mkdir -p /etc/postgresql-common/createcluster.d; \
	echo create_main_cluster = false >/etc/postgresql-common/createcluster.d/conclave.conf; \
	pg_conftool -bs /etc/postgresql-common/createcluster.conf show create_main_cluster | grep -x off; \
	apt-get install -y --no-install-recommends postgresql

# Tokens in software: see softhsm-test. The daemons of the packages are not used; apt may
# start them.
PACKAGES = $(TOKENS)
tokens-soak: PACKAGES = $(TOKENS_SOAK)
tokens tokens-soak: INSTALL = apt-get install -y --no-install-recommends $(PACKAGES)
tokens tokens-soak: HAVE = if command -v dpkg-query; then \
	[ "$$(dpkg-query -W -f '$${db:Status-Status}\n' $(PACKAGES) | grep -cx installed)" = $(words $(PACKAGES)) ]; \
	else command -v $(COMMANDS); fi
tokens: WHAT = the tests with PKCS\#11 tokens, and the CA of the README
tokens: ELSE = SoftHSM 2, OpenSC, OpenSSL 3, and NSS and p11-kit with their tools
tokens: COMMANDS = softhsm2-util && command -v openssl && command -v pkcs11-tool && command -v certutil && command -v p11-kit
tokens-soak: WHAT = the tests with a TPM in software and opencryptoki
tokens-soak: ELSE = swtpm, tpm2-tools, tpm2-abrmd, tpm2-pkcs11 with its tools, the D-Bus daemon, and opencryptoki
tokens-soak: COMMANDS = swtpm && command -v tpm2_ptool && command -v tpm2-abrmd && command -v dbus-daemon && command -v pkcsconf

# What the tests speak with, below bin/peers: the driver of the real Core Crypto in the shared
# folder, ours of npm's @wireapp/proteus and the plugin in Node.js, each with the npm packages
# of its lock file. Without them the tests are skipped, unless CONCLAVE_SHARED is set.
peer:
	@required() { [ -n "$${CONCLAVE_SHARED:-}" ]; }; \
	drivers=(app/drive/testdata/wireapp-proteus plugins/examples/nodejs); \
	for shared in $${CONCLAVE_SHARED:-shared ../shared}; do \
		[ ! -d "$$shared/peers/core-crypto" ] || { drivers+=("$$shared/peers/core-crypto"); break; }; \
	done; \
	if required && [ $${#drivers[@]} = 2 ]; then echo "setup: there is no peers/core-crypto in $$CONCLAVE_SHARED"; exit 1; fi; \
	if ! node --version 2>/dev/null | grep -Eq '^v(2[0-9]|[3-9][0-9])' || ! command -v npm >/dev/null; then \
		echo "setup: the tests with Core Crypto, @wireapp/proteus and a plugin in Node.js need Node.js 20 or later with npm: apt-get install nodejs npm"; \
		echo "setup: has your system an older one, take the release from the Node.js project's download page"; \
		! required; exit; \
	fi; \
	for from in "$${drivers[@]}"; do \
		to=bin/peers/$${from##*/}; \
		if [ -d $$to/node_modules ] && diff -rq -x node_modules -x '*.go' "$$from" $$to >/dev/null; then continue; fi; \
		echo "setup: npm packages of the lock file of $$from into $$to"; \
		rm -rf $$to $$to.new; mkdir -p $$to.new; \
		cp -r "$$from/." $$to.new && chmod -R u+w $$to.new && rm -f $$to.new/*.go; \
		(cd $$to.new && npm ci --prefer-offline --no-audit --no-fund --loglevel=error) || { required && exit 1; continue; }; \
		mv $$to.new $$to; \
	done

# The real step-ca, built from its module, and the program of the shared folder that starts it
# with Wire's challenges.
ca:
	@for shared in $${CONCLAVE_SHARED:-shared ../shared}; do \
		[ -d "$$shared/e2ei-peer" ] || continue; \
		if [ ! -x $(STEP_CA) ]; then \
			echo "setup: step-ca v0.30.2 into $(STEP_CA) (built from its module)"; \
			GOBIN=$(CURDIR)/bin/peers CGO_ENABLED=0 go install github.com/smallstep/certificates/cmd/step-ca@v0.30.2; \
			mv bin/peers/step-ca $(STEP_CA); \
		fi; \
		(cd "$$shared/e2ei-peer" && go build -o $(CURDIR)/bin/peers/e2ei-peer ./cmd/e2ei-peer); \
		exit; \
	done; \
	[ -z "$${CONCLAVE_SHARED:-}" ] || { echo "setup: there is no e2ei-peer in $$CONCLAVE_SHARED"; exit 1; }

# Built once, outside go.mod, so that its modules are none of ours.
$(STATICCHECK):
	@echo "setup: staticcheck v0.8.2 into bin/ (built from its module)"
	@mkdir -p bin
	@GOBIN=$(CURDIR)/bin go install honnef.co/go/tools/cmd/staticcheck@v0.8.2
	@mv bin/staticcheck $@

check: $(STATICCHECK)
	@bad=$$(gofmt -l $(DIRS)); [ -z "$$bad" ] || { echo "gofmt -w these:"; echo "$$bad"; exit 1; }
	CGO_ENABLED=0 go build $(PKGS)
	go vet $(PKGS)
	go mod tidy -diff
	$(STATICCHECK) $(PKGS)

unit:
	@mkdir -p bin
	go test -skip '^TestScaleOut$$' $(PKGS) | tee bin/unit.log

# Four processes on one PostgreSQL, with its counts printed.
scale:
	go test -count 1 -v -run '^TestScaleOut$$' ./core/client

# -short keeps the random runs few: the race detector makes them ten times slower.
# The vectors run without it; what they do at once, other tests do as well. Tests
# start many processes, which need not wait a second at their end.
race:
	GORACE=atexit_sleep_ms=0 go test -race -short -skip Vectors ./core/...

# The suite on a token that is there already, such as a real one: see softhsm-test.
token:
	@[ -n "$(HSM)" ] || { echo "make token HSM='pkcs11:token=...?module-path=...&pin-source=file:...'"; exit 1; }
	CONCLAVE_HSM='$(HSM)' go test -count 1 -v -run '^TestGiven$$' ./softhsm-test
	CONCLAVE_HSM='$(HSM)' go test -count 1 -v -run '^(TestProvider|TestSuites|TestManyGoroutines)$$' ./softhsm-test

bench:
	go test -run '^$$' -bench '^BenchmarkKeystores$$' -benchtime 1x -timeout 10m ./core/coretest

bench-proteus: peer
	go test -run '^$$' -bench '^BenchmarkProteus$$' -benchtime 1x -timeout 10m ./app/drive

bench-plugins:
	go test -run '^$$' -bench '^BenchmarkCall$$' ./plugins/host
	go test -run '^$$' -bench '^BenchmarkPlugins$$' -benchtime 1x ./core/client

bench-many:
	go test -run '^$$' -bench '^BenchmarkManyConversations$$' -benchtime 1x -timeout 20m ./core/client -conversations 10000

bench-all: peer
	go test -run '^$$' -bench . -benchmem $(PKGS)

# To make an input smaller takes runs by the thousand where it is long; fewer are used
# for that, so that more are left for finding something.
fuzz:
	@go test -list '^Fuzz' $(PKGS) | \
	awk '/^Fuzz/ { names[n++] = $$1 } /^ok/ { for (i = 0; i < n; i++) print $$2, names[i]; n = 0 }' | \
	while read -r package target; do \
		echo "=== $$package $$target"; \
		go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x "$$package" || exit 1; \
	done

# All seven suites and both wire formats in turn. The seed of a run that fails is
# printed, with the command that repeats it: see core/mls/model_test.go. The
# thousands of lines about what was drawn for that run are left out.
soak: setup-soak
	@mkdir -p bin
	go test -c -o bin/mls.test ./core/mls
	cd core/mls && CONCLAVE_SOAK=$(SOAK_TIME) ../../bin/mls.test -test.timeout 0 \
		-test.run '^TestGroupModelSoak$$' -rapid.steps 60 -rapid.nofailfile | \
		{ grep --line-buffered -vF '[rapid] draw' || true; }
	go test -count 1 -timeout 0 -run '^TestSegmentModel$$' ./core/client -histories 10000
	go test -count 1 -timeout 0 -run '^TestHistories$$' ./core/proteus -histories 50000
	go test -count 1 -timeout 0 -v -run '^TestScaleOut$$' ./core/client -scale $(SCALE_TIME)
	go test -count 1 -timeout 0 -run '^TestPluginKilled$$' ./core/client -everything
	go test -count 1 -timeout 0 -run '^TestPluginsKilledAtRandom$$' ./core/client -plugin-runs 1000
	go test -count 1 -timeout 0 -run '^TestDemoWithPlugins$$' ./app/conclave -demo-runs 20
	go test -count 1 -timeout 0 -run '^TestProteusHistories$$' ./app/drive -histories 10000
	CONCLAVE_SOAK=$(SCALE_TIME) go test -count 1 -timeout 0 -run 'FileAlone|ManyProcesses' ./storage/sqlite
	go test -count 1 -timeout 0 -v -run '^TestManyGoroutines$$' ./softhsm-test -load $(SCALE_TIME)
	go test -count 1 -timeout 0 -v -run '^(TestTPM|TestOpenCryptoki)$$' ./softhsm-test -soak -load 1m
	go test -count 1 -timeout 0 -v -run '^TestKilledAnywhere$$' ./softhsm-test -kills 1000

soak-race:
	go test -race -timeout 0 -count $(SOAK) ./core/...

soak-fuzz:
	$(MAKE) --no-print-directory fuzz FUZZTIME=10m

soak-interop:
	go test -count 1 -timeout 0 -run TestScenarios ./app/interop -assignments 16 -deep 1670
	go test -count 1 -timeout 0 -run Interop ./app/drive -everything -runs 100 -steps 100

clean:
	rm -rf bin
