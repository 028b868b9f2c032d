"""A page with every figure of an evaluation, in one file that needs no network."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from string import Template
from typing import Any

__all__ = ["report_html"]

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>flowercnn: evaluation</title>
<style>
:root { color-scheme: light dark; font-family: system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; line-height: 1.5; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; }
.headline { font-size: 2rem; font-weight: 600; }
</style>
</head>
<body>
<main>
<h1>Evaluation</h1>
<p class="headline">$accuracy</p>
<p>95&nbsp;% interval (Wilson) $low to $high, on $samples pictures of $classes classes. $skipped</p>
<h2>Classes</h2>
<div class="scroll"><table>
<thead><tr><th scope="col">class</th><th scope="col">precision</th><th scope="col">recall</th>
<th scope="col">95&nbsp;% interval of recall</th><th scope="col">F1</th><th scope="col">pictures</th></tr></thead>
<tbody>
$rows
</tbody></table></div>
<h2>Confusion matrix</h2>
<p>Rows are true, columns predicted.</p>
<div class="scroll"><table>
<thead><tr><th></th>$columns</tr></thead>
<tbody>
$matrix
</tbody></table></div>
</main>
</body>
</html>
""")


def report_html(figures: Mapping[str, Any]) -> str:
    """Return the page for ``Evaluation.to_dict()``; names are escaped, so they are text whatever they hold."""
    low, high = figures["accuracy_interval"]
    skipped = len(figures["skipped"])
    return _PAGE.substitute(
        accuracy=f"{figures['accuracy']:.1%} correct",
        low=f"{low:.1%}",
        high=f"{high:.1%}",
        samples=figures["samples"],
        classes=len(figures["class_names"]),
        skipped=f"{skipped} pictures could not be decoded and are not counted." if skipped else "",
        rows="\n".join(_class_row(each) for each in figures["per_class"]),
        columns="".join(f'<th scope="col">{escape(name)}</th>' for name in figures["class_names"]),
        matrix="\n".join(
            f'<tr><th scope="row">{escape(name)}</th>' + "".join(f"<td>{count or ''}</td>" for count in row) + "</tr>"
            for name, row in zip(figures["class_names"], figures["confusion_matrix"], strict=True)
        ),
    )


def _class_row(each: Mapping[str, Any]) -> str:
    low, high = each["recall_interval"]
    cells = [
        f"{each['precision']:.1%}",
        f"{each['recall']:.1%}",
        f"{low:.0%} to {high:.0%}",
        f"{each['f1']:.1%}",
        str(each["support"]),
    ]
    return (
        f'<tr><th scope="row">{escape(each["class_name"])}</th>' + "".join(f"<td>{c}</td>" for c in cells) + "</tr>"
    )
