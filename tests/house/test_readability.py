"""What tools/readability.py counts, and when its check fails."""

import contextlib
import io
import os
import subprocess
import sys
import tempfile
import unittest

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SCRIPT = os.path.join(REPOSITORY, "tools", "readability.py")
sys.path.insert(0, os.path.dirname(SCRIPT))
import readability  # noqa: E402


class Readability(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = os.path.normpath(folder.name)

    def write(self, name, text):
        path = os.path.join(self.folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(text)
        return path

    def check(self, limits=(20.0, 2.0, 0.3, 0.3), not_yet=None):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            status = readability.check([self.folder], limits, not_yet or {})
        return status, out.getvalue()

    def test_one_letter_identifiers_are_counted_in_code_only(self):
        path = self.write("a.c", 'int f(int count) { return count + 1; } /* x y z */ // a b\nconst char *text = "c d e"; char quote = \'q\';\n')
        self.assertAlmostEqual(readability.measure([path])[0], 100 * 1 / 5)  # f of f, count, count, text, quote

    def test_words_are_counted_in_comments_of_more_than_five_words(self):
        path = self.write("a.c", "/* Nobody reads what stands\n * here, and most of it is long. */\n/* who is that */\nint who;\n")
        _, relative, persons, of_it = readability.measure([path])
        self.assertAlmostEqual(relative, 100 * 2 / 11)
        self.assertAlmostEqual(persons, 1000 * 1 / 11)
        self.assertAlmostEqual(of_it, 1000 * 1 / 11)

    def test_licences_are_left_out(self):
        path = self.write("a.c", "/* Copyright by somebody, who gives no warranty of it. */\n")
        self.assertEqual(readability.measure([path]), (0, 0, 0, 0))

    def test_a_folder_above_a_limit_fails_by_name(self):
        self.write("a.c", "int f(int a, int b) { return a + b; }\n")
        status, out = self.check()
        self.assertEqual(status, 1)
        self.assertIn(f"{self.folder}: 1-letter is 100.0, at most 20.0", out)

    def test_a_folder_of_the_table_may_stay_as_it_is_and_not_get_worse(self):
        self.write("a.c", "int f(int count) { return count; }\n")
        self.assertEqual(self.check(not_yet={self.folder: (33.3, 0.0, 0.0, 0.0)})[0], 0)
        status, out = self.check(not_yet={self.folder: (33.2, 0.0, 0.0, 0.0)})
        self.assertEqual(status, 1)
        self.assertIn("1-letter is 33.3, at most 33.2", out)

    def test_a_row_of_the_table_that_is_not_needed_is_named(self):
        self.write("a.c", "int count;\n")
        status, out = self.check(not_yet={self.folder: (50.0, 0.0, 0.0, 0.0), "gone": (1.0, 1.0, 1.0, 1.0)})
        self.assertEqual(status, 0)
        self.assertIn(f"{self.folder}: reaches the limits", out)
        self.assertIn("gone: not found", out)

    def test_built_and_installed_files_are_left_out(self):
        self.write("build/a.c", "int f;\n")
        self.write("node_modules/a.c", "int f;\n")
        self.write("sub/a.cu", "int count;\n")
        self.assertEqual([folder for folder, _ in readability.folders([self.folder])], [os.path.join(self.folder, "sub")])

    def test_where_names_file_line_and_word(self):
        path = self.write("a.c", "int n;\n/* Here is one word too many: whoever. */\n")
        out = subprocess.run([SCRIPT, "--where", self.folder], capture_output=True, text=True, check=True).stdout
        self.assertIn(f"{path}:2: whoever: Here is", out)
        self.assertIn(f"{path}: n 1", out)

    def test_the_example_of_help_works(self):
        shown = subprocess.run([SCRIPT, "--help"], capture_output=True, text=True, check=True).stdout
        example = shown.split("Example:")[1].split()
        self.assertEqual(example[0], "tools/readability.py")
        done = subprocess.run(example, cwd=REPOSITORY, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("engine/cpu", done.stdout)

    def test_a_folder_that_is_not_there_is_an_error(self):
        done = subprocess.run([SCRIPT, "nowhere"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 2)
        self.assertIn("nowhere: not a folder", done.stderr)


if __name__ == "__main__":
    unittest.main()
