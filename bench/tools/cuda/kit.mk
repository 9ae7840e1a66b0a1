# The kit for a bare GPU machine: every program, library and file that bench/tools/cuda/first_gpu.py
# needs there, prebuilt. Included by engine/cuda/cuda.mk; needs nvcc, python3 and binutils.
#
#   make gpu-kit                      build/gpu-kit/ and build/fathom-gpu-kit.tar.gz
#   KIT_ARCHS=90a                     targets, as CUDA_ARCHS
#   OPENMYTHOS=PATH                   also takes the published main.py of that checkout, to be timed

KIT       := build/gpu-kit
KIT_B     := build/gpu-kit-objects
KIT_ARCHS ?= 90a

.PHONY: gpu-kit
ifeq ($(CUDA_PLUGIN),)
gpu-kit:
	@echo "gpu-kit: nvcc is not in PATH nor in /usr/local/cuda/bin, or CUDA=0 leaves it out" >&2; exit 1
else

# The static library where there is one: what is linked in cannot be missing on the other machine.
kit_static = $(or $(firstword $(wildcard $(SYSROOT)/lib/$(TRIPLE)/lib$1.a) \
                 $(filter /%,$(shell $(CC) -print-file-name=lib$1.a))),-l$1)
KIT_LIBS   = $(if $(SYSROOT),-L$(CURDIR)/$(SYSROOT)/lib/$(TRIPLE)) $(call kit_static,jansson) $(call kit_static,pcre2-8) $(call kit_static,utf8proc) \
             -lmicrohttpd -luv -lm -ldl -pthread
# DT_RPATH, unlike DT_RUNPATH, also holds for what the libraries themselves need.
KIT_LINK  := -Wl,--as-needed -Wl,--disable-new-dtags -Wl,-rpath,\$$ORIGIN/lib
KIT_MADE  := $(addprefix $(KIT_B)/,fathom-cuda.so fathom-cuda-selftest fathom-cuda-bench fathom-cuda-step)

# The rules of the ordinary build, with other flags and into a folder of their own.
gpu-kit: $(KIT_B)/fathom
	@$(MAKE) --no-print-directory CUDA=1 CUDA_ARCHS='$(KIT_ARCHS)' CUDA_B=$(KIT_B) CUDA_OUT=$(KIT_B) CUDA_LINEINFO= \
	    CUDA_PLUGIN=$(KIT_B)/fathom-cuda.so CUDA_RPATH='$(subst $$,$$$$,$(KIT_LINK))' LIBS='$(KIT_LIBS)' $(KIT_MADE)
	@bench/tools/cuda/make_kit.py --objects $(KIT_B) --kit $(KIT) --archive build/fathom-gpu-kit.tar.gz \
	    --targets '$(KIT_ARCHS)' $(if $(OPENMYTHOS),--openmythos '$(OPENMYTHOS)')

$(KIT_B)/fathom: $(B)/cli/main.o $(B)/libfathom.a
	@mkdir -p $(@D)
	@echo "  LD  $@"
	$(Q)$(CC) $(CFLAGS_ALL) $(LINK_EXE) $(KIT_LINK) -rdynamic -o $@ $^ $(KIT_LIBS)
endif
