/* gnuplot.h - pictures drawn by gnuplot: one way to start it, and one style.
 *
 * A command checks before its long work, appends commands to a script, and draws the script at the
 * end. gnuplot is started without a shell. Any thread. */
#ifndef FATHOM_GNUPLOT_H
#define FATHOM_GNUPLOT_H

#include "base/buf.h"
#include "base/err.h"

/* Colours of Okabe and Ito, which people with any colour vision can tell apart. */
#define GNUPLOT_GREY "#7f7f7f"
#define GNUPLOT_INK "#333333"
#define GNUPLOT_ORANGE "#e69f00"
#define GNUPLOT_RED "#d55e00"
#define GNUPLOT_BLUE "#0072b2"
#define GNUPLOT_SKY "#56b4e9"
#define GNUPLOT_GREEN "#009e73"
#define GNUPLOT_PURPLE "#cc79a7"

typedef struct {
    uint32_t width, height; /* pixels */
} gnuplot_size;

/* Fails if `file` cannot be drawn: it must end in .svg or .png and lie in a folder that can be
 * written, and gnuplot must be installed. ERR_USAGE; `option` begins the message ("--plot"). */
int gnuplot_check(const char *option, const char *file, err *e) WARN_UNUSED;
/* Appends the commands that choose the format, the file and the style. */
void gnuplot_begin(buf *script, const char *file, gnuplot_size size);
/* Appends text as a string expression, whatever bytes it holds; gnuplot prints it as it is, with
 * its line breaks. */
void gnuplot_string(buf *script, const char *text);
/* Appends a command with one string: "set title" and its text. */
void gnuplot_set(buf *script, const char *what, const char *text);
/* Begins panels under a title: of the same size, or with 0 rows where the margins say. They end
 * with "unset multiplot". */
void gnuplot_panels(buf *script, uint32_t rows, uint32_t columns, const char *title);
/* A colour of a scale from dark (0) to light (last): values that have an order. */
const char *gnuplot_shade(uint32_t i, uint32_t last);
/* Ends the panels and draws the script into `file`, the file that it began with. ERR_IO;
 * ERR_NO_MEMORY. */
int gnuplot_draw(const char *option, const char *file, buf *script, err *e) WARN_UNUSED;

#endif
