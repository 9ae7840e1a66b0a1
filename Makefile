# Fathom: continuous depth-wise batching for recurrent-depth transformers.
#
#   make            build build/fathom, on all cores (-j2: on two)
#   make run        install missing packages, build, ask the bundled models, serve one (MODEL=models/hops PORT=8080)
#   make check-fast build, run the tests in C: under two minutes, needs Criterion beyond the build
#   make test       install missing packages, build, run every test that needs no GPU
#   make check      layers, circles of calls, readability, links and format first, then what make test runs
#   make san        build and run the unit tests under ASan+UBSan
#   make tsan       build and run the thread tests under TSan
#   make mutants    plant bugs in copies of the scheduler and the CPU engine; the property tests must find each (T=regex)
#   make fuzz-NAME  libFuzzer on one parser (FUZZ_SECONDS=60); make fuzz lists them, make fuzz-all runs them
#   make hostile    attack the built server, a folder per case in tests/hostile (SCALE=1: full size; T=regex)
#   make hostile-san  the same under ASan+UBSan, then TSan
#   make soak       mixed load with a hostile share (MINUTES=30 BIN=build/release/fathom OUT=build/soak)
#   make tidy       clang-tidy with the checks of .clang-tidy (FILES='api/blocks.c' picks files)
#   make analyse    cppcheck, gcc -fanalyzer and clang-tidy over the tree, some minutes
#   make tsan-http  build the server under TSan and run the HTTP tests against it
#   make bench      kernels, engine and HTTP on this machine, some minutes
#   make gpu-kit    all that a bare GPU machine needs to test and time the CUDA engine (engine/cuda/README.md)
#   make format     clang-format the tree
#   make compdb     write compile_commands.json for clangd
#   make man        write the manual pages into build/man
#   make install    to $(DESTDIR)$(prefix) (install-strip: without symbols; uninstall: removes it)
#   make deb        Debian packages in build/deb
#   make dist       the source as build/dist/fathom-VERSION.tar.gz
#   make chart      the Helm chart as build/fathom-VERSION.tgz (make manifests: deploy/kubernetes from it)
#   make deps       install the Debian packages the build needs (apt, with or without root)
#   make clean      remove build/
#
# Variables: SAN=address,undefined|thread   CUDA=auto|0|1   MPI=auto|0|1   T='suite/test' (one unit test)
#            PREFIX=/usr/local   PORT=8080   V=1 (print commands)   WERROR=1 (a warning is an error)

CC      ?= gcc
PREFIX  ?= /usr/local
PORT    ?= 8080
MODEL   ?= models/hops
CUDA    ?= auto
SAN     ?=
T       ?=
FUZZ_SECONDS ?= 60
VERSION := 0.1.0

# All cores, unless -j is given or another make calls.
ifeq ($(MAKELEVEL),0)
MAKEFLAGS += -j$(shell nproc 2>/dev/null || echo 2)
endif

comma := ,
MODE  := $(if $(SAN),san-$(subst $(comma),-,$(SAN)),release)
B     := build/$(MODE)
FB    := build/fuzz

# Libraries unpacked without root by tools/deps.sh are found before the system's. The run path holds
# for the libraries of the libraries too.
SYSROOT := $(abspath $(wildcard build/sysroot/usr))
ifneq ($(SYSROOT),)
TRIPLE  := $(shell $(CC) -print-multiarch 2>/dev/null || $(CC) -dumpmachine)
SYSROOT_CFLAGS := -I$(SYSROOT)/include -I$(SYSROOT)/include/$(TRIPLE)
SYSROOT_DIRS   := $(SYSROOT)/lib/$(TRIPLE) $(wildcard $(SYSROOT)/../lib/$(TRIPLE))
SYSROOT_LIBS   := $(SYSROOT_DIRS:%=-L%) -Wl,--disable-new-dtags $(SYSROOT_DIRS:%=-Wl,-rpath,%)
endif

WARN   := -Wall -Wextra -Wshadow -Wconversion -Wmissing-prototypes -Wvla -Wpointer-arith -Wstrict-prototypes
WARN_TEST := -Wall -Wextra -Wshadow -Wvla
# Another compiler may warn of more; only our tests insist on none.
WERROR_FLAG := $(if $(WERROR),-Werror)
# Against faults that the tests missed: a write past a buffer, or a jump to where no call may go, ends the
# process there, and what was left on the stack is not read. Only what the compiler takes; sanitizers bring checks of their own.
takes    = $(shell printf '\043include <string.h>\nint main(void) { return 0; }\n' | $(CC) -Werror -O2 $1 -x c -c -o /dev/null - 2>/dev/null && echo '$1')
fortify  = -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=$1
harden_c := $(call takes,$(call fortify,3) -fstack-protector-strong -fstack-clash-protection -fcf-protection=full -ftrivial-auto-var-init=zero)
ifeq ($(harden_c),)
harden_c := $(or $(call takes,$(call fortify,3)),$(call takes,$(call fortify,2))) $(call takes,-fstack-protector-strong) \
            $(call takes,-fstack-clash-protection) $(call takes,-fcf-protection=full) $(call takes,-ftrivial-auto-var-init=zero)
endif
HARDEN_LD := -Wl,-z,relro,-z,now,-z,noexecstack
LINK_EXE  := $(if $(SAN),,-pie $(HARDEN_LD))
OPT    := $(if $(SAN),-O1 -fno-omit-frame-pointer,-O2 $(harden_c) -fPIE)
# No path of this folder in the program, so that the same source gives the same bytes anywhere.
PREFIX_MAP := $(call takes,-ffile-prefix-map=$(CURDIR)=.)
CFLAGS_ALL := -std=c11 -Wno-psabi -D_GNU_SOURCE -DFATHOM_VERSION='"$(VERSION)"' -fno-strict-aliasing -g $(OPT) -I. -pthread \
              $(PREFIX_MAP) $(SYSROOT_CFLAGS) $(if $(SAN),-fsanitize=$(SAN) -fno-sanitize-recover=all -DFATHOM_SAN=1) $(CFLAGS)

# Objects depend on this file, which changes when the flags do. (Not by WERROR, which changes no object.)
FLAGS := $(CC) $(CFLAGS_ALL) / $(WARN) / $(WARN_TEST)$(if $(LINK_EXE), / $(LINK_EXE))
ifneq ($(file <$(B)/flags),$(FLAGS))
$(shell mkdir -p $(B))
$(file >$(B)/flags,$(FLAGS))
endif

# The commit, for base/version.o alone. git archive writes it into tools/commit.
COMMIT ?= $(or $(filter-out $$Format%,$(file <tools/commit)),$(shell git rev-parse --short=12 HEAD 2>/dev/null))
ifneq ($(wildcard $(B)/commit)=$(file <$(B)/commit),$(B)/commit=$(COMMIT))
$(file >$(B)/commit,$(COMMIT))
endif

LIBS   := $(SYSROOT_LIBS) -lmicrohttpd -luv -ljansson -lpcre2-8 -lutf8proc -lm -ldl -pthread

ROOMS    := base model text engine scheduler runtime api server loadgen cli
# The plug-ins are built apart: engine/cuda/cuda.mk, engine/mpi/mpi.mk.
LIB_SRC  := $(sort $(filter-out cli/main.c engine/cuda/% engine/mpi/%,$(foreach r,$(ROOMS),$(wildcard $(r)/*.c $(r)/*/*.c))))
LIB_OBJ  := $(LIB_SRC:%.c=$(B)/%.o)
UNIT_SRC := $(wildcard tests/unit/*.c tests/golden/*.c tests/property/*.c)
UNIT_OBJ := $(UNIT_SRC:%.c=$(B)/%.o)
TEST_LIB_OBJ := $(patsubst %.c,$(B)/%.o,$(wildcard tests/lib/*.c))
STRESS   := $(patsubst tests/stress/%.c,$(B)/stress-%,$(wildcard tests/stress/*.c))
FUZZERS  := $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
Q := $(if $(V),,@)

# [compiled/to compile]: the second number counts the objects that are not there yet, so only a build
# from nothing has one. Make expands a recipe when it starts it, so the counter counts starts.
OBJECTS := $(LIB_OBJ) $(B)/cli/main.o $(if $(filter unit san check-fast stress-all %/unit %/unit-forked,$(MAKECMDGOALS)),$(UNIT_OBJ) $(TEST_LIB_OBJ))
absent  := $(filter-out $(wildcard $(OBJECTS)),$(OBJECTS))
absent  := $(if $(word 100,$(absent)),$(absent))
started :=
progress = $(eval started += x)[$(words $(started))$(if $(word $(words $(started)),$(absent)),/$(words $(absent)))]

.PHONY: all help run test check check-fast san tsan tsan-http hostile hostile-san soak unit mutants fuzz fuzz-all fuzz-keep bench format compdb layers circles readability analyse tidy man deps clean cuda
.DELETE_ON_ERROR:
.SECONDARY:

all: $(B)/fathom
ifeq ($(SAN),)
	@ln -sfn release/fathom build/fathom
-include engine/cuda/cuda.mk
-include engine/mpi/mpi.mk
all: $(CUDA_PLUGIN) $(MPI_PLUGIN)
endif

help:
	@sed -n '/^# Fathom/,/^$$/s/^# \{0,1\}//p' Makefile

$(B)/fathom: $(B)/cli/main.o $(B)/libfathom.a
	@echo "  LD  $@"
	$(Q)$(CC) $(CFLAGS_ALL) $(LINK_EXE) -rdynamic -o $@ $< $(B)/libfathom.a $(LIBS)

$(B)/libfathom.a: $(LIB_OBJ)
	@echo "  AR  $@"
	$(Q)rm -f $@ && ar rcs $@ $^

$(B)/tests/%.o: tests/%.c $(B)/flags
	@mkdir -p $(@D)
	@echo "  $(progress) CC  $<"
	$(Q)$(CC) $(CFLAGS_ALL) $(WARN_TEST) $(WERROR_FLAG) -MMD -MP -c -o $@ $<

# Arithmetic is most of what the sanitized tests run.
$(B)/engine/cpu/%.o: MORE_OPT := $(if $(SAN),-O2)
$(B)/%.o: %.c $(B)/flags
	@mkdir -p $(@D)
	@echo "  $(progress) CC  $<"
	$(Q)$(CC) $(CFLAGS_ALL) $(MORE_OPT) $(WARN) $(WERROR_FLAG) -MMD -MP -c -o $@ $<

$(B)/base/version.o: $(B)/commit
$(B)/base/version.o: MORE_OPT := -DFATHOM_COMMIT='"$(COMMIT)"'

# Files that the assembler takes in (base/embed.h), which -MMD does not see.
$(B)/server/assets.o $(FB)/server/assets.o: $(wildcard server/web/*)
$(B)/api/named.o $(FB)/api/named.o: $(wildcard api/templates/*)
$(B)/api/openapi.o $(FB)/api/openapi.o: $(wildcard api/openapi/*)

# ---- tests ----

# tests/lib/oom.h: allocations of our objects, not of shared libraries, can be made to fail.
OOM_WRAP := -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=aligned_alloc

# An archive, so that a test program links only what it uses of it.
$(B)/libtest.a: $(TEST_LIB_OBJ)
	$(Q)rm -f $@ && ar rcs $@ $^

$(B)/unit: $(UNIT_OBJ) $(B)/libtest.a $(B)/libfathom.a
	@echo "  LD  $@"
	$(Q)$(CC) $(CFLAGS_ALL) $(LINK_EXE) $(OOM_WRAP) -rdynamic -o $@ $(UNIT_OBJ) $(B)/libtest.a $(B)/libfathom.a -lcriterion $(LIBS)

# The same tests without Criterion's library: tests/ports/runner.c.
$(B)/unit-forked: $(UNIT_OBJ) $(B)/tests/ports/runner.o $(B)/libtest.a $(B)/libfathom.a
	@echo "  LD  $@"
	$(Q)$(CC) $(CFLAGS_ALL) $(LINK_EXE) $(OOM_WRAP) -rdynamic -o $@ $(UNIT_OBJ) $(B)/tests/ports/runner.o $(B)/libtest.a $(B)/libfathom.a $(LIBS)

# What a change needs before it is shown: the tests in C, by the release build, with fewer random
# workloads. It names the tests that take seconds.
check-fast: $(B)/fathom $(B)/unit-forked
	@echo "  tests of $(B)/unit-forked; those of 3 s and more:"
	@FATHOM_RUNS=$${FATHOM_RUNS:-400} FATHOM_PLANS=$${FATHOM_PLANS:-150} $(B)/unit-forked -j$(shell nproc) --slow 3 $(if $(T),--filter '$(T)') \
	    2>$(B)/check-fast.log || { grep -aE '^\[' $(B)/check-fast.log; exit 1; }

unit: $(B)/unit
	LSAN_OPTIONS=leak_check_at_exit=0 $(B)/unit -j2 $(if $(T),--filter '$(T)')

san:
	@$(MAKE) --no-print-directory SAN=address,undefined unit

$(B)/stress-%: $(B)/tests/stress/%.o $(B)/libtest.a $(B)/libfathom.a
	@echo "  LD  $@"
	$(Q)$(CC) $(CFLAGS_ALL) $(LINK_EXE) -rdynamic -o $@ $^ $(LIBS)

stress-all: $(STRESS)

# Processor time per constrained token, and tokens that schemas force: bench/tools/grammar/run.sh.
$(B)/grammar: $(addprefix $(B)/bench/tools/grammar/,dear.o grammar.o schemas.o vocabulary.o)
$(B)/forced: $(B)/bench/tools/grammar/forced.o
$(B)/grammar $(B)/forced: $(B)/libfathom.a
	@echo "  LD  $@"
	$(Q)$(CC) $(CFLAGS_ALL) -o $@ $(filter %.o,$^) $(B)/libfathom.a $(LIBS)

# Renders chat templates for tests/folders/published, a line each.
$(B)/jinja-render: $(B)/tests/folders/published/jinja_render.o $(B)/libfathom.a
	@echo "  LD  $@"
	$(Q)$(CC) $(CFLAGS_ALL) $(LINK_EXE) -o $@ $^ $(LIBS)

# Planted bugs that the property tests must find: tests/mutants/run.sh.
mutants: $(B)/libfathom.a $(B)/libtest.a $(B)/tests/mutants/traffic.o $(B)/tests/property/workload.o $(B)/tests/property/test_tenants.o $(B)/tests/property/test_drafts.o $(B)/tests/unit/test_sched_drafts_life.o $(B)/tests/unit/test_sched_expected.o $(B)/tests/property/plans.o $(B)/tests/property/test_plans.o
	@CC='$(CC)' CFLAGS='-std=c11 -D_GNU_SOURCE -O1 $(SYSROOT_CFLAGS)' LIBS='$(LIBS)' BUILD='$(B)' T='$(T)' tests/mutants/run.sh

tsan:
	@$(MAKE) --no-print-directory SAN=thread stress-all
	@tools/run_tests.sh tsan

tsan-http:
	@tools/run_tests.sh tsan-http

test:
	@CUDA='$(CUDA)' T='$(T)' tools/run_tests.sh all

check: layers circles readability
	@clang-format --dry-run -Werror $(FORMATTED)
	@CUDA='$(CUDA)' tools/run_tests.sh all

layers:
	@tools/layers.sh

readability:
	@tools/readability.py --check
	@tools/links.py
	@tools/claims.py

# No files of the scheduler that call each other in a circle.
circles: $(filter $(B)/scheduler/%,$(LIB_OBJ))
	@tools/circles.py $^

tidy:
	@CFLAGS='$(SYSROOT_CFLAGS)' FILES='$(FILES)' tools/analyse.sh tidy

analyse:
	@CFLAGS='$(SYSROOT_CFLAGS)' tools/analyse.sh

# ---- attacks ----

SCALE   ?= 0.25
MINUTES ?= 30
OUT     ?= build/soak
HOSTILE := cd tests/hostile && HOSTILE_SCALE=$(SCALE) HOSTILE_CASES='$(T)'

hostile: $(B)/fathom
	$(HOSTILE) FATHOM_BIN=$(CURDIR)/$(B)/fathom npm test --silent

hostile-san:
	@$(MAKE) --no-print-directory SAN=address,undefined hostile
	@$(MAKE) --no-print-directory SAN=thread hostile

soak: $(if $(BIN),,$(B)/fathom)
	FATHOM_BIN=$(abspath $(or $(BIN),$(B)/fathom)) node tests/hostile/soak/soak.mjs --minutes $(MINUTES) --out $(abspath $(OUT))

# ---- fuzzing: clang's libFuzzer, the library compiled for it once ----

FUZZ_CFLAGS := -std=c11 -Wno-psabi -D_GNU_SOURCE -DFATHOM_VERSION='"$(VERSION)"' -DFATHOM_FUZZ=1 -fno-strict-aliasing -g -O1 -I. -pthread \
               $(SYSROOT_CFLAGS) -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all
$(FB)/%.o: %.c
	@mkdir -p $(@D)
	$(Q)clang $(FUZZ_CFLAGS) -MMD -MP -c -o $@ $<

# The CPU kernels are gcc's (target pragmas) and parse nothing; from an archive, only what a
# fuzzer reaches is linked.
FUZZ_SRC := $(filter-out engine/cpu/%,$(LIB_SRC))
$(FB)/libfathom.a: $(FUZZ_SRC:%.c=$(FB)/%.o)
	$(Q)rm -f $@ && ar rcs $@ $^

$(FB)/fuzz_%: $(FB)/tests/fuzz/fuzz_%.o $(FB)/tests/fuzz/cost.o $(FB)/libfathom.a
	@echo "  LD  $@"
	$(Q)clang $(FUZZ_CFLAGS) -fsanitize=fuzzer -o $@ $^ $(LIBS)

# The longest input of each: that of a request body or a config.json; of larger files so much as
# ASan gets through in seconds. tests/fuzz/cost.c makes long ones and judges what they take.
FUZZ_LEN := 4194304
fuzz-answer:       FUZZ_LEN := 65536
fuzz-bench_stream: FUZZ_LEN := 1048576
fuzz-config:       FUZZ_LEN := 1048576
fuzz-http:         FUZZ_LEN := 65536
fuzz-jinja:        FUZZ_LEN := 65536
fuzz-launch:       FUZZ_LEN := 65536
fuzz-request:      FUZZ_LEN := 2097152
fuzz-options_file: FUZZ_LEN := 1048576
fuzz-pattern:      FUZZ_LEN := 20480
fuzz-schema:       FUZZ_LEN := 1048576

fuzz-%: $(FB)/fuzz_%
	@mkdir -p $(FB)/corpus-$*
	cd $(FB) && ./fuzz_$* -max_total_time=$(FUZZ_SECONDS) -max_len=$(FUZZ_LEN) -len_control=0 -timeout=120 \
	    -rss_limit_mb=4096 -print_final_stats=1 $(if $(wildcard tests/fuzz/$*.dict),-dict=$(CURDIR)/tests/fuzz/$*.dict) \
	    corpus-$* $(wildcard $(CURDIR)/tests/fuzz/corpus/$*)

fuzz:
	@echo "fuzzers: $(FUZZERS:%=fuzz-%)"

# All of them, one after another, a line each; the whole output is in build/fuzz/NAME.log.
fuzz-all: $(FUZZERS:%=$(FB)/fuzz_%)
	@failed=0; for f in $(FUZZERS); do \
	    $(MAKE) --no-print-directory fuzz-$$f >$(FB)/$$f.log 2>&1 && word=ok || { word=FAILED; failed=1; }; \
	    printf '%-13s %-6s %s\n' $$f $$word "$$(grep -a '^cost:' $(FB)/$$f.log | tail -1)"; \
	done; exit $$failed

# Adds to tests/fuzz/corpus, of all that the fuzzers found, the fewest short inputs that cover it.
fuzz-keep: $(FUZZERS:%=$(FB)/fuzz_%)
	@cd $(FB) && for f in $(FUZZERS); do \
	    ./fuzz_$$f -set_cover_merge=1 -max_len=1500 $(CURDIR)/tests/fuzz/corpus/$$f corpus-$$f >$$f-keep.log 2>&1 || exit 1; \
	done

# ---- the rest ----

FORMATTED = $(shell find $(ROOMS) tests bench -name '*.[ch]' -not -path '*/node_modules/*')

run: deps
	@$(MAKE) --no-print-directory all
	@PORT='$(PORT)' MODEL='$(MODEL)' exec tools/demo.sh

bench: all
	build/fathom bench kernels --model models/demo
	build/fathom bench engine --model models/demo
	bench/tools/http/run.sh build/bench-http.md

deps:
	@tools/deps.sh build

format:
	clang-format -i $(FORMATTED)

# For clangd and clang-tidy: how every file is compiled.
compdb_line = {"directory": "$(CURDIR)", "file": "$1", "command": "$(subst ",\",$(CC) $(CFLAGS_ALL) $2) -c $1"}
compdb:
	$(file >compile_commands.json,[)
	$(foreach s,$(LIB_SRC),$(file >>compile_commands.json,$(call compdb_line,$s,$(WARN))$(comma)))
	$(foreach s,$(UNIT_SRC) $(wildcard tests/lib/*.c tests/stress/*.c),$(file >>compile_commands.json,$(call compdb_line,$s,$(WARN_TEST))$(comma)))
	$(file >>compile_commands.json,$(call compdb_line,cli/main.c,$(WARN))])
	@echo "  compile_commands.json"

include packaging/packaging.mk

# Manual pages, and the page of all options, from the tables of the program.
MAN_DATE ?= $(shell git log -1 --format=%cs 2>/dev/null)
man: all
	@mkdir -p build/man && rm -f build/man/*.1
	$(Q)$(B)/fathom manual --date '$(MAN_DATE)' >build/man/fathom.1
	$(Q)$(B)/fathom manual --list | while read -r command; do \
	    $(B)/fathom manual --date '$(MAN_DATE)' "$$command" >"build/man/fathom-$$(echo "$$command" | tr ' ' -).1" || exit 1; \
	done
	@echo "  build/man"

docs/options.md: $(B)/fathom
	$(Q)$(B)/fathom manual --format markdown >$@

clean:
	rm -rf build

-include $(shell find $(B) $(FB) -name '*.d' 2>/dev/null)
