"""What tools/links.py and tools/claims.py find; that indexes are whole; the size of the README."""

import os
import subprocess
import sys
import tempfile
import unittest

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(REPOSITORY, "tools"))
import claims  # noqa: E402
import links  # noqa: E402


class InAFolder(unittest.TestCase):
    """Tests in a folder of their own, which is no git repository."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(folder.name)

    def write(self, name, text):
        os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
        with open(name, "w", encoding="utf-8") as file:
            file.write(text)

    def faults(self):
        checker = links.Checker(links.repository_files())
        for name in sorted(checker.files):
            checker.check(name)
        checker.check_pictures()
        return checker.faults


class Links(InAFolder):
    def test_a_link_to_a_file_and_to_a_heading_that_are_there_is_right(self):
        self.write("README.md", "# Top\n[a](docs/a.md) [b](docs/a.md#the-second-heading) [c](#top) [d](docs) ![e](docs/e.png)\n[f][g]\n\n[g]: docs/a.md\n")
        self.write("docs/a.md", "# A\n## The `second` heading!\n[up](../README.md)\n[web](https://example.org/x.md)\n")
        self.write("docs/e.png", "")
        self.assertEqual(self.faults(), [])

    def test_a_link_to_a_missing_file_is_named_with_its_line(self):
        self.write("README.md", "one\n[a](docs/a.md)\n")
        self.assertEqual(self.faults(), ["README.md:2: the link to docs/a.md leads nowhere"])

    def test_a_missing_heading_is_named(self):
        self.write("README.md", "# Top\n[a](#bottom)\n```sh\n# bottom\n```\n")
        self.assertEqual(self.faults(), ["README.md:2: README.md has no heading #bottom"])

    def test_headings_of_the_same_words_are_numbered(self):
        self.write("README.md", "# A\n# A\n[a](#a) [b](#a-1) [c](#a-2)\n")
        self.assertEqual(self.faults(), ["README.md:3: README.md has no heading #a-2"])

    def test_a_missing_definition_of_a_link_is_named(self):
        self.write("README.md", "[a][b]\n\n[b]: gone.md\n")
        self.assertIn("README.md:3: the link to gone.md leads nowhere", self.faults())

    def test_code_in_a_page_has_no_links(self):
        self.write("README.md", "`[a](b)`\n```\n[c](d)\n```\n")
        self.assertEqual(self.faults(), [])

    def test_a_path_in_a_comment_has_to_exist(self):
        self.write("tools/a.sh", "# see tools/b.sh and tools/a.sh, tools/*.sh, tools/NAME.sh\n")
        self.assertEqual(self.faults(), ["tools/a.sh:1: tools/b.sh is not there"])

    def test_a_page_named_in_a_comment_has_to_exist(self):
        self.write("a.c", "/* spec.md, rule 1; docs.md; FILE.md */\n")
        self.write("docs/docs.md", "")
        self.assertEqual(self.faults(), ["a.c:1: no page spec.md beside this file, in docs/ or in the top folder"])

    def test_a_picture_of_docs_that_no_page_shows_is_named(self):
        self.write("docs/a.png", "")
        self.write("docs/b.png", "")
        self.write("README.md", "![a](docs/a.png)\n")
        self.assertEqual(self.faults(), ["docs/b.png: no page shows this picture"])

    def test_the_example_of_help_works(self):
        shown = subprocess.run([os.path.join(REPOSITORY, "tools", "links.py"), "--help"], capture_output=True, text=True, check=True).stdout
        done = subprocess.run(shown.split("Example:")[1].split(), cwd=REPOSITORY, capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("links: ok (2 files)", done.stdout)


HEAD = "| claim | figure | machine | commit | command | source |\n|---|---|---|---|---|---|\n"


class Claims(InAFolder):
    def setUp(self):
        super().setUp()
        self.write("bench/reports/a.md", "# A\n")
        self.write("bench/tools/a.sh", "")
        for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "a"]):
            subprocess.run(["git", *command], check=True)
        self.commit = subprocess.run(["git", "rev-parse", "--short=7", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()

    def page(self, *rows):
        self.write("bench/README.md", HEAD + "\n".join(rows) + "\n")
        return claims.check()

    def test_a_claim_with_a_commit_and_a_source_is_right(self):
        self.assertEqual(self.page(f"| fast | 2x | here | {self.commit} | `bench/tools/a.sh x` | [a](reports/a.md) |"), (1, []))

    def test_a_commit_that_is_not_in_the_history_is_named(self):
        count, faults = self.page("| fast | 2x | here | 0123abc | `fathom bench` | [a](reports/a.md) |")
        self.assertEqual((count, faults), (1, ["bench/README.md:3: the commit 0123abc is not in the history"]))

    def test_a_source_that_is_not_there_is_named(self):
        self.assertEqual(self.page(f"| fast | 2x | here | {self.commit} | `fathom bench` | [b](reports/b.md) |")[1],
                         ["bench/README.md:3: the source reports/b.md is not there"])

    def test_a_claim_without_figure_commit_command_or_source_is_named(self):
        self.assertEqual(self.page("| fast |  | here |  |  | somewhere |")[1],
                         ["bench/README.md:3: no figure", "bench/README.md:3: no commit", "bench/README.md:3: no command",
                          "bench/README.md:3: no link to a source"])

    def test_a_command_that_is_not_there_is_named(self):
        self.assertEqual(self.page(f"| fast | 2x | here | {self.commit} | `bench/tools/b.sh` | [a](reports/a.md) |")[1],
                         ["bench/README.md:3: the program bench/tools/b.sh is not there"])

    def test_without_git_commits_are_not_checked(self):
        os.rename(".git", "gone")
        self.assertEqual(self.page("| fast | 2x | here | 0123abc | `fathom bench` | [a](reports/a.md) |"), (1, []))

    def test_a_page_without_claims_is_a_fault(self):
        self.write("bench/README.md", "# Nothing\n")
        self.assertEqual(claims.check(), (0, ["bench/README.md: no table of claims"]))

    def test_a_commit_named_in_a_report_has_to_be_in_the_history(self):
        self.write("bench/reports/a.md", f"commit {self.commit}, and 0123abc\n")
        self.assertEqual(self.page(f"| fast | 2x | here | {self.commit} | `fathom bench` | [a](reports/a.md) |")[1],
                         ["bench/reports/a.md:1: the commit 0123abc is not in the history"])


def read(path):
    with open(os.path.join(REPOSITORY, path), encoding="utf-8") as file:
        return file.read()


def names(folder, ending):
    return sorted(name for name in os.listdir(os.path.join(REPOSITORY, folder)) if name.endswith(ending))


class Indexes(unittest.TestCase):
    def test_every_page_of_docs_is_in_its_index(self):
        index = read("docs/README.md")
        self.assertEqual([name for name in names("docs", ".md") if name != "README.md" and f"({name})" not in index], [])

    def test_every_report_is_in_the_index_of_bench(self):
        index = read("bench/README.md")
        self.assertEqual([name for name in names("bench/reports", ".md") if f"(reports/{name})" not in index], [])

    def test_every_folder_of_tests_is_described(self):
        page = read("docs/tests.md")
        folders = [name for name in names("tests", "") if os.path.isdir(os.path.join(REPOSITORY, "tests", name)) and name != "node_modules"]
        self.assertEqual([name for name in folders if f"| `tests/{name}/` |" not in page], [])


class Readme(unittest.TestCase):
    def test_the_readme_has_at_most_90_lines_of_100_columns(self):
        lines = read("README.md").splitlines()
        self.assertLessEqual(len(lines), 90)
        self.assertEqual([f"{number}: {line}" for number, line in enumerate(lines, 1) if len(line) > 100], [])


if __name__ == "__main__":
    unittest.main()
