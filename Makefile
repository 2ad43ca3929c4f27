# Makefile - the words in front of meson. `make help` lists them.

BUILD ?= build
PREFIX ?=
DESTDIR ?=
JOBS ?= $(shell nproc)
# in CI a warning is an error
WERROR ?= $(if $(CI),true,false)
MESON_FLAGS ?=
PYTHON ?= /usr/bin/python3

# DEPS=no: never install a package
DEPS ?= yes
deps = @$(if $(filter yes,$(DEPS)),sh scripts/deps.sh $(1),true)

.PHONY: all demo test soak bench check asan-build check-format check-tidy check-floors check-asan check-tsan check-delays check-mutation fuzz \
	format install uninstall do-uninstall clean help

all:
	$(call deps,build)
	@test -e $(BUILD)/build.ninja || meson setup $(BUILD) -Dwerror=$(WERROR) $(if $(PREFIX),--prefix=$(PREFIX)) $(MESON_FLAGS)
	@ninja -C $(BUILD) -j $(JOBS)

demo: all
	$(call deps,build run)
	@sh scripts/demo.sh $(BUILD)

test: all
	$(call deps,build run)
	@$(PYTHON) scripts/test.py --build $(BUILD) $(TEST_FLAGS)

# what takes long: all seeds, long runs, big sets
soak: all
	$(call deps,build run)
	@$(PYTHON) scripts/test.py --build $(BUILD) --soak $(TEST_FLAGS)

bench: all
	$(call deps,build run)
	@$(PYTHON) bench/run.py --build $(BUILD) $(BENCH_FLAGS)

check: check-format check-floors check-tidy check-asan check-tsan check-delays check-mutation

check-format:
	$(call deps,check)
	@sh scripts/format.sh --check

# calls between the files of the library go down or stay, and the order of a shared word is chosen beside its struct
check-floors:
	@$(PYTHON) scripts/callgraph.py
	@$(PYTHON) scripts/sharedwords.py

check-tidy: all
	$(call deps,check)
	@sh scripts/tidy.sh $(BUILD)

# the build with AddressSanitizer and UndefinedBehaviorSanitizer
asan-build:
	$(call deps,build run)
	@test -e $(BUILD)-asan/build.ninja || meson setup $(BUILD)-asan -Dwerror=$(WERROR) --buildtype=debugoptimized \
		-Db_sanitize=address,undefined -Db_lundef=false $(MESON_FLAGS)
	@ninja -C $(BUILD)-asan -j $(JOBS)

check-asan: asan-build
	@$(PYTHON) scripts/test.py --build $(BUILD)-asan --sanitizer address $(TEST_FLAGS)

check-tsan:
	$(call deps,build run)
	@test -e $(BUILD)-tsan/build.ninja || meson setup $(BUILD)-tsan -Dwerror=$(WERROR) --buildtype=debugoptimized \
		-Db_sanitize=thread -Db_lundef=false $(MESON_FLAGS)
	@ninja -C $(BUILD)-tsan -j $(JOBS)
	@$(PYTHON) scripts/test.py --build $(BUILD)-tsan --sanitizer thread $(TEST_FLAGS)

# the protocols with random delays at each atomic operation, death at a chosen one, and the order of locks checked
check-delays:
	$(call deps,build run)
	@test -e $(BUILD)-delays/build.ninja || meson setup $(BUILD)-delays -Dwerror=$(WERROR) --buildtype=debugoptimized \
		-Dberth_delays=true $(MESON_FLAGS)
	@ninja -C $(BUILD)-delays -j $(JOBS)
	@$(PYTHON) scripts/test.py --build $(BUILD)-delays --suite unit --only lock $(TEST_FLAGS)
	@$(PYTHON) scripts/test.py --build $(BUILD)-delays --suite e2e --only test_protocols --test Delayed $(TEST_FLAGS)
	@$(PYTHON) scripts/test.py --build $(BUILD)-delays --suite e2e --only test_passed --test Delayed $(TEST_FLAGS)
	@$(PYTHON) scripts/test.py --build $(BUILD)-delays --suite e2e --only test_users --test Delayed $(TEST_FLAGS)

# a peer that writes words into all that it may write, and those who must not mind; MUTATION_SEED=n for the same again
MUTATION_SECONDS ?= 60
check-mutation: asan-build
	@sh scripts/mutation.sh $(BUILD)-asan $(MUTATION_SECONDS) $(MUTATION_SEED)

# FUZZ_SECONDS for each target; FUZZ=name for one
FUZZ_SECONDS ?= 60
fuzz:
	$(call deps,build check)
	@test -e $(BUILD)-fuzz/build.ninja || CC=clang CFLAGS=-fsanitize=fuzzer-no-link meson setup $(BUILD)-fuzz \
		--buildtype=debugoptimized -Db_sanitize=address,undefined -Db_lundef=false $(MESON_FLAGS)
	@sh scripts/fuzz.sh $(BUILD)-fuzz $(FUZZ_SECONDS) $(FUZZ)

format:
	$(call deps,check)
	@sh scripts/format.sh

install: all
	@$(if $(PREFIX),meson configure $(BUILD) --prefix=$(PREFIX) && ninja -C $(BUILD) -j $(JOBS))
	@DESTDIR=$(DESTDIR) meson install -C $(BUILD) --no-rebuild
	@$(if $(DESTDIR),,if [ "$$(id -u)" = 0 ]; then ldconfig || true; fi)

# removes what the last install from this build directory put there, and the directories that are berth's alone
uninstall:
	@test -e $(BUILD)/meson-logs/install-log.txt || { echo "nothing was installed from $(BUILD)/" >&2; exit 1; }
	@if grep -v '^#' $(BUILD)/meson-logs/install-log.txt | while read -r file; do \
		if [ -e "$$file" ] || [ -L "$$file" ]; then exit 1; fi; done; \
	then echo "nothing of what was installed from $(BUILD)/ is there any more"; else $(MAKE) --no-print-directory do-uninstall; fi

do-uninstall:
	@cp $(BUILD)/meson-logs/install-log.txt $(BUILD)/uninstall-log.txt
	@ninja -C $(BUILD) uninstall >/dev/null
	@sed -En 's,(.*/berth)((/bench|/docs|/examples|/scripts)?)/[^/]*$$,\1\2\n\1,p' $(BUILD)/uninstall-log.txt | sort -ru | \
		while read -r dir; do rmdir "$$dir" 2>/dev/null || true; done
	@rm -f $(BUILD)/uninstall-log.txt
	@$(if $(DESTDIR),,if [ "$$(id -u)" = 0 ]; then ldconfig || true; fi)
	@echo "berth is uninstalled"

clean:
	rm -rf $(BUILD) $(BUILD)-asan $(BUILD)-tsan $(BUILD)-delays $(BUILD)-fuzz

help:
	@echo 'make            build into $(BUILD)/; $(BUILD)/berth works from there'
	@echo 'make demo       redis and nginx on the kernel and on berth, side by side (under 3 minutes)'
	@echo 'make test       every test, each with a few seeds; ends with "N passed, M failed[, K skipped]" (about 8 minutes)'
	@echo 'make soak       every test with all its seeds, long runs and big sets (an hour or so)'
	@echo 'make bench      every figure beside the kernel'"'"'s'
	@echo 'make check      format, floors, clang-tidy, the tests under ASan+UBSan and under TSan, with delays, and mutation'
	@echo 'make check-format    the sources against .clang-format'
	@echo 'make check-floors    calls between the files of the library, and the memory order of shared words'
	@echo 'make check-tidy      clang-tidy'
	@echo 'make check-asan      the tests under AddressSanitizer and UndefinedBehaviorSanitizer'
	@echo 'make check-tsan      the tests under ThreadSanitizer'
	@echo 'make check-delays    the protocols with random delays at each atomic operation, and the order of locks'
	@echo 'make check-mutation  a peer whose memory changes all the time (MUTATION_SECONDS=60, MUTATION_SEED=n)'
	@echo 'make fuzz       libFuzzer on all that parses (FUZZ_SECONDS=60 each, FUZZ=name for one)'
	@echo 'make format     put the sources into the form that check wants'
	@echo 'make install    PREFIX=/usr/local DESTDIR='
	@echo 'make uninstall  take away what install put there'
	@echo 'make clean      remove the build directories'
	@echo
	@echo 'Missing Debian packages (scripts/packages.txt) are installed first; DEPS=no for never.'
