"""What the preparation of data sets found: problems with advice, counts beside the published ones, verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tabulate import tabulate

OK, WARNING, UNUSABLE, MISSING = "ok", "warning", "unusable", "missing"
MAX_FILES = 1000  # of one problem, in the JSON report


@dataclass(frozen=True)
class Problem:
    """One damage: its kind (a fixed phrase, for scripts), one line that says what was found and what to do.

    Attributes:
        fatal: the set cannot be used as it is.
        files: the files concerned, where there can be many.
    """

    kind: str
    message: str
    fatal: bool = True
    files: tuple[str, ...] = ()


@dataclass
class Report:
    """All that is known of one data set. counts and published have the same keys, such as images and people."""

    name: str
    folder: str
    expected: str
    published: dict[str, int]
    present: bool = True
    images: int = 0
    identities: int = 0
    cameras: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def usable(self) -> bool:
        """Whether the set is there and nothing keeps it from being used."""
        return self.present and not any(problem.fatal for problem in self.problems)

    @property
    def verdict(self) -> str:
        """ok, warning (usable, but not quite what was published), unusable or missing."""
        if not self.present:
            return MISSING
        if not self.usable:
            return UNUSABLE
        return WARNING if self.problems else OK

    def as_json(self) -> dict[str, Any]:
        """The report as plain values."""
        problems = [
            {
                "kind": problem.kind,
                "message": problem.message,
                "fatal": problem.fatal,
                "files": list(problem.files[:MAX_FILES]),
            }
            for problem in self.problems
        ]
        return {
            "verdict": self.verdict,
            "usable": self.usable,
            "folder": self.folder,
            "images": self.images,
            "identities": self.identities,
            "cameras": self.cameras,
            "counts": self.counts,
            "published": self.published,
            "made": self.made,
            "problems": problems,
        }


def all_usable(reports: Sequence[Report]) -> bool:
    """Whether of sets that were asked for together at least one is there, and all that are there can be used."""
    present = [report for report in reports if report.present]
    return bool(present) and all(report.usable for report in present)


def summary_table(reports: Iterable[Report]) -> str:
    """Text table: what there is of each set, what was published, and the verdict."""
    rows = [
        (
            report.name,
            *(
                f"{number:,}" if report.present else "-"
                for number in (report.images, report.identities, report.cameras)
            ),
            report.expected,
            report.verdict,
        )
        for report in reports
    ]
    headers = ("set", "images", "identities", "cameras", "expected", "verdict")
    return tabulate(
        rows,
        headers,
        tablefmt="simple",
        colalign=("left", "right", "right", "right", "left", "left"),
        disable_numparse=True,
    )


def problem_sheet(reports: Iterable[Report]) -> str:
    """One line for each thing that was made and for each damage, with what to do about it."""
    lines = []
    for report in reports:
        lines += [f"{report.name}: made {made}" for made in report.made]
        lines += [
            f"{report.name}: {'' if problem.fatal else 'note: '}{problem.kind}: {problem.message}"
            for problem in report.problems
        ]
    return "\n".join(lines)
