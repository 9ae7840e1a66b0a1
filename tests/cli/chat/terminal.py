#!/usr/bin/env python3
"""`fathom chat` by a person at a terminal: tints, editing, lines of earlier sessions, Ctrl+C and Ctrl+D.

usage: terminal.py PROGRAM ENDLESS_MODEL THINKING_TEMPLATE
ENDLESS_MODEL writes tokens for minutes. With THINKING_TEMPLATE an answer begins with reasoning. Lines are edited only where libedit is installed.
"""
import ctypes.util
import fcntl
import os
import pty
import re
import select
import stat
import struct
import sys
import tempfile
import termios
import time

PATIENCE = 240  # seconds until a text that never comes is given up; judges no speed
PROGRAM, ENDLESS, THINKING = sys.argv[1:4]
HAS_EDITOR = bool(ctypes.util.find_library("edit")) or os.path.exists("/usr/lib/x86_64-linux-gnu/libedit.so.2")
UP, LEFT, CTRL_A, CTRL_C, CTRL_D = b"\x1b[A", b"\x1b[D", b"\x01", b"\x03", b"\x04"


class Terminal:
    """A program behind a pseudo-terminal. Without a seed it takes the likeliest tokens, since a drawn answer may end at its first one."""

    def __init__(self, *args, **variables):
        if not {"--temperature", "--seed"} & set(args):
            args = (*args, "--temperature", "0")
        env = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
        env.update({"TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **variables})
        self.args = args
        self.text = b""
        self.edits = HAS_EDITOR and env["TERM"] != "dumb"
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvpe(PROGRAM, [PROGRAM, "chat", *args], env)

    def read(self, seconds):
        if not select.select([self.fd], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # the program has closed the terminal
            return False
        self.text += data
        return bool(data)

    def until(self, pattern):
        """Waits for the pattern; returns the text up to its end, which is taken away."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            found = re.search(pattern, self.text)
            if found:
                text, self.text = self.text[: found.end()], self.text[found.end() :]
                return text.decode(errors="replace")
            if not self.read(0.2):
                break
        sys.exit(f"FAIL {self.args}: never came: {pattern!r}; there is {self.text!r}")

    def prompt(self):
        """Waits until a line can be typed; returns the text before. The editor turns the terminal's own
        lines off around the time when it writes the prompt, and a Ctrl+D from before is lost."""
        text = self.until(PROMPT)
        while self.edits and termios.tcgetattr(self.fd)[3] & termios.ICANON:
            time.sleep(0.01)
        return text

    def send(self, data):
        os.write(self.fd, data)

    def ends(self):
        while self.read(PATIENCE):
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def check(right, what):
    if not right:
        sys.exit(f"FAIL {what}")
    print(f"ok   {what}")


folders = tempfile.TemporaryDirectory()  # goes when the program ends
state = folders.name
history = os.path.join(state, "fathom", "chat_history")
FIGURES = rb"seed \d+[^\n]*\n"
PROMPT = rb">>> "

# The question's last word is mended with the cursor keys before it is sent.
term = Terminal("models/demo", "--device", "cpu", "--max-tokens", "24", XDG_STATE_HOME=state)
text = term.prompt()
check("\x1b[38;5;39m1\x1b[0m" in text and "\x1b[38;5;196m8\x1b[0m" in text, "a legend says which colour is how many loops")
term.send(b"Who made the sea" + (LEFT * 3 + b"\x0b" + b"world?" if HAS_EDITOR else b"") + b"\r")
text = term.until(FIGURES)
check(len(re.findall(r"\x1b\[38;5;\d+m", text)) > 3, "the tokens of an answer are tinted")
check(re.search(r"\x1b\[2m\d+ tokens?, (stop|length), mean depth [\d.]+ of 8, \d+ % of loops saved, \d+ tokens/s, (\d+ of \d+ drafts right, )?seed \d+\x1b\[0m", text), "a dim line tells what the answer cost")
first = re.findall(r"seed (\d+)", text)[-1]
term.prompt()
term.send(b"/again\r")
check(re.findall(r"seed (\d+)", term.until(FIGURES))[-1] != first, "/again shows another seed")
term.prompt()
term.send((b"/his\t" if HAS_EDITOR else b"/history") + b"\r")
text = term.until(rb"assistant: [^\n]*\n")
check("user: Who made the " + ("world?" if HAS_EDITOR else "sea") in text, "a line is edited before it is sent")
term.prompt()
term.send(b"a question that is not meant" + CTRL_C)
term.until(rb"Ctrl\+C again[^\n]*\n")
term.prompt()
term.send(b"/show\r")
text = term.until(rb"messages  *2\r?\n")
check("not meant" not in text.split("/show")[-1], "Ctrl+C drops the line that was begun, and the program goes on")
term.prompt()
term.send(CTRL_C)
term.until(rb"Ctrl\+C again[^\n]*\n")
term.prompt()
term.send(CTRL_C)
check(term.ends() == 0, "Ctrl+C twice ends")

if HAS_EDITOR:
    check(stat.S_IMODE(os.stat(history).st_mode) == 0o600, "the lines are kept for this user alone")
    kept = [line.rstrip() for line in open(history)]  # the Tab key adds a blank
    check(kept == ["Who made the world?", "/again", "/history", "/show"], f"the lines are kept: {kept}")

# Another session finds them, and Ctrl+D ends.
term = Terminal("models/demo", "--device", "cpu", "--max-tokens", "24", XDG_STATE_HOME=state, NO_COLOR="1")
text = term.prompt()
if HAS_EDITOR:
    term.send(UP * 4 + b"\r")
    text = term.until(FIGURES)
    check("Who made the world?" in text, "lines of an earlier session come back")
    check("\x1b[38;5" not in text and "\x1b[2m" not in text, "NO_COLOR takes the colours away")
    term.prompt()
term.send(b'"""\r')
term.until(rb"\.\.\. ")
term.send(b"one\r")
term.until(rb"\.\.\. ")
term.send(b'two\r')
term.until(rb"\.\.\. ")
term.send(b'"""\r')
term.until(FIGURES)
term.prompt()
term.send(b"/history\r")
check(re.search(r"user: one\r?\ntwo\r?\n", term.until(rb"two\r?\nassistant: ")), "lines between marks are one entry")
term.prompt()
term.send(CTRL_D)
check(term.ends() == 0, "Ctrl+D ends")

# Reasoning is dimmed.
term = Terminal("models/demo", "--device", "cpu", "--max-tokens", "12", "--chat-template", THINKING, XDG_STATE_HOME=state)
term.prompt()
term.send(b"Hello\r")
text = term.until(FIGURES)
check(len(re.findall(r"\x1b\[2m\x1b\[38;5;\d+m", text)) > 3, "reasoning is dimmed")
term.prompt()
term.send(CTRL_D)
check(term.ends() == 0, "and the conversation ends")

# Nothing is kept with --no-history.
elsewhere = os.path.join(state, "elsewhere")
os.mkdir(elsewhere)
term = Terminal("models/demo", "--device", "cpu", "--no-history", XDG_STATE_HOME=elsewhere)
term.prompt()
term.send(b"/show\r")
term.until(rb"messages ")
term.prompt()
term.send(CTRL_D)
check(term.ends() == 0 and not os.listdir(elsewhere), "--no-history keeps no line")

# A terminal that cannot move its cursor has plain lines.
term = Terminal("models/demo", "--device", "cpu", "--max-tokens", "12", TERM="dumb", XDG_STATE_HOME=state)
term.prompt()
term.send(b"dropped" + CTRL_C)
term.until(rb"Ctrl\+C again[^\n]*\n")
term.prompt()
term.send(b"Hello\n")
text = term.until(FIGURES)
check("\x1b" not in text, "a plain terminal gets no escape codes")
term.prompt()
term.send(b"/history\n")
check(re.search("user: Hello\r?\n", term.until(rb"assistant: ")), "and Ctrl+C drops a line there too")
term.prompt()
term.send(CTRL_D)
check(term.ends() == 0, "and Ctrl+D ends")

# Drafted text stands behind the answer and leaves nothing: the screen at the end is that of an answer without it.
FAINT = rb"\x1b7\x1b\[\?7l\x1b\[2m([^\x1b]*)\x1b\[0m\x1b\[\?7h\x1b8"


def screen(data, columns):
    """The rows that a terminal of so many columns shows after the bytes, of its whole past. A character is a column."""
    rows, row, col, saved, wraps, behind = [{}], 0, 0, None, True, False
    for part in re.findall(r"\x1b[78]|\x1b\[[?\d;]*[A-Za-z]|.", data.decode(errors="replace"), re.S):
        if part in ("\x1b7", "\x1b8"):
            saved = (row, col, behind) if part[1] == "7" else saved
            row, col, behind = saved
        elif part in ("\x1b[?7l", "\x1b[?7h"):
            wraps = part[-1] == "h"
        elif part == "\x1b[J":
            check_quiet(not behind, "the screen is cleared behind a full row")
            rows = rows[: row + 1]
            rows[row] = {at: char for at, char in rows[row].items() if at < col}
        elif part == "\n":
            row, behind = row + 1, False
        elif part == "\r":
            col, behind = 0, False
        elif part >= " " and part[0] != "\x1b":
            if behind and wraps:
                row, col = row + 1, 0
            if len(rows) <= row:
                rows += [{} for _ in range(row - len(rows) + 1)]
            rows[row][col] = part
            behind = col == columns - 1
            col = min(col + 1, columns - 1)
        if len(rows) <= row:
            rows += [{} for _ in range(row - len(rows) + 1)]
    return ["".join(shown.get(at, " ") for at in range(columns)).rstrip() for shown in rows]


def check_quiet(right, what):
    if not right:
        sys.exit(f"FAIL {what}")


def answer(columns, *args, model="models/demo", question=b"Hello", **variables):
    term = Terminal(model, "--device", "cpu", "--max-tokens", "96", "--seed", "5", "--speculate", "4", "--draft-loops", "1", *args,
                    XDG_STATE_HOME=state, **variables)
    fcntl.ioctl(term.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    term.prompt()
    term.send(question + b"\r")
    text = term.until(rb"\d+ tokens?, (stop|length)").encode()
    figures = term.until(FIGURES)
    term.prompt()
    term.send(CTRL_D)
    check_quiet(term.ends() == 0, "a conversation with drafts ends")
    return text[: text.rindex(b"\n")], figures


def drafts(columns, *args, **more):
    for _ in range(20):  # a busy machine may settle all drafts of an answer before they can be shown
        drafted, figures = answer(columns, *args, **more)
        if re.search(FAINT, drafted):
            break
    plain, _ = answer(columns, *args, "--no-drafts", **more)
    # Behind the echo of the question, which has no colour.
    drafted, plain = (text[text.index(b"\x1b[38;5;") :] for text in (drafted, plain))
    shown = [text.decode(errors="replace") for text in re.findall(FAINT, drafted)]
    check_quiet(shown and "drafts right" in figures, f"nothing was drafted at {columns} columns: {drafted!r}")
    check_quiet(not re.search(FAINT, plain), "--no-drafts shows drafts")
    check_quiet(all(len(text) < columns for text in shown), f"a draft as wide as the terminal: {shown}")
    bare = [re.sub(rb"\x1b\[[\d;]*m", b"", re.sub(FAINT + rb"\x1b\[J", b"", text)) for text in (drafted, plain)]
    check_quiet(bare[0] == bare[1], f"drafts that are not taken away: {bare}")
    check_quiet(screen(drafted, columns) == screen(plain, columns), f"{columns} columns: {screen(drafted, columns)} instead of {screen(plain, columns)}")


for columns in (80, 23, 12, 5):
    drafts(columns)
drafts(16, "--temperature", "2")  # bytes of all kinds
drafts(31, "--no-tokenizer", question=b"1142 258")
check(True, "drafted text stands behind an answer, firms up or vanishes, and leaves no trace on terminals of any width")
text, figures = answer(80, NO_COLOR="1")
check(not re.search(FAINT, text) and "drafts right" in figures, "without colours no drafts are shown")

# An answer without end is stopped, and the conversation goes on.
term = Terminal(ENDLESS, "--device", "cpu", "--max-tokens", "300000", XDG_STATE_HOME=state)
term.prompt()
term.send(b"1 2 3\r")
term.until(rb"\x1b\[38;5;\d+m \d+")
term.send(CTRL_C)
check(re.search(r"\d+ tokens?, stopped, mean depth", term.until(FIGURES)), "Ctrl+C stops the answer, not the program")
term.prompt()
term.send(b"/max-tokens 2\r")
term.prompt()
term.send(b"4\r")
check("2 tokens, length" in term.until(FIGURES), "the next question is answered")
term.prompt()
term.send(b"/exit\r")
check(term.ends() == 0, "/exit ends")
