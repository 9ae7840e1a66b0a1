/* embed.h - files of the tree inside the binary, put there by the assembler.
 *
 * Paths are relative to the folder make runs in; the Makefile rebuilds the object when one of the
 * files changes, which the compiler does not see. */
#ifndef FATHOM_BASE_EMBED_H
#define FATHOM_BASE_EMBED_H

/* Declares the bytes of a file: from `symbol` to `symbol`_end, where a 0 stands. */
#define EMBED(symbol, file)                                                                        \
    __asm__(".section .rodata\n"                                                                   \
            ".balign 16\n" #symbol ":\n"                                                           \
            ".incbin \"" file "\"\n" #symbol "_end:\n"                                             \
            ".byte 0\n"                                                                            \
            ".previous\n");                                                                        \
    extern const unsigned char symbol[], symbol##_end[]

#endif
