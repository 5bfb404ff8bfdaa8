"""HTML that all pages share: the document with its style, tables, and marks in text. It needs no figures."""

import re
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

# Colours of text, lines and paper, and what each becomes on a dark page.
INK, MUTED, RULE, PAPER, ACCENT = "#1b1f24", "#666e78", "#dde1e6", "#fffffe", "#c8510a"
DARK = {INK: "#e8eaed", MUTED: "#a2abb5", RULE: "#363c44", PAPER: "#15181c", ACCENT: "#ff9a55"}
# Numbers of laws.json as the page writes them.
NAMES = {
    "alpha": "α", "beta": "β", "model_exponent": "exponent of N*, β/(α+β)",
    "loss_floor_exponent": "exponent of L* − E, −αβ/(α+β)",
}  # fmt: skip


def document(title: str, body: str, dark: Mapping[str, str] = DARK) -> str:
    """A page that needs no other file. dark {colour: what it becomes on a dark page}."""
    style = Path(__file__).with_name("style.css").read_text()
    light, night = ("".join(f"--c{c[1:]}:{v};" for c, v in colours) for colours in (zip(dark, dark), dark.items()))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}</title>\n'
        f"<style>:root{{{light}}}\n"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{night}}}}}\n"
        f"{style}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )


def code(text: str) -> str:
    """Escaped text in which `words` between backticks are code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{p}</code>" if i % 2 else p for i, p in enumerate(parts))


def superscripts(text: str) -> str:
    """Escaped text in which C^0.5 and N^-alpha are powers."""

    def power(match: re.Match[str]) -> str:
        return f"<sup>{'−' * bool(match[1])}{NAMES.get(match[2], match[2])}</sup>"

    return re.sub(r"\^([-−]?)(\d+(?:\.\d+)?|[a-z]+)", power, escape(text))


def table(head: Iterable[str], rows: list[list[str]], left: int = 1, kind: str = "") -> str:
    """A table that scrolls sideways on a narrow page. Cells are HTML already; the first `left` columns are text."""

    def line(cells: Iterable[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}{' class=t' * (i < left)}>{c}</{tag}>" for i, c in enumerate(cells)) + "</tr>"

    body = "".join(line(row, "td") for row in rows)
    start = f'<div class="wide {kind}" tabindex="0"><table><thead>{line(map(escape, head), "th")}</thead>'
    return f"{start}<tbody>{body}</tbody></table></div>" * bool(rows)


def mark(word: str) -> str:  # A status or a severity, in the colour that style.css gives it.
    return f'<span class="{escape(word)}">{escape(word)}</span>'
