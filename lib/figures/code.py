"""The code of lib on a page: the lines that are the method, with the whole definition folded below them."""

import ast
import inspect
from collections.abc import Callable
from textwrap import dedent, indent

from IPython.display import Markdown, display

BEGIN, END = "# method", "# end of method"  # comments in lib around the lines that a page shows


def show_source(*objects: Callable[..., object]) -> None:
    """Show the code of functions or classes of ``lib`` as it is in their files, so it cannot differ from what runs.

    If lines are marked as the method, by a comment ``# method`` before and ``# end of method`` after them, they are
    shown below the head of their definition, and the whole definition is folded. Docstrings are cut to their first
    paragraph, as the page says the rest.

    objects: one or more functions or classes.
    """
    texts = [_short(dedent(inspect.getsource(shown)).rstrip()) for shown in objects]
    wholes, methods = zip(*map(_method, texts), strict=True)
    parts = [_fenced("\n\n".join(method for method in methods if method))]
    folded = [whole for whole, method in zip(wholes, methods, strict=True) if whole != method]
    if folded:
        summary = f"{len(folded)} whole definitions" if len(folded) > 1 else "The whole definition"
        parts = [
            *parts,
            f'<details class="fold code">\n<summary>{summary}</summary>',
            _fenced("\n\n".join(folded)),
            "</details>",
        ]
    display(Markdown("\n\n".join(part for part in parts if part)))


def _fenced(code: str) -> str:
    return f"```python\n{code}\n```" if code else ""


def _method(code: str) -> tuple[str, str]:
    """The code without its marks, and its marked lines, or all lines if nothing is marked."""
    marked: list[list[str]] = []
    lines, inside = [], False
    for text in code.splitlines():
        if text.strip() in (BEGIN, END):
            if inside := text.strip() == BEGIN:
                marked.append([])
            continue
        lines.append(text)
        if inside:
            marked[-1].append(text)
    whole = "\n".join(lines)
    if not any(text.strip() == END for text in code.splitlines()):
        return whole, whole
    body = "\n\n".join(dedent("\n".join(part).rstrip()) for part in marked)
    return whole, f"{_head(code)}\n{indent(body, ' ' * 4)}"


def _head(code: str) -> str:
    """The first line of a definition in short: a function's name and arguments, or a class with its bases."""
    (node,) = ast.parse(code).body
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(map(ast.unparse, node.bases))
        return f"class {node.name}({bases}):" if bases else f"class {node.name}:"
    assert isinstance(node, ast.FunctionDef)
    every = node.args
    names = [argument.arg for argument in (*every.posonlyargs, *every.args)]
    names += [f"*{every.vararg.arg}"] if every.vararg else []
    names += [argument.arg for argument in every.kwonlyargs]
    names += [f"**{every.kwarg.arg}"] if every.kwarg else []
    return f"def {node.name}({', '.join(names)}):"


def _short(code: str) -> str:
    """Python code with each docstring cut to its first paragraph."""
    lines, cuts = code.splitlines(), []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            first, last = node.body[0].lineno - 1, (node.body[0].end_lineno or 0) - 1
            blank = next((i for i in range(first, last) if not lines[i].strip()), None)
            if blank is not None and lines[last].strip() == '"""':
                cuts.append((blank, last))
    for blank, last in sorted(cuts, reverse=True):
        lines[blank - 1] += '"""'
        del lines[blank : last + 1]
    return "\n".join(lines)
