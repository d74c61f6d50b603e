"""The documents: links, paths, sizes, plain words, and a place for every option."""

import fnmatch
import re
from pathlib import Path

import pytest

from fastreid.config import get_cfg
from fastreid.config.config import leaves

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    path
    for pattern in ("README.md", "*/README.md", "configs/*/README.md", "tools/*/README.md")
    for path in sorted(ROOT.glob(pattern))
    if not path.relative_to(ROOT).parts[0].startswith(".")
]
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
PATHS = [
    f"/{path.relative_to(ROOT)}"
    for folder in ("configs", "demo", "fastreid", "tests", "tools")
    for path in (ROOT / folder).rglob("*")
] + [f"/{path.name}" for path in ROOT.iterdir()]
MOST_BYTES = 12 * 1024  # of the first page

# Rare idioms, and words that a reader may take in another sense; with what the word is about where it is fine
# otherwise.
RARE = (
    "anew",
    "but for",
    "for want of",
    "befell",
    "befall",
    "is had from",
    "to be had",
    "all but",
    "at hand",
    "of moods",
    "have moods",
    "in the place of",
    "to the bit",
    "nought",
    "hence",
    "thereof",
    "whereof",
    "wherein",
    "herein",
    "lest",
    "in lieu",
    "of late",
    "as it were",
    "so far as",
    "insofar",
    "passed over",
    "dealt out",
    "took the place",
)
# Generated people are synthetic, and choices by chance are random; what is drawn is a picture.
DRAWN = (
    r"drawn (?:people|person|identit|domain|data|set|source|target|crop|image|one)"
    r"|splits? (?:of our own )?(?:are|is) drawn|draws? data"
)

# Where what is named is not in the project: users put it there, or programs write it.
MADE = (
    "logs/",
    "datasets/",
    "pretrained/",
    "analysis/",
    "features/",
    "per_query/",
    "found/",
    "path/to/",
    "/path/to/",
    "cuhk",
    "CUHK-SYSU/",
    "Market-1501",
    "DukeMTMC",
    "GRID/",
    "prid_2011/",
    "QMUL-iLIDS/",
    "viper/",
    "MSMT17",
    "pku/",
    "<name>/",
    "<row>/",
    "train/",
    "/train",
    ".venv",
    "../MetaBIN",
    "layer",
    "base/",
    "mtrain/",
    "mtest/",
    "station/",
    "configs/Table/NAME.yml",
)


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def without_blocks(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.M | re.S)


def anchors(path: Path) -> set[str]:
    """What can stand after # in a link to the document, by GitHub's rule."""
    titles = re.findall(r"^#+ (.+)$", without_blocks(text_of(path)), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_all_documents_are_looked_at():
    assert {
        "README.md",
        "configs/README.md",
        "configs/Table/README.md",
        "datasets/README.md",
        "demo/README.md",
        "fastreid/README.md",
        "tests/README.md",
        "tools/README.md",
        "tools/benchmark/README.md",
    } <= set(NAMES)


def test_the_first_page_is_short():
    assert (ROOT / "README.md").stat().st_size <= MOST_BYTES


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_links_lead_somewhere(path):
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_blocks(text_of(path))):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        target = target / "README.md" if target.is_dir() and anchor else target
        if not target.exists() or anchor and anchor not in anchors(target):
            broken.append(link)
    assert not broken


def test_every_document_is_linked_from_the_first_page():
    links = re.findall(r"\]\(([^)#\s]+)", text_of(ROOT / "README.md"))
    assert set(NAMES) - set(links) <= {"README.md", "logs/README.md", "pretrained/README.md"}


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_files_that_are_named_exist(path):
    """A path in code marks, `tools/report.py`, is there, whole or as the end of another one."""
    text = text_of(path)
    words = re.findall(r"`([^`\n]+)`", without_blocks(text)) + re.findall(r"(?:python3|sh|bash) ([\w./-]+)", text)
    missing = []
    for word in {part for name in words for part in name.split()}:
        word = word.split("::")[0].removeprefix("./").removeprefix("../").strip("'\"(),").rstrip("/")
        is_path = re.fullmatch(r"[\w.<>{}*,-]+(/[\w.<>{}*,-]+)+", word) or re.fullmatch(
            r"[\w-]+\.(py|sh|yml|pyx)", word
        )
        if is_path and not word.startswith(MADE):
            patterns = [re.sub(r"<\w+>", "*", one) for one in braces(word)]
            missing += [one for one in patterns if not fnmatch.filter(PATHS, f"*/{one}")]
    assert not missing


def braces(word: str) -> list[str]:
    """`a{b,c}` -> ab, ac, as a shell does."""
    match = re.search(r"\{([^{}]*)\}", word)
    if match is None:
        return [word]
    return [done for part in match[1].split(",") for done in braces(word[: match.start()] + part + word[match.end() :])]


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_words_are_plain(path):
    text = " ".join(text_of(path).split())
    rare = [word for word in RARE if re.search(rf"\b{word}\b", text, re.I)]
    assert not rare and not re.findall(DRAWN, text, re.I)


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_numbers_of_an_earlier_demo_are_called_so(path):
    if "synthetic-mobilenet" in text_of(path):
        assert re.search(r"earlier\s+demo|of random weights|from\s+random weights", text_of(path))


def test_every_option_has_a_document_or_a_comment():
    """Options are found by their full names in a document, or have a comment beside or above them in defaults.py."""
    documents = "\n".join(map(text_of, DOCUMENTS))
    lines = text_of(ROOT / "fastreid" / "config" / "defaults.py").splitlines()
    without = []
    for name, _ in leaves(get_cfg()):
        if re.search(rf"\b{re.escape(name)}\b", documents):
            continue
        places = [i for i, line in enumerate(lines) if re.match(rf"\s*_C\.{re.escape(name)} =", line)]
        places = places or [i for i, line in enumerate(lines) if re.match(rf"\s*node\.{name.split('.')[-1]} =", line)]
        if not any("  # " in lines[i] or lines[i - 1].lstrip().startswith("# ") for i in places):
            without.append(name)
    assert not without
