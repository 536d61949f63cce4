"""The code stays in pieces that fit a screen, and one round in a few files."""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "fedvlr_jax"
MOST_LINES = {ast.FunctionDef: 60, ast.ClassDef: 200}
# A list of flags, one statement each.
LONGER = {("prepare.py", "define_flags")}


def code_lines(node, source):
    """Lines of a definition without its docstring, comments and empty lines."""
    lines = source[node.lineno - 1 : node.end_lineno]
    docstring = 0
    if ast.get_docstring(node):
        docstring = node.body[0].end_lineno - node.body[0].lineno + 1
    return sum(1 for x in lines if x.strip() and not x.strip().startswith("#")) - docstring


def test_no_definition_is_too_long():
    for path in sorted(PACKAGE.rglob("*.py")):
        source = path.read_text().splitlines()
        for node in ast.walk(ast.parse("\n".join(source))):
            if type(node) in MOST_LINES and (path.name, node.name) not in LONGER:
                assert code_lines(node, source) <= MOST_LINES[type(node)], f"{path}: {node.name}"


def test_one_round_takes_six_files_and_900_lines():
    page = (ROOT / "ARCHITECTURE.md").read_text()
    (section,) = re.findall(r"## One round in six files\n(.*?)\n## ", page, re.S)
    files = re.findall(r"^\| `(.*?\.py)` \|", section, re.M)
    assert 0 < len(files) <= 6
    assert sum(len((PACKAGE / file).read_text().splitlines()) for file in files) <= 900
