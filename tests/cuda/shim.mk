# Builds the CUDA backend for the CPU: kernels as C++ through tests/cuda/shim, host code as it
# is, both under ASan and UBSan. Run from the repository root: make -f tests/cuda/shim.mk
CC  := gcc
CXX := g++
B   := build/cuda-shim
LIB := build/san-address-undefined/libfathom.a
SAN := -fsanitize=address,undefined -fno-sanitize-recover=all
SYSROOT := $(wildcard build/sysroot/usr)
ifneq ($(SYSROOT),)
SYS_CFLAGS := -I$(CURDIR)/build/sysroot/usr/include -I$(CURDIR)/build/sysroot/usr/include/x86_64-linux-gnu
SYS_LIBS   := -L$(CURDIR)/build/sysroot/usr/lib/x86_64-linux-gnu -Wl,-rpath,$(CURDIR)/build/sysroot/usr/lib/x86_64-linux-gnu
endif
# The stand-in for NCCL is in the program itself.
COMMON = -D_GNU_SOURCE -DFATHOM_CUDA_SHIM=1 -DCU_NCCL_LIBRARY=NULL -DCU_TARGETS='"the shim"' -DFATHOM_VERSION='"shim"' -g -O2 -fno-omit-frame-pointer \
          -fno-strict-aliasing -Itests/cuda/shim -I. $(SYS_CFLAGS) $(SAN) -pthread
CFLAGS = -std=c11 -Wall -Wextra -Wshadow -Wvla -Werror $(COMMON)
CXXFLAGS = -std=c++17 -Wall -Wextra -Wno-unknown-pragmas -Werror $(COMMON)

C_SRC   := $(wildcard engine/cuda/*.c tests/cuda/selftest/*.c) tests/lib/draft_run.c tests/lib/golden.c tests/lib/files.c tests/lib/weights.c
CU_SRC  := $(wildcard engine/cuda/*.cu)
CXX_SRC := $(wildcard tests/cuda/shim/*.cpp)
OBJ := $(C_SRC:%.c=$(B)/%.o) $(CU_SRC:%.cu=$(B)/%.cu.o) $(CXX_SRC:%.cpp=$(B)/%.o)

.DEFAULT_GOAL := all
# The rest of Fathom comes from the main Makefile, which knows when it is stale.
.PHONY: library
library:
	@$(MAKE) --no-print-directory SAN=address,undefined $(LIB) >/dev/null
$(LIB): library ;

all: $(B)/selftest $(B)/kernel-bench $(B)/step-bench

# The benchmarks' programs, to see that they run; their figures here mean nothing.
RIG_OBJ := $(addprefix $(B)/bench/tools/cuda/,rig.o bytes.o probes.o probe.cu.o)
BENCH_OBJ := $(addprefix $(B)/bench/tools/cuda/,kernels.o sites.o copies.o prefill.o) $(RIG_OBJ)
$(B)/kernel-bench: $(BENCH_OBJ) $(filter-out $(B)/tests/cuda/selftest/% $(B)/tests/lib/%,$(OBJ)) $(LIB)
	@echo "  LD  $@"
	@$(CXX) $(COMMON) -o $@ $^ $(SYS_LIBS) -ljansson -lpcre2-8 -lutf8proc -lm -ldl

$(B)/step-bench: $(B)/bench/tools/cuda/step.o $(RIG_OBJ) $(filter-out $(B)/tests/cuda/selftest/% $(B)/tests/lib/%,$(OBJ)) $(LIB)
	@echo "  LD  $@"
	@$(CXX) $(COMMON) -o $@ $^ $(SYS_LIBS) -ljansson -lpcre2-8 -lutf8proc -lm -ldl

$(B)/selftest: $(OBJ) $(LIB)
	@echo "  LD  $@"
	@$(CXX) $(COMMON) -rdynamic -o $@ $(OBJ) $(LIB) $(SYS_LIBS) -ljansson -lpcre2-8 -lutf8proc -lm -ldl

$(B)/%.o: %.c
	@mkdir -p $(@D)
	@echo "  CC  $<"
	@$(CC) $(CFLAGS) -MMD -MP -c -o $@ $<

$(B)/%.cu.o: %.cu
	@mkdir -p $(@D)
	@echo "  CXX $<"
	@$(CXX) $(CXXFLAGS) -MMD -MP -x c++ -c -o $@ $<

$(B)/%.o: %.cpp
	@mkdir -p $(@D)
	@echo "  CXX $<"
	@$(CXX) $(CXXFLAGS) -MMD -MP -c -o $@ $<

# The changes of stacks, millions a second, stay out of the sanitizers' sight.
$(B)/tests/cuda/shim/fibers.o: SAN :=

-include $(OBJ:.o=.d) $(BENCH_OBJ:.o=.d) $(B)/bench/tools/cuda/step.d
