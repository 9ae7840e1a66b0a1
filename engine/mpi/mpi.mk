# Rules of the MPI plug-in, by which a model runs over several processes; included by the Makefile
# for builds without sanitizers. Without mpi.h (MPI=auto) or with MPI=0 it defines nothing.
#
#   MPICC  the compiler driver of the MPI to build for (default: mpicc, where there is one)

MPI   ?= auto
MPICC ?= $(shell command -v mpicc 2>/dev/null)

ifneq ($(MPI),0)
ifneq ($(or $(filter 1,$(MPI)),$(MPICC)),)
ifeq ($(MPICC),)
$(error MPI=1, but there is no mpicc; Debian has it in libopenmpi-dev)
endif

MPI_PLUGIN := build/fathom-mpi.so
MPI_B      := build/mpi
# Open MPI's driver answers the first question, MPICH's the second.
MPI_CFLAGS := $(shell $(MPICC) --showme:compile 2>/dev/null || $(MPICC) -compile_info 2>/dev/null | cut -d' ' -f2-)
MPI_LDLIBS := $(shell $(MPICC) --showme:link 2>/dev/null || $(MPICC) -link_info 2>/dev/null | cut -d' ' -f2-)
MPI_OBJ    := $(patsubst %.c,$(MPI_B)/%.o,$(wildcard engine/mpi/*.c))

$(MPI_B)/%.o: %.c
	@mkdir -p $(@D)
	@echo "  CC  $<"
	$(Q)$(CC) $(CFLAGS_ALL) $(WARN) $(WERROR_FLAG) -fPIC $(MPI_CFLAGS:-I%=-isystem %) -MMD -MP -c -o $@ $<

# The program's own functions (err_set, log_line, ...) are found in it when it loads this.
$(MPI_PLUGIN): $(MPI_OBJ)
	@echo "  LD  $@"
	$(Q)$(CC) -shared $(HARDEN_LD) -o $@ $^ $(MPI_LDLIBS) -pthread

-include $(MPI_OBJ:.o=.d)
endif
endif
