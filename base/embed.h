/* embed.h - source files embedded in the binary by the assembler.
 *
 * Paths are relative to make's working folder. The Makefile lists the files as dependencies of the
 * object, because the compiler does not see them. */
#ifndef FATHOM_BASE_EMBED_H
#define FATHOM_BASE_EMBED_H

/* Declares the bytes of a file, from `symbol` to `symbol`_end, followed by a 0. The symbols are
 * global and hidden: arm64 would reach local ones through the GOT, whose entries forget the offset.
 */
#define EMBED(symbol, file)                                                                        \
    __asm__(".section .rodata\n"                                                                   \
            ".globl " #symbol ", " #symbol "_end\n"                                                \
            ".hidden " #symbol ", " #symbol "_end\n"                                               \
            ".balign 16\n" #symbol ":\n"                                                           \
            ".incbin \"" file "\"\n" #symbol "_end:\n"                                             \
            ".byte 0\n"                                                                            \
            ".previous\n");                                                                        \
    __attribute__((visibility("hidden"))) extern const unsigned char symbol[], symbol##_end[]

#endif
