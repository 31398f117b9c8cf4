# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The table that validation prints."""

from dataclasses import dataclass, field


@dataclass
class Line:
    """One check: what was compared, what came out, and whether it passed (None: nothing to compare)."""

    check: str
    result: str
    passed: bool | None


@dataclass
class Report:
    lines: list[Line] = field(default_factory=list)

    def add(self, check: str, result: str, passed: bool | None) -> None:
        self.lines.append(Line(check, result, passed))

    @property
    def passed(self) -> bool:
        return all(line.passed is not False for line in self.lines)

    def table(self) -> str:
        words = {True: "pass", False: "FAIL", None: "-"}
        rows = [("check", "result", "")] + [(line.check, line.result, words[line.passed]) for line in self.lines]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
