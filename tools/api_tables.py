#!/usr/bin/env python3
"""Keeps docs/api.md in step with the server.

  tools/api_tables.py           rewrites the tables between the marks <!-- table: NAME --> and <!-- end -->
  tools/api_tables.py --check   fails if a table differs, an example does not work, or a refused field is taken

The tables come from GET /openapi.json. The names of refused fields and of fields without effect are not part of that document, so they come
from api/fields.def, api/dialects and api/warnings.c. --check sends each example that begins with curl, and each refused field, to a server of
its own. FATHOM_BIN names the program (default build/release/fathom)."""
import glob
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PAGE = os.path.join(ROOT, "docs", "api.md")
PROGRAM = os.environ.get("FATHOM_BIN", os.path.join(ROOT, "build", "release", "fathom"))
TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.S)
EXAMPLE = re.compile(r"```sh\n(curl .*?)```", re.S)
EXAMPLES_AT = "http://127.0.0.1:8080"
MOST = 2**31 - 1  # a maximum from here on limits nothing that a client would send
PATIENCE_S = 120  # gives up what never comes; a busy machine may be slow
UNUSED = "Accepted but not used"


class Server:
    """The demo model on a free port."""

    def __enter__(self):
        command = [PROGRAM, "serve", "--model", os.path.join(ROOT, "models", "demo"), "--port", "0", "--device", "cpu"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            ready = re.search(r"ready on (http://\S+)", line)
            if ready:
                self.url = ready[1]
                return self
        sys.exit("api_tables: the server did not start")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.communicate()

    def ask(self, path, body=None):
        """Status and parsed answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as e:
            return e.code, json.load(e)


# ---- the dialects of a document ----

def fields_of(document, path):
    schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[1]
    return document["components"]["schemas"][schema]["properties"]


def dialects(document):
    """Short name of each dialect, and its path and fields: of all requests, these can be streamed."""
    found = {}
    for path, methods in document["paths"].items():
        if "post" not in methods:
            continue
        fields = fields_of(document, path)
        if "stream" in fields and all(fields is not one["fields"] for one in found.values()):
            found[path.removeprefix("/v1/").removesuffix("/completions")] = {"path": path, "fields": fields}
    return found


def rows_of(all_dialects):
    """(field, schema, names of dialects), one for each meaning of a field."""
    rows = []
    for dialect, about in all_dialects.items():
        for name, schema in about["fields"].items():
            same = next((row for row in rows if row[0] == name and row[1] == schema), None)
            if same:
                same[2].append(dialect)
            else:
                rows.append((name, schema, [dialect]))
    return rows


# ---- text ----

def number_of(x):
    return f"{x:f}".rstrip("0").rstrip(".")


def range_of(schema):
    least, most = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum")
    if least is None or least <= -MOST:
        return ""
    bounded = most is not None and most < MOST
    return f", {number_of(least)} to {number_of(most)}" if bounded else f", at least {number_of(least)}"


def value_of(schema):
    """The type and range of a value, in words."""
    if "anyOf" in schema:
        kinds = list(dict.fromkeys(value_of(one) for one in schema["anyOf"] if one != {"type": "null"}))
        return ", ".join(kinds[:-1]) + " or " + kinds[-1] if len(kinds) > 1 else kinds[0]
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"] if one is not None)
    kinds = schema.get("type", "any value")
    kind = kinds if isinstance(kinds, str) else next(one for one in kinds if one != "null")
    if kind != "array":
        return {"boolean": "`true`, `false`"}.get(kind, kind) + range_of(schema)
    items = schema.get("items", {})
    plural = {"integer": "integers", "string": "strings", "object": "objects", "array": "lists"}.get("object" if "$ref" in items else items.get("type"))
    return f"list of {plural}" if plural else f"list of {value_of(items)}" if "enum" in items else "list"


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def field_rows(rows):
    return [[f"`{name}`", value_of(schema), schema.get("description", "")] for name, schema, *_ in rows]


def used(row):
    return not row[1].get("description", "").startswith(UNUSED)


# ---- tables ----

def routes_table(document):
    ordered = sorted(document["paths"].items(), key=lambda item: "get" in item[1])
    return table(["method", "path", "purpose"],
                 [[method.upper(), f"`{path}`", of["summary"].split(". ")[0].rstrip(".")] for path, methods in ordered for method, of in methods.items()])


def shared_table(document):
    all_dialects = dialects(document)
    def where(names):
        left = [name for name in all_dialects if name not in names]
        return "all" if not left else f"all but {left[0]}" if len(left) == 1 else ", ".join(names)
    rows = [row for row in rows_of(all_dialects) if len(row[2]) > 1 and used(row)]
    return table(["field", "value", "in", "meaning"], [[*line[:2], where(row[2]), line[2]] for line, row in zip(field_rows(rows), rows)])


def own_table(document, dialect):
    rows = [row for row in rows_of(dialects(document)) if row[2] == [dialect] and used(row)]
    return table(["field", "value", "meaning"], field_rows(rows))


def small_table(document):
    rows = [[f"`{path}`", *line] for path in ("/tokenize", "/detokenize") for line in field_rows(fields_of(document, path).items())]
    return table(["path", "field", "value", "meaning"], rows)


def source(*names):
    with open(os.path.join(ROOT, *names), encoding="utf-8") as file:
        return file.read()


def refused_fields(document):
    """(field, its dialects): rows of the tables in api/ that only refuse."""
    groups = {"API__EVERY": set(dialects(document)), "API__CHOICES": {"completions", "chat"}}
    shared = [(name, groups[group]) for name, group in re.findall(r"^REFUSED\((\w+), (\w+)\)", source("api", "fields.def"), re.M)]
    own = []
    for path in sorted(glob.glob(os.path.join(ROOT, "api", "dialects", "*.c"))):
        dialect = os.path.basename(path)[:-2].replace("completion", "completions")
        own += [(name, {dialect}) for name in re.findall(r"API__OWN_REFUSED\((\w+)\)", source(path))]
    return sorted(shared + own)


def refused_table(document):
    names = list(dialects(document))
    return table(["refused", "in"], [[f"`{name}`", "all" if len(of) == len(names) else ", ".join(sorted(of))] for name, of in refused_fields(document)])


def unused_table(document):
    idle = re.search(r"const idle\[\] = \{(.*?)\}", source("api", "warnings.c"), re.S)[1]
    rows = rows_of(dialects(document))
    left_out = set(re.findall(r'"(\w+)"', idle)) | {row[0] for row in rows if not used(row)}
    def where(name):
        working = [dialect for row in rows if row[0] == name and used(row) for dialect in row[2]]
        known = [dialect for row in rows if row[0] == name for dialect in row[2]]
        names = [dialect for dialect in dialects(document) if dialect not in working and (name in idle or dialect in known)]
        return "all" if len(names) == len(dialects(document)) else ", ".join(names)
    return table(["no effect", "in"], [[f"`{name}`", where(name)] for name in sorted(left_out)])


TABLES = {"routes": routes_table, "shared": shared_table, "small": small_table, "refused": refused_table, "unused": unused_table}


def filled(text, document):
    def one(match):
        name = match[2]
        made = TABLES[name](document) if name in TABLES else own_table(document, name)
        return f"{match[1]}\n{made}\n{match[3]}"
    return TABLE.sub(one, text)


# ---- checks ----

def check_examples(server, text):
    examples = EXAMPLE.findall(text)
    for example in examples:
        command = example.replace(EXAMPLES_AT, server.url).replace("curl ", f"curl -sS --fail-with-body --max-time {PATIENCE_S} ")
        ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
        if ran.returncode != 0 or not ran.stdout:
            yield f"an example fails: {example}{ran.stdout}{ran.stderr}"
    if not examples:
        yield "the page has no examples"


def check_refused(server, document):
    bodies = {"completions": {"prompt": "a"}, "chat": {"messages": [{"role": "user", "content": "a"}]}, "responses": {"input": "a"}}
    bodies["messages"] = bodies["chat"]
    all_dialects = dialects(document)
    for name, of in refused_fields(document):
        for dialect in of:
            status, answer = server.ask(all_dialects[dialect]["path"], {**bodies[dialect], "max_tokens": 1, name: "x"})
            if status != 400 or name not in answer["error"]["message"]:
                yield f"{dialect} does not refuse {name}: {status}"


def main():
    with open(PAGE, encoding="utf-8") as file:
        text = file.read()
    with Server() as server:
        document = server.ask("/openapi.json")[1]
        made = filled(text, document)
        if "--check" not in sys.argv:
            with open(PAGE, "w", encoding="utf-8") as file:
                file.write(made)
            return
        faults = [*check_examples(server, text), *check_refused(server, document)]
    if made != text:
        faults.append("docs/api.md: a table differs from the server; run tools/api_tables.py")
    for fault in faults:
        print(fault)
    sys.exit(bool(faults))


main()
