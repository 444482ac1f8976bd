# Two commands: `make run` serves the demo, `make test` runs every test. Both install what is missing, and build.
# `make stress` and `make bench` take longer.
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

export NGINX

.PHONY: build run test test-one lint stress bench install clean

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

# make test-one NAME=leaving runs the tests whose names hold that text.
test-one: build
	$(CARGO) test --locked -- $(NAME)
	$(CARGO) test --locked --test nginx -- $(NAME)

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) clippy --locked --test nginx --test stress --benches -- -D warnings
	$(CARGO) clippy --locked --no-default-features --lib -- -D warnings
	@if $(CARGO) tree --locked -p resty-session-core | grep -E 'tokio|mlua'; then echo 'the core depends on a runtime or on Lua' >&2; exit 1; fi
	luacheck -q lua spec examples

# Programs that abort, exit and wait in odd places, for a while on each storage: ten minutes in all.
STRESS_SECONDS ?= 75
stress:
	@scripts/setup test
	@$(MAKE) --no-print-directory build
	STRESS_SECONDS=$(STRESS_SECONDS) $(CARGO) test --locked --test stress -- --nocapture --test-threads=1 stress:: other_storages::

bench:
	@scripts/setup bench
	@$(MAKE) --no-print-directory build
	$(CARGO) bench -p resty-session-core --bench core
	$(CARGO) bench --bench nginx
	$(CARGO) bench --bench redis
	$(CARGO) bench --bench files
	$(CARGO) bench --bench remember
	$(CARGO) bench --bench storages

install: build
	@for file in $(patsubst lua/%,%,$(LUA_FILES)); do \
		install -D -m 644 lua/$$file "$(DESTDIR)$(LUA_LIB_DIR)/$$file" || exit 1; \
	done
	@install -D -m 755 $(LUALIB)/resty/session/native.so "$(DESTDIR)$(LUA_CLIB_DIR)/resty/session/native.so"

clean:
	$(CARGO) clean
	rm -rf build
