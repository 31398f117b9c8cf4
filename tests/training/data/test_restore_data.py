"""The lines to restore: readers, rules for lines, splits and the whole builder, on samples made here (no network)."""

import gettext
import gzip
import io
import json

import pytest

pytest.importorskip("datasets")

from datasets import load_from_disk  # noqa: E402
from fblt.training.data import folder  # noqa: E402
from fblt.training.data.packages import Package, PackageError  # noqa: E402
from fblt.training.data.restore import build  # noqa: E402
from fblt.training.data.restore.catalogs import translations  # noqa: E402
from fblt.training.data.restore.languages import BY_NAME, LANGUAGES, is_native, language_of  # noqa: E402
from fblt.training.data.restore.lines import LARGEST, SMALLEST, is_usable, lines_of, near_key  # noqa: E402
from fblt.training.data.restore.markup import blocks_of_markup  # noqa: E402
from fblt.training.data.restore.roff import paragraphs_of_man  # noqa: E402
from fblt.training.data.restore.sources import LineSource, document_name, read_catalog, read_manual, read_page  # noqa: E402
from fblt.training.data.restore.splits import SPLITS, Limits, Line, assign, split_of  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from tests.cli import refusal  # noqa: E402
from tests.training.data.catalogs import make_catalog  # noqa: E402

FRENCH, ROMANIAN = BY_NAME["fr"], BY_NAME["ro"]


# --- readers ---


@pytest.mark.parametrize("order", "<>")
def test_translations_of_a_catalogue(order):
    data = make_catalog(
        {"": "Content-Type: text/plain; charset=UTF-8\n", "cat": "chat", "menu\x04Open": "Ouvrir", "same": "same"},
        order,
    )
    assert gettext.GNUTranslations(io.BytesIO(data)).gettext("cat") == "chat"
    assert list(translations(data)) == ["chat", "Ouvrir"]


def test_plural_forms_are_texts_of_their_own():
    data = make_catalog({"a file\0files": "un fichier\0des fichiers"})
    assert list(translations(data)) == ["un fichier", "des fichiers"]


def test_what_is_no_catalogue_is_refused():
    with pytest.raises(ValueError, match="message catalogue"):
        list(translations(b"PK\x03\x04 something else altogether"))


def test_blocks_of_a_page():
    page = """<html><head><title>Titre</title></head><body><!-- <p>rien</p> -->
    <h1>Première&nbsp;partie</h1><p>Un <b>mot</b> et un<a href="x"> lien</a>.</p><pre>$ ls -l</pre>
    <ul><li>l&#8217;une</li><li>tapez <code>ls</code> ici</li></ul><script>if (a < b) {}</script></body></html>"""
    assert list(blocks_of_markup(page)) == ["Première\xa0partie", "Un mot et un lien.", "l’une"]


def test_paragraphs_of_a_manual():
    page = r""".\" a comment
.TH LS 1 "2022" "GNU" "Commandes"
.SH NOM
ls \- Afficher le contenu de
.B répertoires
.PP
Sans \fIOPTION\fP, l'ordre est
.BR alphabétique ,
comme l\(cqindique \*(lqsort\*(rq.
.TP
\fB\-a\fP, \fB\-\-all\fP
inclure les entrées d\[cq]un \e
.nf
du code
.fi
.TS
tableau
.TE
suite \[u00E9]t\['e] fin\" rien
"""
    # A string that only the formatter knows (\*(lq) leaves a NUL, which no line may have.
    assert list(paragraphs_of_man(page)) == [
        "ls - Afficher le contenu de répertoires",
        "Sans OPTION, l'ordre est alphabétique, comme l’indique \0sort\0.",
        "inclure les entrées d’un \\",
        "suite été fin".replace("t\u00e9 ", "te\u0301 "),
    ]


def test_pages_in_other_macros_are_left_out():
    assert list(paragraphs_of_man(".Dd 2020\n.Sh NOM\n.Nm ls\n.Nd afficher\n")) == []


# --- lines ---


def test_languages_of_paths():
    for path, code in (
        ("usr/share/man/pt_BR/man1/ls.1.gz", "pt"),
        ("usr/share/doc/debian-handbook/html/fr-FR/apt.html", "fr"),
        ("usr/share/debian-reference/ch07.es.html", "es"),
        ("usr/share/locale/ro/LC_MESSAGES/git.mo", "ro"),
    ):
        assert language_of(path).code == code
    assert language_of("usr/share/man/man1/ls.1.gz") is None
    assert language_of("usr/share/locale/pt/LC_MESSAGES/git.mo") is None  # Portugal's spelling is another


def test_translations_of_a_document_have_one_name():
    names = {
        document_name(f"usr/share/doc/book/{name}/ch1.{name}.html", language)
        for language in LANGUAGES
        for name in language.names
    }
    assert names == {"usr/share/doc/book/*/ch1.*.html"}


def test_english_lines_are_told():
    assert is_native("Affiche la liste des fichiers du dossier", FRENCH)
    assert not is_native("Show the list of files in this folder", FRENCH)
    assert not is_native("Show the liste of files in this dossier, é", FRENCH)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=400))
def test_whatever_comes_out_is_usable(text):
    for line in lines_of(text + " les fichiers de la liste.", FRENCH):
        assert SMALLEST <= len(line.encode()) <= LARGEST
        assert "\n" not in line and line == line.strip() and is_usable(line, FRENCH)


def test_long_blocks_are_cut_into_sentences():
    sentences = [f"Les fichiers sont dans la liste du dossier numéro {word}." for word in "un deux trois".split()]
    assert list(lines_of(" ".join(sentences), FRENCH)) == [" ".join(sentences)]
    sentences += ["Écrire dans le fichier n'est pas permis ici!", "«Oui», dit-il à une amie de la maison."]
    assert list(lines_of(" ".join(sentences), FRENCH)) == sentences


def test_lines_that_are_no_plain_text_are_left_out():
    for line in (
        "la liste",
        "la valeur %s de la variable",
        "le <b>dossier</b> de la liste",
        "les 0123 4567 8901 2345 6789",
        "le мир est dans la liste",
    ):
        assert list(lines_of(line, FRENCH)) == []


def test_romanian_has_commas():
    assert list(lines_of("Fişierul este în aceeaşi listă şi nu aţi salvat", ROMANIAN)) == [
        "Fișierul este în aceeași listă și nu ați salvat"
    ]


# --- splits ---


def line(text: str, document: str = "a", source: str = "docs", language: str = "fr") -> Line:
    return Line(source, document, language, "GPL", text)


def test_near_duplicates_have_one_key():
    assert near_key("Ouvrez l’étape n° 3.") == near_key("ouvrez  l'etape n° 12 !")
    assert near_key("Ouvrez la porte") != near_key("Ouvrez les portes")


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["docs", "tales"]), st.text("eé 1.E", max_size=3)))
)
def test_no_two_lines_are_equal_after_normalisation(drawn):
    lines = [line(f"Ligne {text}", document, source) for document, source, text in drawn]
    limits = Limits(validation=3, test=3, test_prose=3, held_out=0.3)
    splits = assign(lines, frozenset({"tales"}), limits, seed=0)
    assert list(splits) == list(SPLITS)
    kept = [found for own in splits.values() for found in own]
    keys = [near_key(found.text) for found in kept]
    assert len(keys) == len(set(keys))
    documents = {split: {(found.source, found.document) for found in own} for split, own in splits.items()}
    for split, own in documents.items():
        for other, others in documents.items():
            assert split == other or not own & others


def test_a_document_is_held_out_in_all_its_languages():
    limits = Limits(held_out=0.4)
    for document in "abcdefghij":
        found = {split_of(line("x", document, language=code), frozenset(), limits, 0) for code in ("fr", "de", "vi")}
        assert len(found) == 1


def test_limits_are_kept_by_language():
    words = [f"{a}{b} mot" for a in "abcdefghij" for b in "klmnopqrst"]
    lines = [line(f"{word} {code}", word, language=code) for word in words for code in ("fr", "de")]
    limits = Limits(train_bytes=200, validation=2, test=5, held_out=0.3)
    splits = assign(lines, frozenset(), limits, seed=0)
    for code in ("fr", "de"):
        own = {split: [found for found in kept if found.language == code] for split, kept in splits.items()}
        assert len(own["test"]) == 5 and len(own["validation"]) == 2
        assert 200 <= sum(len(found.text.encode()) for found in own["train"]) < 220


# --- the builder ---


WORDS = "un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize vingt trente".split()


def make_package(folder, name: str) -> None:
    """What unpacking a package leaves: manuals, a page of help and a catalogue of tales."""
    files = {
        f"usr/share/doc/{name}/copyright": b"notice",
        "usr/share/locale/fr/LC_MESSAGES/p.mo": make_catalog({"a": "Je suis une fée de la forêt"}),
        "usr/share/help/fr/a.page": b"<page><p>Le dossier est dans la liste des dossiers.</p></page>",
        "usr/share/man/de/man1/un.1.gz": gzip.compress(b".SH X\nDie Dateien sind nicht auf der Liste."),
    }
    for word in WORDS:
        page = f".SH NOM\nLes fichiers de la liste {word} du dossier."
        files[f"usr/share/man/fr/man1/{word}.1.gz"] = gzip.compress(page.encode())
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


@pytest.fixture
def sources(monkeypatch):
    """A builder with three sources, whose packages need no files."""
    found = (
        LineSource("manpages", ("man-{}",), "GPL", "pages", r"man/.*\.gz$", read_manual, tags="fr de"),
        LineSource("help", ("help",), "GPL", "help", r"\.page$", read_page),
        LineSource("tales", ("tales",), "GPL", "tales", r"\.mo$", read_catalog, prose=True),
    )
    monkeypatch.setattr(build, "SOURCES", found)
    monkeypatch.setattr(build, "unpack", lambda package, folder: make_package(folder, package.name))
    monkeypatch.setattr(build, "read_package", lambda name, folder: Package(name, "1", "0" * 64, folder / name))
    monkeypatch.setattr(folder, "missing_packages", lambda names, folder: [])
    monkeypatch.setattr(folder, "check_tools", lambda download: None)


def test_the_builder_writes_lines_manifest_and_notices(tmp_path, sources):
    output = tmp_path / "restore"
    limits = Limits(held_out=0.3)
    build.prepare(output, tmp_path, False, limits, seed=0, overwrite=False)
    data = load_from_disk(str(output))
    assert set(data) == set(SPLITS)
    rows = [row for split in data.values() for row in split]
    assert {row["text"] for row in rows} == {
        *(f"Les fichiers de la liste {word} du dossier." for word in WORDS),
        "Die Dateien sind nicht auf der Liste.",
        "Je suis une fée de la forêt",
        "Le dossier est dans la liste des dossiers.",
    }
    assert len(rows) == len(WORDS) + 3
    assert [row["text"] for row in data["test_prose"]] == ["Je suis une fée de la forêt"]
    assert set(data["train"].column_names) == {"source", "group", "language", "license", "split", "text"}
    manifest = json.loads((output / "manifest.json").read_text())
    names = ["man-fr", "man-de", "help", "tales"]
    assert [p["name"] for source in manifest["sources"] for p in source["packages"]] == names
    assert sorted(file.stem for file in (output / "licenses").iterdir()) == sorted(names)
    with pytest.raises(ValueError, match="exists already"):
        build.prepare(output, tmp_path, False, limits, seed=0, overwrite=False)


def test_packages_without_enough_lines_are_refused(tmp_path, sources):
    output = tmp_path / "restore"
    with pytest.raises(PackageError, match="hold no lines for validation, test"):
        build.prepare(output, tmp_path, False, Limits(held_out=0.0), seed=0, overwrite=False)
    assert not output.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "-1"], "--seed -1"),
        (["--train-bytes", "0"], "--train-bytes 0"),
        (["--packages", "nowhere"], "--packages nowhere: no such folder"),
    ],
)
def test_bad_arguments_are_named(tmp_path, arguments, message):
    assert message in refusal(build.main, "--output", tmp_path / "out", *arguments)
