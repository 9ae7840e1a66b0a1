# Rules of the CUDA plug-in; included by the Makefile for builds without sanitizers. Without
# nvcc (CUDA=auto) or with CUDA=0 it defines nothing and the CPU build goes on alone.
#
#   CUDA_ARCHS="80 90a 100"  targets; the last also leaves PTX for later devices

NVCC ?= $(firstword $(shell command -v nvcc 2>/dev/null) $(wildcard /usr/local/cuda/bin/nvcc))
CUDA_ARCHS ?= 80 90a 100

ifneq ($(CUDA),0)
ifneq ($(or $(filter 1,$(CUDA)),$(NVCC)),)
ifeq ($(NVCC),)
$(error CUDA=1, but nvcc is not in PATH nor in /usr/local/cuda/bin)
endif

CUDA_HOME  ?= $(abspath $(dir $(realpath $(NVCC)))..)
CUDA_LIB   := $(firstword $(wildcard $(CUDA_HOME)/lib64 $(CUDA_HOME)/targets/x86_64-linux/lib))
CUDA_B     := build/cuda
CUDA_OUT   := build
CUDA_PLUGIN := build/fathom-cuda.so
CUDA_GENCODE := $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$(a),code=sm_$(a)) \
                -gencode arch=compute_$(lastword $(CUDA_ARCHS)),code=compute_$(lastword $(CUDA_ARCHS))
CUDA_LINEINFO := -lineinfo
NVCC_FLAGS := -std=c++17 -O3 $(CUDA_LINEINFO) -I. -Xcompiler -fPIC,-Wall,-Wextra,-fstack-protector-strong -Xptxas -v $(CUDA_GENCODE)

CUDA_C_SRC  := $(wildcard engine/cuda/*.c)
CUDA_CU_SRC := $(wildcard engine/cuda/*.cu)
CUDA_C_OBJ  := $(CUDA_C_SRC:%.c=$(CUDA_B)/%.o)
CUDA_CU_OBJ := $(CUDA_CU_SRC:%.cu=$(CUDA_B)/%.cu.o)
CUDA_RPATH  := -Wl,-rpath,$(CUDA_LIB)
CUDA_LINK   := $(CUDA_RPATH) -L$(CUDA_LIB) -lcublas -lcudart_static -lstdc++ -lrt -ldl -lm -pthread

# What a device is told that has no kernels here; changes when CUDA_ARCHS does, and then all
# kernels are compiled again.
CUDA_TARGETS := $(CUDA_B)/.targets
$(CUDA_TARGETS): cuda-targets
	@mkdir -p $(@D)
	@echo '$(CUDA_ARCHS)' | cmp -s - $@ || echo '$(CUDA_ARCHS)' >$@
.PHONY: cuda-targets
cuda-targets: ;
$(CUDA_CU_OBJ) $(CUDA_B)/engine/cuda/backend.o: $(CUDA_TARGETS)
$(CUDA_B)/engine/cuda/backend.o: CUDA_DEF := -DCU_TARGETS='"$(CUDA_ARCHS)"'

$(CUDA_B)/%.o: %.c
	@mkdir -p $(@D)
	@echo "  CC  $<"
	$(Q)$(CC) $(CFLAGS_ALL) $(WARN) $(CUDA_DEF) -fPIC -isystem $(CUDA_HOME)/include -MMD -MP -c -o $@ $<

# One nvcc at a time, whatever -j says: each takes a core and about a gigabyte.
# ptxas -v goes to a file beside the object, read by tools/cuda_registers.sh; the machine code of
# each target to build/cuda/cubin, read by tools/cuda_sass.py.
$(CUDA_B)/%.cu.o: %.cu
	@mkdir -p $(@D)
	@echo "  NVCC $<"
	@rm -rf $@.keep && mkdir -p $@.keep $(CUDA_B)/cubin
	$(Q)flock $(CUDA_B)/.nvcc $(NVCC) $(NVCC_FLAGS) --keep --keep-dir $@.keep -MD -MP -MF $(@:.o=.d) -c -o $@ $< >$(@:.o=.ptxas) 2>&1 \
	    || { cat $(@:.o=.ptxas); exit 1; }
	@for f in $@.keep/*.cubin; do mv $$f $(CUDA_B)/cubin/$$(basename $$f | sed 's/\.compute_.*\.sm_/.sm_/; s/\.compute_/.sm_/'); done
	@rm -rf $@.keep

# The program's own functions (err_set, model_find, ...) are found in it when it loads this.
$(CUDA_PLUGIN): $(CUDA_C_OBJ) $(CUDA_CU_OBJ)
	@echo "  LD  $@"
	$(Q)$(CC) -shared $(HARDEN_LD) -o $@ $^ $(CUDA_LINK)

CUDA_PROGRAMS := $(addprefix $(CUDA_OUT)/fathom-cuda-,selftest bench step)
cuda: $(CUDA_PLUGIN) $(CUDA_PROGRAMS)

# Holds the machine code of the kernels, for one target, against the rules of tools/cuda_sass.py.
SASS_ARCH ?= 90a
cuda-sass: $(CUDA_CU_OBJ)
	@tools/cuda_sass.py $(CUDA_CU_SRC:engine/cuda/%.cu=$(CUDA_B)/cubin/%.sm_$(SASS_ARCH).cubin)
.PHONY: cuda-sass

# Needs a device to do more than say so; the same sources run on the CPU in tests/cuda/run.sh.
CUDA_TEST_SRC := $(wildcard tests/cuda/selftest/*.c) tests/lib/draft_run.c tests/lib/golden.c tests/lib/files.c tests/lib/weights.c
CUDA_TEST_OBJ := $(CUDA_TEST_SRC:%.c=$(CUDA_B)/%.o)

$(CUDA_B)/tests/%.o: tests/%.c
	@mkdir -p $(@D)
	@echo "  CC  $<"
	$(Q)$(CC) $(CFLAGS_ALL) $(WARN_TEST) -isystem $(CUDA_HOME)/include -MMD -MP -c -o $@ $<

$(CUDA_OUT)/fathom-cuda-selftest: $(CUDA_TEST_OBJ) $(CUDA_C_OBJ) $(CUDA_CU_OBJ) $(B)/libfathom.a
	@echo "  LD  $@"
	$(Q)$(CC) $(CFLAGS_ALL) -o $@ $^ $(CUDA_LINK) $(LIBS)

CUDA_RIG_OBJ := $(addprefix $(CUDA_B)/bench/tools/cuda/,rig.o bytes.o probes.o probe.cu.o)
$(CUDA_OUT)/fathom-cuda-bench: $(addprefix $(CUDA_B)/bench/tools/cuda/,kernels.o sites.o copies.o prefill.o) $(CUDA_RIG_OBJ) $(CUDA_C_OBJ) $(CUDA_CU_OBJ) $(B)/libfathom.a
	@echo "  LD  $@"
	$(Q)$(CC) $(CFLAGS_ALL) -o $@ $^ $(CUDA_LINK) $(LIBS)

$(CUDA_OUT)/fathom-cuda-step: $(CUDA_B)/bench/tools/cuda/step.o $(CUDA_RIG_OBJ) $(CUDA_C_OBJ) $(CUDA_CU_OBJ) $(B)/libfathom.a
	@echo "  LD  $@"
	$(Q)$(CC) $(CFLAGS_ALL) -o $@ $^ $(CUDA_LINK) $(LIBS)

-include $(wildcard $(CUDA_B)/bench/tools/cuda/*.d $(CUDA_B)/engine/cuda/*.d $(CUDA_B)/tests/*/*.d $(CUDA_B)/tests/*/*/*.d)
endif
endif

include bench/tools/cuda/kit.mk
