# Installing, and making packages: included by the Makefile.
#
#   make install install-strip uninstall   by the usual variables: prefix, bindir, libdir, datadir, mandir, sysconfdir, DESTDIR
#   make dist                              build/dist/fathom-VERSION.tar.gz of the last commit, and SHA256SUMS
#   make deb                               build/deb/*.deb, by debhelper
#   make chart                             build/fathom-VERSION.tgz, the Helm chart
#   make manifests                         deploy/kubernetes/*.yaml, rendered from the chart

prefix      ?= $(PREFIX)
exec_prefix ?= $(prefix)
bindir      ?= $(exec_prefix)/bin
# The program looks for its plug-ins in ../lib/fathom beside its folder.
libdir      ?= $(exec_prefix)/lib
datarootdir ?= $(prefix)/share
datadir     ?= $(datarootdir)
mandir      ?= $(datarootdir)/man
docdir      ?= $(datarootdir)/doc/fathom
# What belongs to the system reads /etc, wherever the program is.
sysconfdir  ?= $(if $(filter /usr /usr/local,$(prefix)),/etc,$(prefix)/etc)
unitdir     ?= $(prefix)/lib/systemd/system
bashcompdir ?= $(datarootdir)/bash-completion/completions
zshcompdir  ?= $(datarootdir)/zsh/site-functions
fishcompdir ?= $(datarootdir)/fish/vendor_completions.d

INSTALL         ?= install
INSTALL_PROGRAM ?= $(INSTALL) -m 755
INSTALL_DATA    ?= $(INSTALL) -m 644

MODELS   := demo hops hops-extrapolates
MODEL_FILES := $(foreach m,$(MODELS),$(filter-out %.bin,$(wildcard models/$m/*.*)))
DOC_FILES   := README.md CHANGELOG.md SECURITY.md LICENSE $(wildcard docs/*.md docs/*.png)
PLUGINS     := $(wildcard build/fathom-cuda.so build/fathom-mpi.so)

.PHONY: install install-strip uninstall dist deb chart manifests

# What the program writes of itself: completion for three shells, and manual pages (make man).
SHELLS := bash zsh fish
$(B)/completion: $(B)/fathom
	@mkdir -p $@
	$(Q)for shell in $(SHELLS); do $(B)/fathom completion $$shell >$@/$$shell || exit 1; done
	@touch $@

install: all man $(B)/completion
	$(INSTALL) -d $(DESTDIR)$(bindir) $(DESTDIR)$(docdir)/docs $(DESTDIR)$(unitdir) $(DESTDIR)$(sysconfdir)/default
	$(INSTALL_PROGRAM) $(B)/fathom $(DESTDIR)$(bindir)/fathom
	$(if $(PLUGINS),$(INSTALL) -d $(DESTDIR)$(libdir)/fathom && $(INSTALL_PROGRAM) $(PLUGINS) $(DESTDIR)$(libdir)/fathom/)
	set -e; for f in $(MODEL_FILES); do $(INSTALL) -d $(DESTDIR)$(datadir)/fathom/$${f%/*}; $(INSTALL_DATA) $$f $(DESTDIR)$(datadir)/fathom/$$f; done
	set -e; for f in $(DOC_FILES); do $(INSTALL_DATA) $$f $(DESTDIR)$(docdir)/$$f; done
	sed 's|@bindir@|$(bindir)|; s|@docdir@|$(docdir)|; s|@sysconfdir@|$(sysconfdir)|' deploy/systemd/fathom.service.in >$(B)/fathom.service
	$(INSTALL_DATA) $(B)/fathom.service $(DESTDIR)$(unitdir)/fathom.service
	[ -e $(DESTDIR)$(sysconfdir)/default/fathom ] || $(INSTALL_DATA) deploy/systemd/fathom.default $(DESTDIR)$(sysconfdir)/default/fathom
	$(INSTALL) -d $(DESTDIR)$(mandir)/man1 $(DESTDIR)$(bashcompdir) $(DESTDIR)$(zshcompdir) $(DESTDIR)$(fishcompdir)
	$(INSTALL_DATA) build/man/*.1 $(DESTDIR)$(mandir)/man1/
	$(INSTALL_DATA) $(B)/completion/bash $(DESTDIR)$(bashcompdir)/fathom
	$(INSTALL_DATA) $(B)/completion/zsh $(DESTDIR)$(zshcompdir)/_fathom
	$(INSTALL_DATA) $(B)/completion/fish $(DESTDIR)$(fishcompdir)/fathom.fish

# Without symbols the program has a fifth of its size.
install-strip:
	$(MAKE) --no-print-directory install INSTALL_PROGRAM='$(INSTALL_PROGRAM) -s'

# Removes the files that install made, then the folders that are empty. An options file that was
# changed stays.
uninstall:
	rm -f $(DESTDIR)$(bindir)/fathom $(DESTDIR)$(libdir)/fathom/fathom-cuda.so $(DESTDIR)$(libdir)/fathom/fathom-mpi.so $(DESTDIR)$(unitdir)/fathom.service
	rm -f $(DESTDIR)$(bashcompdir)/fathom $(DESTDIR)$(zshcompdir)/_fathom $(DESTDIR)$(fishcompdir)/fathom.fish
	rm -f $(DESTDIR)$(mandir)/man1/fathom.1 $(DESTDIR)$(mandir)/man1/fathom-*.1
	rm -f $(MODEL_FILES:%=$(DESTDIR)$(datadir)/fathom/%) $(DOC_FILES:%=$(DESTDIR)$(docdir)/%)
	cmp -s deploy/systemd/fathom.default $(DESTDIR)$(sysconfdir)/default/fathom && rm -f $(DESTDIR)$(sysconfdir)/default/fathom || :
	for d in $(MODELS:%=$(datadir)/fathom/models/%) $(datadir)/fathom/models $(datadir)/fathom $(docdir)/docs $(docdir) $(libdir)/fathom; do \
	    rmdir $(DESTDIR)$$d 2>/dev/null || :; done

# ---- the source package ----

# The same commit gives the same bytes: names in order, one time and owner, no time of gzip's own.
DIST := build/dist/fathom-$(VERSION)
dist:
	@mkdir -p build/dist
	git archive --format=tar --prefix=fathom-$(VERSION)/ HEAD | gzip -9n >$(DIST).tar.gz
	cd build/dist && sha256sum fathom-$(VERSION).tar.gz >SHA256SUMS
	@echo "  $(DIST).tar.gz"

# ---- Debian's packages ----

# debhelper wants debian/ in the folder where it builds, so a copy of the tree is built.
deb:
	@packaging/deb.sh '$(VERSION)'

# ---- Kubernetes ----

# The layout of `helm package`, in order and without times of its own.
CHART_DIR ?= build
chart:
	@mkdir -p $(CHART_DIR)
	tar -C deploy/helm --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX -cf - fathom | gzip -9n >$(CHART_DIR)/fathom-$(VERSION).tgz
	@echo "  $(CHART_DIR)/fathom-$(VERSION).tgz"

manifests:
	@tools/manifests.sh
