"""Pages of the documentation site that have their source outside docs/."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import fedvlr_jax

ROOT = Path(__file__).parents[1]
# Page of the site: its source in the repository.
PAGES = {
    "index.md": "README.md",
    "architecture.md": "ARCHITECTURE.md",
    "build.md": "BUILD.md",
    "contributing.md": "CONTRIBUTING.md",
}
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("own_*.py"))
# In the order in which a new user reads them.
TUTORIALS = (
    *("first_run", "own_data", "own_backbone", "own_rule"),
    *("reading_a_report", "scaling_out"),
)
REFERENCE = dict(fedvlr_jax._HOMES)
GUIDES = ("data", "runs", "experiments", "search", "privacy", "fleet", "robustness", "scaling")
EXPLANATIONS = ("results", "paper-tables", "evidence", "method", "notes")


def on_config(config: Any) -> None:
    """The navigation; every page of docs/ that it does not name comes under More."""
    known = {*GUIDES, *EXPLANATIONS}
    more = sorted(path.stem for path in (ROOT / "docs").glob("*.md") if path.stem not in known)
    page = lambda *names: [f"{name}.md" for name in names]
    config.nav = [
        {"Start": "index.md"},
        {"Tutorials": [f"tutorials/{name}.md" for name in TUTORIALS]},
        {"Guides": [*page(*GUIDES), "build.md"]},
        {"Examples": [f"examples/{name}.md" for name in EXAMPLES]},
        {"Reference": ["options.md", *(f"reference/{name}.md" for name in REFERENCE)]},
        {"Explanations": ["architecture.md", "contributing.md", *page(*EXPLANATIONS)]},
        *([{"More": page(*more)}] if more else []),
    ]


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that are made from other files."""
    from mkdocs.structure.files import File

    content = {page: _linked((ROOT / source).read_text()) for page, source in PAGES.items()}
    content |= {f"examples/{name}.md": _example(name) for name in EXAMPLES}
    content |= {f"tutorials/{name}.md": _tutorial(name) for name in TUTORIALS}
    content |= {f"reference/{name}.md": _reference(name) for name in REFERENCE}
    content["options.md"] = _options()
    for page, text in content.items():
        files.append(File.generated(config, page, content=text))
    return files


def _linked(text: str) -> str:
    """`text` with the repository's paths as those of the site."""
    pages = {source: page for page, source in PAGES.items()} | {"examples": "examples/own_rule.md"}
    text = re.sub(r"\]\(docs/", "](", text).replace(".ipynb)", ".md)")
    for source, page in pages.items():
        text = text.replace(f"]({source})", f"]({page})").replace(f"]({source}#", f"]({page}#")
    return text


def _example(name: str) -> str:
    source = (ROOT / "examples" / f"{name}.py").read_text()
    title = (ast.get_docstring(ast.parse(source)) or name).split("\n")[0].rstrip(".")
    return f"# {title}\n\n```python\n{source}```\n"


def _tutorial(name: str) -> str:
    """The page of a notebook, with the outputs that it was committed with."""
    notebook = json.loads((ROOT / "docs/tutorials" / f"{name}.ipynb").read_text(encoding="utf-8"))
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source.replace(".ipynb)", ".md)"))
            continue
        parts.append(f"```python\n{source}\n```")
        parts += [_output(output, cell["metadata"].get("alt", "")) for output in cell["outputs"]]
    return "\n\n".join(parts) + "\n"


def _output(output: dict[str, Any], alt: str) -> str:
    """One output of a cell as Markdown: a picture within the page, or text."""
    data = output.get("data", {})
    if "image/png" in data:
        return f"![{alt}](data:image/png;base64,{''.join(data['image/png'].split())})"
    text = "".join(output["text"] if "text" in output else data["text/plain"])
    return f"```text\n{text.rstrip()}\n```"


def _reference(name: str) -> str:
    return f"---\ntitle: {name}\n---\n\n::: {REFERENCE[name]}.{name}\n"


def _options() -> str:
    """Every option of `Config`, which is also a flag of the commands."""
    from fedvlr_jax.config import Config

    lines = ["# Options", "", "Fields of `Config`; the commands have them as flags.", ""]
    for group in dataclasses.fields(Config):
        lines += [f"## {group.name}", "", "| option | default | meaning |", "|---|---|---|"]
        for field in dataclasses.fields(getattr(Config(), group.name)):
            choices = ", ".join(f"`{choice}`" for choice in field.metadata["choices"] or ())
            meaning = field.metadata["help"] + (f" One of: {choices}." if choices else "")
            default = f"`{field.default}`" if field.default != "" else ""
            lines.append(f"| `{field.name}` | {default} | {meaning.replace('|', chr(92) + '|')} |")
        lines.append("")
    return "\n".join(lines)
